//! Published ports in docker's short form (`8080:80`, `53:53/udp`) and long form
//! (`published=8080,target=80,protocol=tcp,mode=host`).

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One port of the service that is reachable from outside its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The port on the node.
    pub published: NonZeroU16,
    /// The port inside the container.
    pub target: NonZeroU16,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub mode: PortMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// Who answers on the published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMode {
    /// Kawanan does, and passes connections to the service's tasks; any number of tasks may share a node.
    /// For now every node that runs a task answers, for its own tasks.
    #[default]
    Ingress,
    /// The container itself does, through Docker; one task of the service per node.
    Host,
}

/// Text that is not a port to publish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a port to publish; write PUBLISHED:TARGET[/udp], such as 8080:80, or published=8080,target=80,mode=host"
)]
pub struct ParsePortError(String);

impl FromStr for PortSpec {
    type Err = ParsePortError;
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        let spec = if text.contains('=') {
            parse_long(text)
        } else {
            parse_short(text)
        };
        spec.ok_or_else(|| ParsePortError(text.to_owned()))
    }
}

fn parse_short(text: &str) -> Option<PortSpec> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let (published, target) = ports.split_once(':')?;
    let (published, target) = (published.parse().ok()?, target.parse().ok()?);
    Some(PortSpec {
        published,
        target,
        protocol,
        mode: PortMode::Ingress,
    })
}

fn parse_long(text: &str) -> Option<PortSpec> {
    let (mut published, mut target, mut protocol, mut mode) =
        (None, None, Protocol::Tcp, PortMode::Ingress);
    for option in text.split(',') {
        match option.split_once('=')? {
            ("published", port) => published = Some(port.parse().ok()?),
            ("target", port) => target = Some(port.parse().ok()?),
            ("protocol", name) => protocol = parse_protocol(name)?,
            ("mode", "ingress") => mode = PortMode::Ingress,
            ("mode", "host") => mode = PortMode::Host,
            _ => return None,
        }
    }
    Some(PortSpec {
        published: published?,
        target: target?,
        protocol,
        mode,
    })
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.mode == PortMode::Host {
            " (host)"
        } else {
            ""
        };
        write!(
            f,
            "{}->{}/{}{host}",
            self.published, self.target, self.protocol
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read() {
        let short: PortSpec = "8080:80".parse().unwrap();
        let long: PortSpec = "published=8080,target=80".parse().unwrap();
        assert_eq!(short, long);
        let host: PortSpec = "published=53,target=53,protocol=udp,mode=host"
            .parse()
            .unwrap();
        assert_eq!(host.to_string(), "53->53/udp (host)");
        assert_eq!(
            "53:53/udp".parse::<PortSpec>().unwrap().protocol,
            Protocol::Udp
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "80",
            "0:80",
            "8080:70000",
            "a:b",
            "8080:80/sctp",
            "published=1",
            "published=1,target=2,mode=x",
        ] {
            assert!(text.parse::<PortSpec>().is_err(), "{text}");
        }
    }
}
