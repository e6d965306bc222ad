//! `agent token create | ls | revoke | rotate`: asks the running agent of this machine.

use clap::{Args, Subcommand};
use kawanan_api::client::{Client, ClientError, Host};
use kawanan_api::duration::Span;
use kawanan_api::views::{CreateToken, CreatedToken, TokenView};

use super::{Failure, RunDir, client_runtime};
use kawanan_logic::join_token::JoinToken;

#[derive(Debug, Args)]
pub(super) struct TokenCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a command that lets machines join
    Create {
        #[command(flatten)]
        wish: Wish,
        /// Print the bare token only
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        at: RunDir,
    },
    /// List tokens; their secrets are not kept
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        at: RunDir,
    },
    /// Make a token worthless at once
    #[command(visible_alias = "rm")]
    Revoke {
        /// The token, its id, or the beginning of its id
        token: String,
        #[command(flatten)]
        at: RunDir,
    },
    /// Replace a token, or all of them, by a new one
    Rotate {
        /// The token to replace [default: all]
        token: Option<String>,
        /// Print the bare token only
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        at: RunDir,
    },
}

/// What a new token allows.
#[derive(Debug, Clone, Args)]
pub(super) struct Wish {
    /// Time until the token expires; 0 for never
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    expires: Span,
    /// How many machines may join with it [default: no limit]
    #[arg(long, value_name = "N")]
    uses: Option<u32>,
    /// A note for the list
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            expires: Span::from_secs(24 * 3600),
            uses: None,
            note: String::new(),
        }
    }
}

/// A client for the agent of this machine.
pub(super) fn local_client(at: &RunDir) -> Client {
    Client::new(vec![Host::Unix(at.run_dir.join("api.sock"))])
}

/// Makes a token.
pub(super) async fn create(client: &Client, wish: &Wish) -> Result<CreatedToken, Failure> {
    let expires_in = (wish.expires.millis() > 0).then_some(wish.expires);
    let wanted = CreateToken {
        expires_in,
        uses: wish.uses,
        note: wish.note.clone(),
    };
    Ok(client.create_token(&wanted).await?)
}

impl TokenCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        client_runtime()?.block_on(async {
            match self.verb {
                Verb::Create { wish, quiet, at } => {
                    print_created(&create(&local_client(&at), &wish).await?, quiet)
                }
                Verb::Ls { at } => print_list(&local_client(&at).tokens().await?),
                Verb::Revoke { token, at } => {
                    let written = local_client(&at).revoke_token(&id_of(token)).await?;
                    println!(
                        "{} is revoked: no machine can join with it any more.",
                        written.id
                    );
                }
                Verb::Rotate { token, quiet, at } => {
                    let created = local_client(&at)
                        .rotate_token(token.map(id_of).as_deref())
                        .await?;
                    if !quiet {
                        println!("{} earlier tokens are revoked.", created.revoked.len());
                    }
                    print_created(&created, quiet);
                }
            }
            Ok(())
        })
    }
}

/// What was pasted may be the whole token; its id is what the cluster knows it by.
fn id_of(text: String) -> String {
    match text.parse::<JoinToken>() {
        Ok(token) => token.token.to_string(),
        Err(_) => text,
    }
}

fn print_created(created: &CreatedToken, quiet: bool) {
    if quiet {
        println!("{}", created.join_token);
        return;
    }
    let uses = created
        .token
        .uses_left
        .map(|uses| format!(", for {uses} machines"))
        .unwrap_or_default();
    match created.token.expires_at {
        Some(at) => println!("On each machine that is to join (until {at}{uses}):"),
        None => println!("On each machine that is to join (the token does not expire{uses}):"),
    }
    println!();
    println!("    agent join {}", created.join_token);
}

fn print_list(tokens: &[TokenView]) {
    println!(
        "{:<25}  {:<7}  {:<24}  {:<9}  {:<4}  NOTE",
        "ID", "STATE", "EXPIRES", "USES LEFT", "USED"
    );
    for token in tokens {
        let state = match (token.valid, token.revoked_at) {
            (true, _) => "valid",
            (false, Some(_)) => "revoked",
            (false, None) if token.uses_left == Some(0) => "used up",
            (false, None) => "expired",
        };
        let expires = token
            .expires_at
            .map_or_else(|| "never".to_owned(), |at| at.to_string());
        let uses = token
            .uses_left
            .map_or_else(|| "no limit".to_owned(), |uses| uses.to_string());
        println!(
            "{:<25}  {state:<7}  {expires:<24}  {uses:<9}  {:<4}  {}",
            token.id, token.used, token.note
        );
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.to_string());
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}
