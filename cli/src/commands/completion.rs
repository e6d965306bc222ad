//! `kawan completion`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::flags::Cli;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kawan completion bash | sudo tee /etc/bash_completion.d/kawan\n  \
    kawan completion zsh > ~/.zfunc/_kawan")]
pub struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kawan", &mut script);
        std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
        Ok(())
    }
}
