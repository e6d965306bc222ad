//! The files under `<data-dir>/identity/`: who this machine is, across restarts.
//!
//! * `node.key`: the private key, mode 0600. Made once; the node id follows from it.
//! * `node.crt`, `authorities.pem`: what the cluster gave.
//! * `authority.key`: the authority's private key, mode 0600; only where this node votes.
//! * `cluster.json`: cluster id, Raft id, name. Written last, so that its presence means: joined.
//!
//! Every file is replaced atomically (written aside, synced, renamed, directory synced). Calls block for as long as the
//! disk takes; the files are a few hundred bytes and are written at joins and renewals only.

use std::fs;
use std::path::{Path, PathBuf};

use kawanan_api::{ClusterId, RaftId};
use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::{CertificateBytes, Identity, NodeKey};

mod files;
mod pem;

use files::Access;
pub use files::StoreError;

const KEY_FILE: &str = "node.key";
const CERTIFICATE_FILE: &str = "node.crt";
const AUTHORITIES_FILE: &str = "authorities.pem";
const AUTHORITY_KEY_FILE: &str = "authority.key";
const CLUSTER_FILE: &str = "cluster.json";

/// The contents of `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterFile {
    cluster: ClusterId,
    raft: RaftId,
    name: String,
}

/// Reads and writes the identity of one data directory.
#[derive(Debug, Clone)]
pub struct IdentityStore {
    directory: PathBuf,
}

impl IdentityStore {
    /// The identity in this data directory. Touches no disk.
    pub fn in_data_directory(data_directory: &Path) -> Self {
        Self {
            directory: data_directory.join("identity"),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// This machine's key: the one on disk, or a new one that is on disk when this returns. Kept across failed joins,
    /// so that every attempt comes from the same node.
    ///
    /// # Errors
    /// When the file is damaged or readable by others, or the disk refuses.
    pub fn key(&self) -> Result<NodeKey, StoreError> {
        if let Some(key) = self.existing_key()? {
            return Ok(key);
        }
        let key =
            NodeKey::generate().map_err(|err| StoreError::damaged(&self.path(KEY_FILE), err))?;
        files::replace(&self.path(KEY_FILE), key.pem().as_bytes(), Access::Owner)?;
        Ok(key)
    }

    fn existing_key(&self) -> Result<Option<NodeKey>, StoreError> {
        let path = self.path(KEY_FILE);
        let Some(text) = files::read(&path, Access::Owner)? else {
            return Ok(None);
        };
        let key = NodeKey::from_pem(&text).map_err(|err| StoreError::damaged(&path, err))?;
        Ok(Some(key))
    }

    /// Who this machine is, or `None` when it has joined no cluster.
    ///
    /// # Errors
    /// When files are missing, damaged, do not belong together, or the disk refuses.
    pub fn load(&self) -> Result<Option<Identity>, StoreError> {
        let path = self.path(CLUSTER_FILE);
        let Some(text) = files::read(&path, Access::Everyone)? else {
            return Ok(None);
        };
        let about: ClusterFile =
            serde_json::from_str(&text).map_err(|err| StoreError::damaged(&path, err))?;
        let key = self
            .existing_key()?
            .ok_or_else(|| StoreError::missing(&self.path(KEY_FILE)))?;
        let identity = Identity {
            cluster: about.cluster,
            node: key.node_id(),
            raft: about.raft,
            name: about.name,
            key,
            chain: self.certificates(CERTIFICATE_FILE)?,
            authorities: self.certificates(AUTHORITIES_FILE)?,
        };
        identity
            .certificate()
            .map_err(|err| StoreError::damaged(&self.path(CERTIFICATE_FILE), err))?;
        Ok(Some(identity))
    }

    fn certificates(&self, file: &str) -> Result<Vec<CertificateBytes>, StoreError> {
        let path = self.path(file);
        let text =
            files::read(&path, Access::Everyone)?.ok_or_else(|| StoreError::missing(&path))?;
        pem::certificates(&text).map_err(|err| StoreError::damaged(&path, err))
    }

    /// Keeps who this machine is. The key must be the one of [`IdentityStore::key`].
    ///
    /// # Errors
    /// When the disk refuses; what was there before is still whole then.
    pub fn save(&self, identity: &Identity) -> Result<(), StoreError> {
        if self.existing_key()?.map(|key| key.node_id()) != Some(identity.node) {
            let key = identity.key.pem();
            files::replace(&self.path(KEY_FILE), key.as_bytes(), Access::Owner)?;
        }
        self.save_certificates(identity)?;
        let about = ClusterFile {
            cluster: identity.cluster,
            raft: identity.raft,
            name: identity.name.clone(),
        };
        let path = self.path(CLUSTER_FILE);
        let text =
            serde_json::to_string_pretty(&about).map_err(|err| StoreError::damaged(&path, err))?;
        files::replace(&path, text.as_bytes(), Access::Everyone)
    }

    /// Keeps what a renewal brought.
    ///
    /// # Errors
    /// When the disk refuses; each file is whole, old or new.
    pub fn save_certificates(&self, identity: &Identity) -> Result<(), StoreError> {
        // Authorities first: an old certificate under new authorities verifies, a new one under old ones may not.
        for (file, certificates) in [
            (AUTHORITIES_FILE, &identity.authorities),
            (CERTIFICATE_FILE, &identity.chain),
        ] {
            let text = pem::print_certificates(certificates);
            files::replace(&self.path(file), text.as_bytes(), Access::Everyone)?;
        }
        Ok(())
    }

    /// The authority, where this node holds its key.
    ///
    /// # Errors
    /// When the key is damaged or belongs to no known authority, or the disk refuses.
    pub fn authority(&self) -> Result<Option<Authority>, StoreError> {
        let path = self.path(AUTHORITY_KEY_FILE);
        let Some(text) = files::read(&path, Access::Owner)? else {
            return Ok(None);
        };
        let key = pem::private_key(&text).map_err(|err| StoreError::damaged(&path, err))?;
        let mut cause = "authorities.pem is empty".to_owned();
        for certificate in self.certificates(AUTHORITIES_FILE)? {
            match Authority::from_key_and_certificate(&key, &certificate) {
                Ok(authority) => return Ok(Some(authority)),
                Err(err) => cause = err.to_string(),
            }
        }
        Err(StoreError::damaged(&path, cause))
    }

    /// Keeps the authority's private key (PKCS#8, DER).
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_authority_key(&self, key_pkcs8: &[u8]) -> Result<(), StoreError> {
        let text = pem::print_private_key(key_pkcs8);
        files::replace(
            &self.path(AUTHORITY_KEY_FILE),
            text.as_bytes(),
            Access::Owner,
        )
    }

    /// Deletes the authority's private key: this node votes no more.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_authority_key(&self) -> Result<(), StoreError> {
        files::remove(&self.path(AUTHORITY_KEY_FILE))
    }

    /// Deletes everything: this machine is no member any more, and is another node when it joins again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear(&self) -> Result<(), StoreError> {
        // The mark of membership goes first, so that a crash in between leaves no half-member.
        files::remove(&self.path(CLUSTER_FILE))?;
        match fs::remove_dir_all(&self.directory) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &self.directory, err))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
