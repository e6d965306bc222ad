//! The engine's errors in clear words. Docker answers with layers of prefixes from its own parts; people need the
//! innermost cause, and the converger needs to know whether trying again may help.

use std::time::Duration;

use bollard::errors::Error;

use crate::containers::EngineError;

/// Longest cause that is kept: it ends in the service log and in tables.
const CAUSE_CHARS_MAX: usize = 300;

/// What was asked of the engine, for wording the failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub endpoint: &'a str,
    /// The verb, as in the engine's API.
    pub call: &'static str,
    /// Container or image, whichever the call was about.
    pub about: &'a str,
    pub deadline: Duration,
}

impl Asked<'_> {
    pub(super) fn timed_out(self) -> EngineError {
        EngineError::TimedOut {
            call: self.call,
            after: self.deadline,
        }
    }

    pub(super) fn failed(self, err: Error) -> EngineError {
        match err {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => self.answered(status_code, &message),
            Error::DockerStreamError { error } => self.answered(500, &error),
            Error::RequestTimeoutError => self.timed_out(),
            Error::SocketNotFoundError(path) => self.unreachable(format!(
                "{path} does not exist; is Docker installed and running?"
            )),
            Error::HyperLegacyError { err } => self.unreachable(innermost(&err)),
            Error::IOError { err } => self.unreachable(err.to_string()),
            Error::HyperResponseError { err } => self.unreachable(innermost(&err)),
            other => EngineError::Failed(clip(&other.to_string())),
        }
    }

    fn unreachable(self, cause: String) -> EngineError {
        EngineError::Unreachable {
            endpoint: self.endpoint.to_owned(),
            cause,
        }
    }

    /// The engine answered with an error of its own.
    fn answered(self, status: u16, message: &str) -> EngineError {
        if status == 404 && message.to_ascii_lowercase().contains("no such container") {
            return EngineError::Gone(self.about.to_owned());
        }
        if let Some(refusal) = well_known(message) {
            return EngineError::Refused(refusal);
        }
        let cause = without_prefixes(message);
        match status {
            404 if message.contains("No such image") => EngineError::NoSuchImage {
                image: self.about.to_owned(),
                cause: "it is not on this node".to_owned(),
            },
            400..=408 | 410..=428 => EngineError::Refused(cause),
            _ => EngineError::Failed(cause),
        }
    }

    /// The engine, or the registry through it, did not give us the image `self.about`.
    pub(super) fn pull_failed(self, err: Error) -> EngineError {
        let (status, message) = match err {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => (status_code, message),
            Error::DockerStreamError { error } => (0, error),
            other => return self.failed(other),
        };
        let image = self.about.to_owned();
        let lower = message.to_ascii_lowercase();
        let cause = without_prefixes(&message);
        // Docker passes the registry's throttling on under status 500.
        if lower.contains("toomanyrequests") || lower.contains("too many requests") || status == 429
        {
            return EngineError::RegistryBusy { image, cause };
        }
        let missing = [
            "manifest unknown",
            "not found",
            "does not exist",
            "name unknown",
            "no such image",
            "invalid reference format",
        ];
        // "no such host" and the like are about the way to the registry, not about the image.
        let unreached = lower.contains("dial ") || lower.contains("lookup ");
        if !unreached && missing.iter().any(|words| lower.contains(words)) {
            let cause = format!("the registry says: {cause}");
            return EngineError::NoSuchImage { image, cause };
        }
        EngineError::Image { image, cause }
    }
}

/// The engine's messages that users meet, said in one sentence each.
fn well_known(message: &str) -> Option<String> {
    if let Some(port) = port_in_use(message) {
        return Some(format!("port {port} is already in use on this machine"));
    }
    if let Some(source) = after(message, "bind source path does not exist: ") {
        let source = source.lines().next().unwrap_or(source).trim();
        return Some(format!("the mount source {source} does not exist"));
    }
    if message.contains("executable file not found in $PATH")
        || (message.contains("exec: ") && message.contains("no such file or directory"))
    {
        let program = after(message, "exec: \"").and_then(|rest| rest.split('"').next());
        return Some(match program {
            Some(program) => format!("the image has no program `{program}`"),
            None => "the image does not have the program to run".to_owned(),
        });
    }
    if message.contains("exec: ") && message.contains("permission denied") {
        let program = after(message, "exec: \"").and_then(|rest| rest.split('"').next())?;
        return Some(format!(
            "the program `{program}` in the image is not executable"
        ));
    }
    None
}

