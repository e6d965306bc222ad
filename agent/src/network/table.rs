//! The words between the agent and the port proxy: which port leads to which containers. One JSON line each way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kawanan_api::spec::Protocol;
use serde::{Deserialize, Serialize};

/// Raised when the two sides could not understand each other any more.
pub const CONTROL_VERSION: u32 = 1;
/// Longest line: 10,000 backends of 40 characters.
pub const LINE_BYTES_MAX: u64 = 512 * 1024;

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortKey {
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for PortKey {
    /// `8080`, or `53/udp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "{}", self.port),
            Protocol::Udp => write!(f, "{}/udp", self.port),
        }
    }
}

/// Everything to serve: for each port the containers behind it, possibly none yet.
pub type PortTable = BTreeMap<PortKey, Vec<SocketAddr>>;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub version: u32,
    pub ports: Vec<PortRow>,
    /// Stop listening, let open connections finish, end.
    pub exit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    #[serde(flatten)]
    pub key: PortKey,
    pub backends: Vec<SocketAddr>,
}

/// From the proxy, once per order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    /// Version of the proxy's binary.
    pub build: String,
    /// Ports that could not be opened, and why.
    pub failed: Vec<PortFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFailure {
    #[serde(flatten)]
    pub key: PortKey,
    pub cause: String,
}

impl Order {
    pub fn of(table: &PortTable) -> Self {
        let ports = table
            .iter()
            .map(|(key, backends)| PortRow {
                key: *key,
                backends: backends.clone(),
            })
            .collect();
        Self {
            version: CONTROL_VERSION,
            ports,
            exit: false,
        }
    }

    pub fn table(&self) -> PortTable {
        self.ports
            .iter()
            .map(|row| (row.key, row.backends.clone()))
            .collect()
    }
}

/// The files of the proxy in its directory.
#[derive(Debug, Clone)]
pub struct ProxyFiles {
    directory: PathBuf,
}

impl ProxyFiles {
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("proxy.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.directory.join("proxy.lock")
    }

    /// What the proxy writes about itself where there is no journal.
    pub fn output(&self) -> PathBuf {
        self.directory.join("proxy.log")
    }

    pub fn last_table(&self) -> PathBuf {
        self.directory.join("proxy.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_the_trip() {
        let key = PortKey {
            port: 8080,
            protocol: Protocol::Tcp,
        };
        let table: PortTable = [(key, vec!["172.17.0.2:80".parse().unwrap()])].into();
        let line = serde_json::to_string(&Order::of(&table)).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&line).unwrap().table(), table);
    }
}
