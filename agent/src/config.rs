//! The daemon's settings: flags and their `AGENT_…` variables, checked once, then only read.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use clap::Args;
use kawanan_api::DEFAULT_PORT;
use kawanan_api::spec::{check_label_key, check_name};
use serde::{Deserialize, Serialize};

/// Settings shared by `init`, `join` and `run`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address to listen on for other nodes (UDP) [default: 0.0.0.0:7700]
    #[arg(long, env = "AGENT_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,

    /// Address that other nodes dial [default: the address of the default route]
    #[arg(long, env = "AGENT_ADVERTISE", value_name = "IP[:PORT]")]
    pub advertise: Option<String>,

    /// Directory for the node's identity and the service log
    #[arg(long, env = "AGENT_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,

    /// Directory for sockets
    #[arg(long, env = "AGENT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Container engine [default: $DOCKER_HOST, then unix:///var/run/docker.sock]
    #[arg(long, env = "AGENT_DOCKER", value_name = "unix://PATH")]
    pub docker: Option<String>,

    /// Name of this node [default: the hostname]
    #[arg(long, env = "AGENT_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Label of this node, set when it enters the cluster; can be repeated
    #[arg(
        long = "label",
        env = "AGENT_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub labels: Vec<String>,
}

pub const DEFAULT_DATA_DIR: &str = "/var/lib/kawanan";
pub const DEFAULT_RUN_DIR: &str = "/run/kawanan";

/// Settings that `init` and `join` were given and that later runs keep to, unless they are told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptSettings {
    pub listen: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub docker: Option<String>,
}

/// A setting that cannot be used, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "`{0}` is not an address to advertise; write IP or IP:PORT, such as 10.0.0.5 or 10.0.0.5:7700"
    )]
    Advertise(String),
    #[error(
        "this machine has no default route, so its own address is not clear; name it with --advertise IP"
    )]
    NoDefaultRoute,
    #[error("the hostname cannot be read: {0}; name this node with --name")]
    Hostname(std::io::Error),
    #[error("{0}; name this node with --name")]
    Name(String),
    #[error("`{0}` is not a label; write KEY=VALUE")]
    Label(String),
}

impl Settings {
    /// Where to listen for other nodes.
    pub fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            DEFAULT_PORT,
        ))
    }

    /// What a later `agent run` should keep to.
    pub fn kept(&self) -> KeptSettings {
        KeptSettings {
            listen: self.listen,
            advertise: self.advertise.clone(),
            docker: self.docker.clone(),
        }
    }

    /// These settings, with what was kept where nothing is given now.
    pub fn or_kept(mut self, kept: &KeptSettings) -> Self {
        self.listen = self.listen.or(kept.listen);
        self.advertise = self.advertise.or_else(|| kept.advertise.clone());
        self.docker = self.docker.or_else(|| kept.docker.clone());
        self
    }

    /// Where other nodes reach this one.
    ///
    /// # Errors
    /// When the given address cannot be read, or none is given and the machine has no default route.
    pub fn advertised(&self) -> Result<SocketAddr, ConfigError> {
        match &self.advertise {
            Some(text) => {
                let with_port = text.parse::<SocketAddr>().ok();
                let bare = || {
                    text.parse::<IpAddr>()
                        .ok()
                        .map(|ip| SocketAddr::new(ip, self.listen().port()))
                };
                with_port
                    .or_else(bare)
                    .ok_or_else(|| ConfigError::Advertise(text.clone()))
            }
            None if !self.listen().ip().is_unspecified() => Ok(self.listen()),
            None => default_route_address()
                .map(|ip| SocketAddr::new(ip, self.listen().port()))
                .ok_or(ConfigError::NoDefaultRoute),
        }
    }

    /// The node's name: given, or the hostname.
    ///
    /// # Errors
    /// When the name breaks the rules for names.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_err(ConfigError::Hostname)?
                .trim()
                .to_owned(),
        };
        check_name("node", &name).map_err(|err| ConfigError::Name(err.message))?;
        Ok(name)
    }

    /// The labels the node enters the cluster with.
    ///
    /// # Errors
    /// When one is not `KEY=VALUE`.
    pub fn node_labels(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let parse = |text: &String| {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| ConfigError::Label(text.clone()))?;
            check_label_key(key).map_err(|_| ConfigError::Label(text.clone()))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        self.labels
            .iter()
            .filter(|text| !text.is_empty())
            .map(parse)
            .collect()
    }

    pub fn docker_endpoint(&self) -> String {
        let from_environment = || {
            std::env::var("DOCKER_HOST")
                .ok()
                .filter(|host| !host.is_empty())
        };
        self.docker
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
    }

    pub fn api_socket(&self) -> PathBuf {
        self.run_dir.join("api.sock")
    }
}

/// The source address the kernel would use for the default route. Connecting a UDP socket sends nothing.
fn default_route_address() -> Option<IpAddr> {
    let probe = |local: &str, remote: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        socket
            .local_addr()
            .ok()
            .map(|address| address.ip())
            .filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    // Documentation addresses (RFC 5737, RFC 3849): routed by the default route everywhere.
    probe("0.0.0.0:0", "192.0.2.1:9").or_else(|| probe("[::]:0", "[2001:db8::1]:9"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Probe {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(args: &[&str]) -> Settings {
        Probe::parse_from(std::iter::once("agent").chain(args.iter().copied())).settings
    }

    #[test]
    fn an_advertised_ip_takes_the_port_listened_on() {
        let settings = settings(&["--listen", "0.0.0.0:7800", "--advertise", "10.0.0.5"]);
        assert_eq!(
            settings.advertised().unwrap(),
            "10.0.0.5:7800".parse().unwrap()
        );
    }

    #[test]
    fn a_listen_address_that_names_an_interface_is_advertised() {
        let settings = settings(&["--listen", "10.1.2.3:7700"]);
        assert_eq!(
            settings.advertised().unwrap(),
            "10.1.2.3:7700".parse().unwrap()
        );
    }

    #[test]
    fn labels_are_key_and_value() {
        let good = settings(&["--label", "disk=ssd", "--label", "zone=eu"]);
        assert_eq!(good.node_labels().unwrap().len(), 2);
        assert!(settings(&["--label", "disk"]).node_labels().is_err());
    }
}