/// The port in Docker's two ways of saying that somebody else has it.
fn port_in_use(message: &str) -> Option<&str> {
    if !message.contains("port is already allocated") && !message.contains("address already in use")
    {
        return None;
    }
    let address = after(message, "Bind for ")
        .or_else(|| after(message, "listen tcp4 "))
        .or_else(|| after(message, "listen udp4 "))
        .or_else(|| after(message, "listen tcp "))
        .or_else(|| after(message, "listen udp "))
        .or_else(|| after(message, "failed to bind host port for "))
        .or_else(|| after(message, "failed to bind host port "))?;
    let address = address.split_whitespace().next()?;
    // `0.0.0.0:8080`, `[::]:8080:` or `0.0.0.0:8080:172.17.0.2:80/tcp`.
    let ports = address.rsplit_once(']').map_or(address, |(_, ports)| ports);
    let port = ports.split(':').nth(1)?.split('/').next()?;
    (!port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(port)
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

/// Drops the names of Docker's parts in front of the cause.
fn without_prefixes(message: &str) -> String {
    const PREFIXES: [&str; 10] = [
        "Error response from daemon: ",
        "invalid mount config for type \"bind\": ",
        "failed to create task for container: ",
        "failed to create shim task: ",
        "failed to create shim: ",
        "OCI runtime create failed: ",
        "runc create failed: ",
        "unable to start container process: ",
        "error during container init: ",
        "starting container process caused: ",
    ];
    let mut cause = message.trim();
    loop {
        let before = cause;
        for prefix in PREFIXES {
            cause = cause.strip_prefix(prefix).unwrap_or(cause);
        }
        // `container_linux.go:380: `: a place in runc's source.
        if let Some((place, rest)) = cause.split_once(": ")
            && place.contains(".go:")
            && !place.contains(' ')
        {
            cause = rest;
        }
        if cause == before {
            break;
        }
    }
    clip(cause.strip_suffix(": unknown").unwrap_or(cause))
}

/// One line of bounded length.
fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CAUSE_CHARS_MAX {
        return line;
    }
    line.chars().take(CAUSE_CHARS_MAX).chain(['…']).collect()
}

/// The last cause in the chain: the system's own words.
fn innermost(err: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'static> = Asked {
        endpoint: "unix:///run/docker.sock",
        call: "create",
        about: "busybox:nope",
        deadline: Duration::from_secs(30),
    };

    fn answered(status_code: u16, message: &str) -> String {
        ASKED
            .failed(Error::DockerResponseServerError {
                status_code,
                message: message.to_owned(),
            })
            .to_string()
    }

    fn pulled(message: &str) -> EngineError {
        ASKED.pull_failed(Error::DockerStreamError {
            error: message.to_owned(),
        })
    }

    #[test]
    fn docker_s_own_words_become_one_clear_sentence() {
        let cases = [
            (
                500,
                "driver failed programming external connectivity on endpoint web.1 (0a1b): Bind for 0.0.0.0:8080 failed: port is already allocated",
                "port 8080 is already in use on this machine",
            ),
            (
                500,
                "driver failed programming external connectivity on endpoint web.1 (0a1b): Error starting userland proxy: listen tcp4 0.0.0.0:8081: bind: address already in use",
                "port 8081 is already in use on this machine",
            ),
            (
                500,
                "failed to set up container networking: driver failed programming external connectivity on endpoint x (1f): failed to bind host port 0.0.0.0:8082/tcp: address already in use",
                "port 8082 is already in use on this machine",
            ),
            (
                500,
                "failed to bind host port for 0.0.0.0:8083:172.17.0.2:80/tcp: address already in use",
                "port 8083 is already in use on this machine",
            ),
            (
                500,
                "Error starting userland proxy: listen tcp [::]:8084: bind: address already in use",
                "port 8084 is already in use on this machine",
            ),
            (
                400,
                "invalid mount config for type \"bind\": bind source path does not exist: /srv/none",
                "the mount source /srv/none does not exist",
            ),
            (
                400,
                "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"nope\": executable file not found in $PATH: unknown",
                "the image has no program `nope`",
            ),
            (
                400,
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: \"/bin/x\": stat /bin/x: no such file or directory: unknown",
                "the image has no program `/bin/x`",
            ),
            (
                400,
                "Minimum memory limit allowed is 6MB",
                "Minimum memory limit allowed is 6MB",
            ),
            (
                500,
                "failed to create shim: OCI runtime create failed: container_linux.go:380: starting container process caused: process_linux.go:545: container init caused: boom: unknown",
                "the container engine failed: container init caused: boom",
            ),
        ];
        for (status, message, wanted) in cases {
            assert_eq!(answered(status, message), wanted);
        }
    }

    #[test]
    fn a_missing_image_is_told_from_a_registry_in_trouble() {
        for missing in [
            "manifest for busybox:nope not found: manifest unknown: manifest unknown",
            "pull access denied for nope, repository does not exist or may require 'docker login'",
        ] {
            let err = pulled(missing);
            assert!(matches!(err, EngineError::NoSuchImage { .. }), "{err:?}");
            assert!(
                err.to_string()
                    .starts_with("no such image: busybox:nope (the registry says: "),
                "{err}"
            );
        }
        let err = pulled(
            "Get https://registry.example/v2/: dial tcp: lookup registry.example: no such host",
        );
        assert!(matches!(err, EngineError::Image { .. }), "{err:?}");
        let err = pulled("toomanyrequests: You have reached your pull rate limit");
        assert!(matches!(err, EngineError::RegistryBusy { .. }), "{err:?}");
    }

    #[test]
    fn a_long_message_is_cut() {
        let message = answered(400, &"x".repeat(5000));
        assert!(message.chars().count() <= CAUSE_CHARS_MAX + 1);
    }
}
