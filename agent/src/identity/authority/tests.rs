//! Tests of identity authority.

use super::*;
use crate::identity::{NodeKey, PeerIdentity};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn cluster() -> ClusterId {
    ClusterId::from_bits(42)
}

#[test]
fn a_node_certificate_is_valid_from_an_hour_ago_for_thirty_days() {
    let authority = Authority::found(cluster(), NOW).unwrap();
    let request = NodeKey::generate().unwrap().signing_request().unwrap();
    let (certificate, node) = authority.sign_node(&request, cluster(), NOW).unwrap();
    let identity = PeerIdentity::of_certificate(&certificate).unwrap();
    assert_eq!(identity.node, node);
    assert_eq!(identity.not_before.saturating_add(BACK_DATED), NOW);
    assert_eq!(identity.not_after, NOW.saturating_add(NODE_LIFE));
}

#[test]
fn an_authority_read_back_signs_like_the_first() {
    let founded = Authority::found(cluster(), NOW).unwrap();
    let again = Authority::from_key_and_certificate(founded.key_pkcs8(), founded.certificate_der())
        .unwrap();
    assert_eq!(again.digest(), founded.digest());
    let request = NodeKey::generate().unwrap().signing_request().unwrap();
    let (first, _) = founded.sign_node(&request, cluster(), NOW).unwrap();
    let (second, _) = again.sign_node(&request, cluster(), NOW).unwrap();
    let issuer = |der: &[u8]| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        certificate.issuer().to_string()
    };
    assert_eq!(issuer(&first), issuer(&second));
}

#[test]
fn a_key_and_a_certificate_of_different_authorities_are_refused() {
    let one = Authority::found(cluster(), NOW).unwrap();
    let two = Authority::found(cluster(), NOW).unwrap();
    assert_eq!(
        Authority::from_key_and_certificate(one.key_pkcs8(), two.certificate_der()).err(),
        Some(AuthorityError::OtherKey)
    );
    assert!(Authority::from_key_and_certificate(b"no key", one.certificate_der()).is_err());
    assert!(Authority::from_key_and_certificate(one.key_pkcs8(), b"no certificate").is_err());
}

#[test]
fn a_request_whose_signature_does_not_hold_is_refused() {
    let authority = Authority::found(cluster(), NOW).unwrap();
    let mut request = NodeKey::generate().unwrap().signing_request().unwrap();
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(matches!(
        authority.sign_node(&request, cluster(), NOW),
        Err(AuthorityError::Request(_))
    ));
    assert!(requesting_node(&request).is_err());
}

#[test]
fn a_request_cannot_choose_its_own_name() {
    let authority = Authority::found(cluster(), NOW).unwrap();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::URI(
        Ia5String::try_from(node_uri(cluster(), NodeId::from_bits(1))).unwrap(),
    )];
    let request = params.serialize_request(&pair).unwrap();
    let (certificate, node) = authority.sign_node(request.der(), cluster(), NOW).unwrap();
    assert_ne!(node, NodeId::from_bits(1));
    assert_eq!(
        PeerIdentity::of_certificate(&certificate).unwrap().node,
        node
    );
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert!(!parsed.is_ca());
}

#[test]
fn a_key_of_another_kind_is_not_signed() {
    let authority = Authority::found(cluster(), NOW).unwrap();
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&pair)
            .unwrap();
        assert!(matches!(
            authority.sign_node(request.der(), cluster(), NOW),
            Err(AuthorityError::Request(_))
        ));
    }
}

#[test]
fn a_clock_before_the_founding_signs_nothing() {
    let authority = Authority::found(cluster(), NOW).unwrap();
    let request = NodeKey::generate().unwrap().signing_request().unwrap();
    assert!(matches!(
        authority.sign_node(&request, cluster(), Timestamp::default()),
        Err(AuthorityError::Clock { .. })
    ));
}

#[test]
fn clocks_at_either_end_of_time_make_certificates_and_no_panic() {
    let request = NodeKey::generate().unwrap().signing_request().unwrap();
    for now in [Timestamp::default(), Timestamp::from_millis(u64::MAX)] {
        let authority = Authority::found(cluster(), now).unwrap();
        let (certificate, _) = authority.sign_node(&request, cluster(), now).unwrap();
        assert!(PeerIdentity::of_certificate(&certificate).is_ok());
    }
}

proptest::proptest! {
    #[test]
    fn any_signing_request_is_read_without_a_panic(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..5000),
    ) {
        proptest::prop_assert!(requesting_node(&bytes).is_err());
    }
}
