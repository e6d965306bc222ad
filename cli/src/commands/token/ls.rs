//! `kawan token ls`.

use clap::Args;
use kawanan_api::Timestamp;
use kawanan_api::views::TokenView;

use crate::connect::Context;
use crate::failure::Failure;
use crate::print::table::{Cell, Table, Tone};
use crate::print::{self, age};

#[derive(Debug, Args)]
pub struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let tokens = context.client.tokens().await?;
        if context.wants_json() {
            return print::json(&tokens);
        }
        let id = |token: &TokenView| {
            if self.no_trunc {
                token.id.to_string()
            } else {
                token.id.short()
            }
        };
        if self.quiet {
            return tokens.iter().try_for_each(|token| print::line(&id(token)));
        }
        let mut table = Table::new(&[
            "ID",
            "STATE",
            "EXPIRES",
            "USES LEFT",
            "USED",
            "CREATED",
            "NOTE",
        ])
        .flexible("NOTE");
        for token in &tokens {
            table.row(vec![
                id(token).into(),
                state(token, context.now),
                token
                    .expires_at
                    .map_or_else(|| "never".to_owned(), |at| age::until(at, context.now))
                    .into(),
                token
                    .uses_left
                    .map_or_else(|| "any".to_owned(), |uses| uses.to_string())
                    .into(),
                token.used.to_string().into(),
                age::ago(token.created_at, context.now).into(),
                token.note.as_str().into(),
            ]);
        }
        table.print(context.style)
    }
}

fn state(token: &TokenView, now: Timestamp) -> Cell {
    if token.valid {
        return Cell::toned("Valid", Tone::Good);
    }
    let word = if token.revoked_at.is_some() {
        "Revoked"
    } else if token.expires_at.is_some_and(|at| at <= now) {
        "Expired"
    } else {
        "Used up"
    };
    Cell::toned(word, Tone::Faint)
}
