//! Why the daemon does not start: cause first, then what to do.

use std::path::{Path, PathBuf};

use crate::certificates::RenewError;
use crate::config::ConfigError;
use crate::consensus;
use crate::containers::EngineError;
use crate::data_dir::DataDirError;
use crate::identity;
use crate::log_store;
use crate::transport::BindError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("this machine belongs to no cluster yet")]
    NoCluster,
    #[error("{} does not exist", .0.display())]
    NoDataDir(PathBuf),
    #[error("cannot use {}: {cause}", path.display())]
    RunDir {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("the agent cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] identity::StoreError),
    #[error("this node's certificate has expired and could not be renewed: {0}")]
    Expired(RenewError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] log_store::StoreError),
    #[error(transparent)]
    Log(#[from] consensus::StartError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Api(#[from] crate::http::SocketError),
}

impl StartError {
    pub(super) fn run_dir(path: &Path, cause: std::io::Error) -> Self {
        Self::RunDir {
            path: path.to_owned(),
            cause,
        }
    }

    /// What to do next, where the cause alone does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoCluster | Self::NoDataDir(_) => {
                Some("found a cluster with `agent init`, or enter one with `agent join TOKEN`")
            }
            Self::RunDir { .. } => Some("run as root, or choose another place with --run-dir"),
            Self::Expired(_) => {
                Some("check this machine's clock and that another member can be reached")
            }
            Self::Store(log_store::StoreError::InUse { .. }) => {
                Some("an agent is running on this machine already: see `agent status`")
            }
            _ => None,
        }
    }
}
