//! `agent init`: founds a cluster on this machine.

use clap::Args;
use kawanan_api::{ClusterId, RaftId};
use rand::Rng;

use super::{Failure, run, systemd};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::data_dir::EntryRecord;
use crate::identity::{Authority, Identity, IdentityStore};

/// Found a new cluster on this machine.
///
/// Prints the command that lets other machines join. With the systemd unit installed it starts the service and
/// returns; otherwise it stays in the foreground.
#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    settings: Settings,
    /// Stay in the foreground even where the systemd unit is installed
    #[arg(long)]
    foreground: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<(), Failure> {
        run::refuse_second_membership(&self.settings)?;
        let name = self.settings.node_name()?;
        let labels = self.settings.node_labels()?;
        self.settings.advertised()?;
        run::prepare_directories(&self.settings)?;
        run::require_engine(&self.settings)?;
        run::require_free_port(&self.settings)?;
        let entry = EntryRecord {
            founder: true,
            labels,
            members: Vec::new(),
            settings: self.settings.kept(),
        };
        found(&self.settings, name, entry)?;
        if systemd::takes_over(&self.settings) && !self.foreground {
            systemd::start()?;
            return run::announce_cluster(&self.settings);
        }
        run::in_foreground(self.settings, run::Announce::Founded)
    }
}

/// Writes a new cluster's first identity. `cluster.json`, written last, makes it count.
fn found(settings: &Settings, name: String, entry: EntryRecord) -> Result<(), Failure> {
    let failed =
        |err: &dyn std::fmt::Display| Failure::new(format!("the cluster was not founded: {err}"));
    let mut random = rand::rng();
    let cluster = ClusterId::from_bits(random.random());
    let now = SystemClock.now();
    let authority = Authority::found(cluster, now).map_err(|err| failed(&err))?;
    let store = IdentityStore::in_data_directory(&settings.data_dir);
    let key = store.key().map_err(|err| failed(&err))?;
    let request = key.signing_request().map_err(|err| failed(&err))?;
    let (certificate, node) = authority
        .sign_node(&request, cluster, now)
        .map_err(|err| failed(&err))?;
    let identity = Identity {
        cluster,
        node,
        raft: RaftId(random.random_range(1..=u64::MAX)),
        name,
        key,
        chain: vec![certificate],
        authorities: vec![authority.certificate_der().to_vec()],
    };
    entry.save(&settings.data_dir).map_err(|err| failed(&err))?;
    store
        .save_authority_key(authority.key_pkcs8())
        .map_err(|err| failed(&err))?;
    store.save(&identity).map_err(|err| failed(&err))
}
