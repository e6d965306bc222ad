//! The login that `docker login` keeps for a registry.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use data_encoding::BASE64;
use kawanan_api::spec::RegistryAuth;
use serde::Deserialize;

use crate::failure::Failure;

/// How docker's configuration names Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
}

/// The login for the registry of an image.
pub fn for_image(image: &str) -> Result<RegistryAuth, Failure> {
    let path = config_path()?;
    let text = fs::read_to_string(&path)
        .map_err(|err| Failure::other(format!("cannot read {}: {err}", path.display())))?;
    let config: DockerConfig = serde_json::from_str(&text)
        .map_err(|err| Failure::other(format!("cannot understand {}: {err}", path.display())))?;
    login(&config, registry_of(image))
}

fn config_path() -> Result<PathBuf, Failure> {
    if let Some(dir) = env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("config.json"));
    }
    match env::var_os("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".docker/config.json")),
        None => Err(Failure::other(
            "cannot find docker's configuration: HOME is not set",
        )),
    }
}

fn login(config: &DockerConfig, registry: &str) -> Result<RegistryAuth, Failure> {
    let known = (config.auths.iter())
        .filter(|(_, auth)| !auth.auth.is_empty())
        .find(|(name, _)| host_of(name) == host_of(registry));
    if let Some((_, auth)) = known {
        return decode(&auth.auth).ok_or_else(|| {
            Failure::other(format!(
                "docker's login for {registry} is damaged; log in again"
            ))
        });
    }
    let in_helper =
        config.creds_store.is_some() || config.cred_helpers.contains_key(host_of(registry));
    let message = if in_helper {
        format!("docker keeps its login for {registry} in a credential helper, which is not asked")
    } else {
        format!("docker has no login for {registry}")
    };
    Err(Failure::Other {
        message,
        hint: Some("give it with --registry-user NAME --registry-password-stdin".to_owned()),
    })
}

fn decode(auth: &str) -> Option<RegistryAuth> {
    let text = String::from_utf8(BASE64.decode(auth.as_bytes()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(RegistryAuth {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

/// The first part of a reference names a registry only if it looks like a host.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => first,
        _ => DOCKER_HUB,
    }
}

/// `https://host/v1/` and `host` are the same registry to docker.
fn host_of(registry: &str) -> &str {
    let bare = registry
        .split_once("://")
        .map_or(registry, |(_, rest)| rest);
    bare.split_once('/').map_or(bare, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_of_the_images_registry_is_found() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YW5uOnMzY3JldA=="},
                "registry.example.com":{"auth":"Ym9iOng6eQ=="}},"HttpHeaders":{}}"#,
        )
        .unwrap();
        let hub = login(&config, registry_of("nginx:1.27")).unwrap();
        assert_eq!(
            (hub.username.as_str(), hub.password.as_str()),
            ("ann", "s3cret")
        );
        let own = login(&config, registry_of("registry.example.com/team/app")).unwrap();
        assert_eq!(
            (own.username.as_str(), own.password.as_str()),
            ("bob", "x:y")
        );
        assert!(login(&config, registry_of("localhost:5000/app")).is_err());
    }

    #[test]
    fn a_credential_helper_is_named_as_the_reason() {
        let config: DockerConfig = serde_json::from_str(r#"{"credsStore":"pass"}"#).unwrap();
        let error = login(&config, registry_of("nginx")).unwrap_err();
        assert!(error.to_string().contains("credential helper"), "{error}");
    }
}
