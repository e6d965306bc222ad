//! Where an agent may answer: `unix:///run/kawanan/api.sock` or `ssh://[user@]host[:port]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the agent of this machine answers, unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kawanan/api.sock";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A socket of this machine.
    Unix(PathBuf),
    /// Another machine, through `ssh` and the `kawan` that is installed there.
    Ssh {
        user: Option<String>,
        host: String,
        port: Option<u16>,
    },
}

/// Text that does not say where an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostError {
    #[error("`{0}` is not a host; write unix:///path/to/api.sock or ssh://user@machine")]
    Unknown(String),
    #[error("`{0}`: https:// comes in a later version; use ssh://user@machine until then")]
    Https(String),
    #[error("no host is given; write unix:///path/to/api.sock or ssh://user@machine")]
    None,
}

/// Several hosts with commas between them, in the order in which they are tried.
///
/// # Errors
/// When one of them is no host, or there is none.
pub fn parse_hosts(text: &str) -> Result<Vec<Host>, ParseHostError> {
    let hosts: Vec<Host> = (text.split(',').map(str::trim))
        .filter(|host| !host.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        return Err(ParseHostError::None);
    }
    Ok(hosts)
}

impl FromStr for Host {
    type Err = ParseHostError;
    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(ParseHostError::Unknown(text.to_owned()))
            };
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Err(ParseHostError::Https(text.to_owned()));
        }
        (text.strip_prefix("ssh://"))
            .and_then(parse_ssh)
            .ok_or_else(|| ParseHostError::Unknown(text.to_owned()))
    }
}

/// Refuses everything that `ssh` could take for an option.
fn parse_ssh(rest: &str) -> Option<Host> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, machine) = match rest.rsplit_once('@') {
        Some((user, machine)) => (Some(user), machine),
        None => (None, rest),
    };
    let (host, port) = match machine.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match machine.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (machine, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    let is_word = |text: &str| {
        let fine = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        !text.is_empty() && !text.starts_with('-') && text.chars().all(fine)
    };
    if !is_word(host) || !user.is_none_or(is_word) {
        return None;
    }
    Some(Host::Ssh {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Ssh { user, host, port } => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(host)?;
                }
                match port {
                    Some(port) => write!(f, ":{port}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_read_and_print() {
        let hosts = parse_hosts("unix:///run/a.sock, ssh://root@10.0.0.1:2222,ssh://n2").unwrap();
        let printed: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            ["/run/a.sock", "ssh://root@10.0.0.1:2222", "ssh://n2"]
        );
        let v6: Host = "ssh://root@[fe80::1]:22".parse().unwrap();
        assert_eq!(v6.to_string(), "ssh://root@[fe80::1]:22");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "n2",
            "unix://run/a.sock",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a b",
            "ssh://-x@n2",
            "ssh://n2:port",
            "tcp://n2:2375",
        ] {
            assert!(parse_hosts(text).is_err(), "{text}");
        }
        let https = parse_hosts("https://n2:7700").unwrap_err();
        assert!(https.to_string().contains("later version"), "{https}");
    }
}
