//! Mounts: docker's long form (`type=bind,source=/data,target=/srv`) and its short one (`/data:/srv:ro`).

use kawanan_api::quantity::Bytes;
use kawanan_api::spec::{Mount, MountKind};

/// Reads one `--mount`.
pub fn long(text: &str) -> Result<Mount, String> {
    let wrong = |cause: String| format!("mount `{text}`: {cause}");
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut size) = (false, None);
    for option in text.split(',') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "destination" | "dst" => target = Some(value.to_owned()),
            "readonly" | "ro" => {
                read_only = truth(value)
                    .ok_or_else(|| wrong(format!("`{option}` is neither true nor false")))?
            }
            "tmpfs-size" => {
                size = Some(
                    value
                        .parse::<Bytes>()
                        .map_err(|err| wrong(err.to_string()))?,
                )
            }
            other => {
                return Err(wrong(format!(
                    "there is no option `{other}`; known are type, source, target, readonly and tmpfs-size"
                )));
            }
        }
    }
    let target = target
        .filter(|target| !target.is_empty())
        .ok_or_else(|| wrong("target= is missing".to_owned()))?;
    let kind = match kind {
        "volume" => MountKind::Volume {
            name: source.filter(|name| !name.is_empty()),
        },
        "bind" => MountKind::Bind {
            source: source.ok_or_else(|| wrong("a bind mount needs source=".to_owned()))?,
        },
        "tmpfs" if source.is_some() => return Err(wrong("a tmpfs has no source".to_owned())),
        "tmpfs" => MountKind::Tmpfs { size },
        other => {
            return Err(wrong(format!(
                "`{other}` is no type; known are volume, bind and tmpfs"
            )));
        }
    };
    if size.is_some() && !matches!(kind, MountKind::Tmpfs { .. }) {
        return Err(wrong("tmpfs-size= is for type=tmpfs".to_owned()));
    }
    Ok(Mount {
        target,
        kind,
        read_only,
    })
}

/// Reads one `--volume`: `[SOURCE:]TARGET[:ro]`. A source that is a path is a bind mount, a word is a named volume.
pub fn short(text: &str) -> Result<Mount, String> {
    let wrong = || format!("volume `{text}` is not [SOURCE:]TARGET[:ro]");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => (None, *target, "rw"),
        [source, target] if target.starts_with('/') => (Some(*source), *target, "rw"),
        [target, mode] => (None, *target, *mode),
        [source, target, mode] => (Some(*source), *target, *mode),
        _ => return Err(wrong()),
    };
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return Err(wrong()),
    };
    let kind = match source {
        Some("") => return Err(wrong()),
        Some(path) if path.starts_with('/') => MountKind::Bind {
            source: path.to_owned(),
        },
        Some(path) if path.starts_with('.') || path.starts_with('~') => {
            return Err(format!(
                "volume `{text}`: give the absolute path; it is looked up on the node that runs the task"
            ));
        }
        Some(name) => MountKind::Volume {
            name: Some(name.to_owned()),
        },
        None => MountKind::Volume { name: None },
    };
    Ok(Mount {
        target: target.to_owned(),
        kind,
        read_only,
    })
}

fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_same_mount_read_the_same() {
        for (long_form, short_form) in [
            ("source=data,target=/srv", "data:/srv"),
            ("type=bind,src=/data,dst=/srv,readonly", "/data:/srv:ro"),
            ("type=volume,target=/srv", "/srv"),
        ] {
            assert_eq!(long(long_form), short(short_form), "{long_form}");
        }
        let tmpfs = long("type=tmpfs,target=/tmp,tmpfs-size=64m").unwrap();
        assert_eq!(
            tmpfs.kind,
            MountKind::Tmpfs {
                size: Some(Bytes(64 << 20))
            }
        );
    }

    #[test]
    fn a_mount_that_makes_no_sense_says_why() {
        for (text, cause) in [
            ("source=data", "target="),
            ("type=bind,target=/srv", "needs source="),
            ("type=nfs,target=/srv", "`nfs` is no type"),
            ("target=/srv,color=red", "no option `color`"),
            ("target=/srv,readonly=maybe", "neither true nor false"),
        ] {
            let error = long(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
        for text in ["a:b:c:d", "x:/y:rx", "./data:/srv", ":/srv"] {
            assert!(short(text).is_err(), "{text}");
        }
    }
}
