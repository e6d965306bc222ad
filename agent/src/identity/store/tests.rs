//! Tests of identity store.

use std::os::unix::fs::PermissionsExt;

use kawanan_api::Timestamp;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Fixture {
    directory: tempfile::TempDir,
    store: IdentityStore,
    authority: Authority,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    Fixture {
        store: IdentityStore::in_data_directory(directory.path()),
        authority: Authority::found(ClusterId::from_bits(3), NOW).unwrap(),
        directory,
    }
}

impl Fixture {
    fn join(&self) -> Identity {
        let cluster = ClusterId::from_bits(3);
        let key = self.store.key().unwrap();
        let request = key.signing_request().unwrap();
        let (certificate, node) = self.authority.sign_node(&request, cluster, NOW).unwrap();
        let identity = Identity {
            cluster,
            node,
            raft: RaftId(99),
            name: "one".to_owned(),
            key,
            chain: vec![certificate],
            authorities: vec![self.authority.certificate_der().to_vec()],
        };
        self.store.save(&identity).unwrap();
        identity
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("identity").join(name)
    }
}

#[test]
fn an_empty_directory_is_no_member() {
    assert!(fixture().store.load().unwrap().is_none());
}

#[test]
fn what_is_saved_is_loaded() {
    let fixture = fixture();
    let saved = fixture.join();
    let loaded = fixture.store.load().unwrap().unwrap();
    assert_eq!(loaded.node, saved.node);
    assert_eq!(loaded.cluster, saved.cluster);
    assert_eq!(loaded.raft, saved.raft);
    assert_eq!(loaded.name, saved.name);
    assert_eq!(loaded.chain, saved.chain);
    assert_eq!(loaded.authorities, saved.authorities);
}

#[test]
fn a_join_that_failed_half_way_keeps_its_key_and_is_no_member() {
    let fixture = fixture();
    let first = fixture.store.key().unwrap().node_id();
    assert!(fixture.store.load().unwrap().is_none());
    assert_eq!(fixture.store.key().unwrap().node_id(), first);
}

#[test]
fn private_keys_are_for_their_owner_only() {
    let fixture = fixture();
    fixture.join();
    fixture
        .store
        .save_authority_key(fixture.authority.key_pkcs8())
        .unwrap();
    for name in [KEY_FILE, AUTHORITY_KEY_FILE] {
        let mode = fs::metadata(fixture.file(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mode = fs::metadata(fixture.file("")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    fs::set_permissions(fixture.file(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = fixture.store.load().unwrap_err();
    assert!(matches!(refused, StoreError::Exposed { mode: 0o644, .. }));
    assert!(refused.to_string().contains("node.key"), "{refused}");
}

#[test]
fn the_authority_comes_back_until_its_key_is_removed() {
    let fixture = fixture();
    fixture.join();
    assert!(fixture.store.authority().unwrap().is_none());
    fixture
        .store
        .save_authority_key(fixture.authority.key_pkcs8())
        .unwrap();
    let authority = fixture.store.authority().unwrap().unwrap();
    assert_eq!(authority.digest(), fixture.authority.digest());
    fixture.store.remove_authority_key().unwrap();
    assert!(fixture.store.authority().unwrap().is_none());
}

#[test]
fn an_authority_key_of_another_cluster_is_damage() {
    let fixture = fixture();
    fixture.join();
    let other = Authority::found(ClusterId::from_bits(4), NOW).unwrap();
    fixture.store.save_authority_key(other.key_pkcs8()).unwrap();
    assert!(matches!(
        fixture.store.authority(),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn each_missing_or_damaged_file_is_named() {
    for name in [KEY_FILE, CERTIFICATE_FILE, AUTHORITIES_FILE] {
        let fixture = fixture();
        fixture.join();
        fs::write(fixture.file(name), "rubbish").unwrap();
        let damaged = fixture.store.load().unwrap_err();
        assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
        assert!(damaged.to_string().contains(name), "{damaged}");
        fs::remove_file(fixture.file(name)).unwrap();
        let missing = fixture.store.load().unwrap_err();
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
        assert!(missing.to_string().contains(name), "{missing}");
    }
}

#[test]
fn bytes_that_are_no_text_are_damage() {
    let fixture = fixture();
    fixture.join();
    fs::write(fixture.file(CERTIFICATE_FILE), [0xff, 0xfe, 0xfd]).unwrap();
    assert!(matches!(
        fixture.store.load(),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn errors_of_the_disk_name_the_path_and_what_to_do() {
    let path = Path::new("/data/identity/node.key");
    let said = |kind: std::io::ErrorKind| StoreError::io("write", path, kind.into()).to_string();
    let full = said(std::io::ErrorKind::StorageFull);
    assert!(
        full.contains("node.key") && full.contains("free some space"),
        "{full}"
    );
    let forbidden = said(std::io::ErrorKind::PermissionDenied);
    assert!(forbidden.contains("as root"), "{forbidden}");
}

#[test]
fn a_certificate_of_another_key_is_damage() {
    let fixture = fixture();
    let mut identity = fixture.join();
    let request = NodeKey::generate().unwrap().signing_request().unwrap();
    let (certificate, _) = fixture
        .authority
        .sign_node(&request, identity.cluster, NOW)
        .unwrap();
    identity.chain = vec![certificate];
    fixture.store.save_certificates(&identity).unwrap();
    assert!(matches!(
        fixture.store.load(),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn a_file_left_aside_by_a_crash_does_not_get_in_the_way() {
    let fixture = fixture();
    fixture.join();
    fs::write(fixture.file("cluster.json.new"), "half a fi").unwrap();
    fixture.join();
    assert!(fixture.store.load().unwrap().is_some());
    assert!(!fixture.file("cluster.json.new").exists());
}

#[test]
fn a_cleared_directory_joins_as_another_node() {
    let fixture = fixture();
    let before = fixture.join().node;
    fixture.store.clear().unwrap();
    assert!(fixture.store.load().unwrap().is_none());
    assert_ne!(fixture.store.key().unwrap().node_id(), before);
    fixture.store.clear().unwrap();
    fixture.store.clear().unwrap();
}
