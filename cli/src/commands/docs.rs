//! `kawan docs`: the reference in `docs/reference/kawan.md`, written from the flags themselves.

use clap::{Arg, Args, Command, CommandFactory};

use crate::failure::Failure;
use crate::flags::Cli;
use crate::print;

#[derive(Debug, Args)]
pub struct Docs {}

impl Docs {
    pub fn run(self) -> Result<(), Failure> {
        print::line(reference().trim_end())
    }
}

fn reference() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = String::from(
        "# kawan\n\n<!-- Written by `kawan docs`. Change the flags in `cli/src`, then run \
         `cargo run -p kawan -- docs > docs/reference/kawan.md`. -->\n",
    );
    describe(&command, &mut text);
    text.push_str("\n## Flags of every command\n\n");
    let globals: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .collect();
    options(&globals, &mut text);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        chapter(sub, "kawan", &mut text);
    }
    text
}

fn chapter(command: &Command, parent: &str, text: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    text.push_str(&format!("\n## {name}\n"));
    describe(command, text);
    let own = |arg: &&Arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help";
    let positionals: Vec<&Arg> = command
        .get_positionals()
        .filter(own)
        .filter(|arg| arg.get_help().is_some())
        .collect();
    let flags: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && own(arg))
        .collect();
    if !positionals.is_empty() || !flags.is_empty() {
        text.push('\n');
    }
    options(&positionals, text);
    options(&flags, text);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        chapter(sub, &name, text);
    }
}

fn describe(command: &Command, text: &mut String) {
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        text.push_str(&format!("\n{about}\n"));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    text.push_str(&format!("\n```\n{usage}\n```\n"));
    let aliases: Vec<&str> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        text.push_str(&format!("\nAlso: `{}`\n", aliases.join("`, `")));
    }
    if let Some(after) = command.get_after_help() {
        text.push_str(&format!("\n```\n{}\n```\n", after.to_string().trim_end()));
    }
}

fn options(args: &[&Arg], text: &mut String) {
    for arg in args {
        let help = arg.get_long_help().or_else(|| arg.get_help());
        let help = help
            .map(|help| help.to_string().replace("\n\n", ". ").replace('\n', " "))
            .unwrap_or_default();
        text.push_str(&format!("- `{}`: {help}", spelled(arg)));
        let values: Vec<String> = (arg.get_possible_values().iter())
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() && arg.get_action().takes_values() && !is_switch(arg) {
            text.push_str(&format!(" ({})", values.join(", ")));
        }
        let defaults: Vec<String> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            text.push_str(&format!("; default `{}`", defaults.join(" ")));
        }
        if let Some(variable) = arg.get_env() {
            text.push_str(&format!("; variable `{}`", variable.to_string_lossy()));
        }
        text.push('\n');
    }
}

/// A flag that may be given alone or as `--flag=false`.
fn is_switch(arg: &Arg) -> bool {
    let values: Vec<_> = arg.get_possible_values();
    values.len() == 2 && values[0].get_name() == "true"
}

fn spelled(arg: &Arg) -> String {
    let names: Vec<String> = (arg.get_value_names().unwrap_or_default().iter())
        .map(ToString::to_string)
        .collect();
    if arg.is_positional() {
        return names.join(" ");
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let mut text: String = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() && !is_switch(arg) {
        text.push(' ');
        text.push_str(&names.join(" "));
    }
    text
}
