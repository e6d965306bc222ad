//! `kawan token create`.

use clap::Args;
use kawanan_api::duration::Span;
use kawanan_api::views::{CreateToken, CreatedToken};

use crate::connect::Context;
use crate::failure::Failure;
use crate::print::{self, age};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kawan token create --expires 1h --uses 2\n  \
    ssh root@n4 agent join $(kawan token create -q)")]
pub struct Create {
    /// How long it is good, such as 1h; 0 or `never` for no end
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = expiry)]
    expires: Expiry,
    /// How many machines may join with it; no limit if left out
    #[arg(long, value_name = "NUMBER")]
    uses: Option<u32>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Print the token only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy)]
struct Expiry(Option<Span>);

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" || text == "0" {
        return Ok(Expiry(None));
    }
    text.parse()
        .map(|span| Expiry(Some(span)))
        .map_err(|_| format!("`{text}` is neither a length of time, such as 1h, nor `never`"))
}

impl Create {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let wanted = CreateToken {
            expires_in: self.expires.0,
            uses: self.uses,
            note: self.note,
        };
        let created = context.client.create_token(&wanted).await?;
        show(&context, &created, self.quiet)
    }
}

/// The token on standard output, what to do with it beside it.
pub fn show(context: &Context, created: &CreatedToken, quiet: bool) -> Result<(), Failure> {
    if context.wants_json() {
        return print::json(created);
    }
    if quiet {
        return print::line(&created.join_token);
    }
    let token = &created.token;
    let end = match token.expires_at {
        Some(at) => format!("It expires {}", age::until(at, context.now)),
        None => "It does not expire".to_owned(),
    };
    let uses = match token.uses_left {
        Some(1) => ", after one join".to_owned(),
        Some(uses) => format!(", or after {uses} joins"),
        None => String::new(),
    };
    eprintln!("Run this on each machine that shall join:");
    print::line(&format!("agent join {}", created.join_token))?;
    eprintln!(
        "{end}{uses}. `kawan token revoke {}` ends it before.",
        token.id.short()
    );
    Ok(())
}
