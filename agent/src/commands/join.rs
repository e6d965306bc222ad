//! `agent join TOKEN`: enters a cluster.

use std::sync::Arc;

use clap::Args;
use kawanan_api::RaftId;
use kawanan_logic::join_token::JoinToken;
use rand::Rng;

use super::{Failure, client_runtime, run, systemd};
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::data_dir::EntryRecord;
use crate::facts::facts;
use crate::identity::join::{Application, JoinError, JoinRequest, TokenSecret, Welcome, join};
use crate::identity::{Identity, IdentityStore};

/// Enter a cluster with a join token.
///
/// The token comes from `agent init` or `agent token create` on a member. With the systemd unit installed it starts
/// the service and returns when this node is ready; otherwise it stays in the foreground.
#[derive(Debug, Args)]
pub(super) struct Join {
    /// The join token; `-` reads it from standard input
    #[arg(env = "AGENT_TOKEN", hide_env_values = true)]
    token: String,
    #[command(flatten)]
    settings: Settings,
    /// Stay in the foreground even where the systemd unit is installed
    #[arg(long)]
    foreground: bool,
}

impl Join {
    pub(super) fn run(self) -> Result<(), Failure> {
        run::refuse_second_membership(&self.settings)?;
        let token = read_token(&self.token)?;
        let name = self.settings.node_name()?;
        let labels = self.settings.node_labels()?;
        let advertised = self.settings.advertised()?;
        run::prepare_directories(&self.settings)?;
        let engine = run::require_engine(&self.settings)?;
        run::require_free_port(&self.settings)?;

        let failed =
            |err: &dyn std::fmt::Display| Failure::new(format!("this machine did not join: {err}"));
        let store = IdentityStore::in_data_directory(&self.settings.data_dir);
        let key = store.key().map_err(|err| failed(&err))?;
        let raft = RaftId(rand::rng().random_range(1..=u64::MAX));
        let request = JoinRequest::Join(Box::new(Application {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token: token.token,
            secret: TokenSecret(token.secret),
            signing_request: key.signing_request().map_err(|err| failed(&err))?,
            raft_id: raft,
            name: name.clone(),
            labels,
            facts: facts(advertised, Some(&engine)),
        }));
        let welcome = client_runtime()?
            .block_on(join(
                token.seeds(),
                token.authority_digest,
                &request,
                Arc::new(SystemClock),
            ))
            .map_err(|err| join_failure(&err))?;
        let Welcome {
            certificate,
            authorities,
            cluster,
            node,
            members,
        } = welcome;
        let entry = EntryRecord {
            members,
            settings: self.settings.kept(),
            ..EntryRecord::default()
        };
        entry
            .save(&self.settings.data_dir)
            .map_err(|err| failed(&err))?;
        let identity = Identity {
            cluster,
            node,
            raft,
            name,
            key,
            chain: vec![certificate],
            authorities,
        };
        store.save(&identity).map_err(|err| failed(&err))?;

        if systemd::takes_over(&self.settings) && !self.foreground {
            systemd::start()?;
            return run::announce_member(&self.settings);
        }
        run::in_foreground(self.settings, run::Announce::Joined)
    }
}

fn join_failure(err: &JoinError) -> Failure {
    match err {
        JoinError::Refused(refusal) => Failure::from(refusal.clone()),
        other => Failure::new(format!("this machine did not join: {other}")),
    }
}

fn read_token(given: &str) -> Result<JoinToken, Failure> {
    let text = if given == "-" {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|err| {
            Failure::new(format!(
                "the token cannot be read from standard input: {err}"
            ))
        })?;
        line
    } else {
        given.to_owned()
    };
    text.trim().parse().map_err(|err| {
        Failure::new(format!("{err}"))
            .with_hint("`agent token create` on a member prints a fresh `agent join` command")
    })
}
