//! Tests of join token.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::{JoinToken, ParseTokenError, SEEDS_MAX, hash_secret};
use kawanan_api::{ClusterId, TokenId};

fn sample(seeds: &[&str]) -> JoinToken {
    let seeds = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    let cluster = ClusterId::from_bits(1);
    JoinToken::new(cluster, [2; 32], TokenId::from_bits(3), [4; 16], seeds).unwrap()
}

fn parse(text: &str) -> Result<JoinToken, ParseTokenError> {
    text.parse()
}

#[test]
fn a_token_looks_as_it_always_did() {
    let token = sample(&["10.0.0.1:7700"]);
    let text = token.to_string();
    assert_eq!(
        text,
        "KWN1-aeaaaaaaaaaaaaaaaaaaaaaaaaaqeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqaaaaaaaaaaaaaaaaaaaaaaaadaqcaibaeaqcaibaeaqcaibaeaqfaaaabdykg4dkppa"
    );
    assert_eq!(parse(&text), Ok(token));
    // Spaces around it come with copying.
    assert!(parse(&format!("  {text}\n")).is_ok());
}

#[test]
fn every_mistake_has_its_own_sentence() {
    let text = sample(&["10.0.0.1:7700", "[::1]:7700"]).to_string();
    for (wrong, error) in [
        ("", ParseTokenError::NotAToken),
        ("hello", ParseTokenError::NotAToken),
        (
            "SWMTKN-1-49nj1cmql0jkz5s954yi3oex3nedyz0fb0xx14ie39trti4wxv",
            ParseTokenError::NotAToken,
        ),
        ("KWNX-abc", ParseTokenError::NotAToken),
        ("KWN0-abc", ParseTokenError::NotAToken),
        ("KWN2-abc", ParseTokenError::NewerVersion),
        ("KWN12-abc", ParseTokenError::NewerVersion),
        ("KWN", ParseTokenError::Truncated),
        ("KWN1-", ParseTokenError::Truncated),
        ("KWN1-a", ParseTokenError::Truncated),
        (&text[..text.len() - 1], ParseTokenError::Truncated),
        (&text[..40], ParseTokenError::Truncated),
        (&format!("{text}a"), ParseTokenError::Mistyped),
        (&text.to_uppercase(), ParseTokenError::Mistyped),
        (&text.replace('a', "é"), ParseTokenError::Mistyped),
        ("KWN1-é", ParseTokenError::Mistyped),
    ] {
        assert_eq!(parse(wrong), Err(error), "{wrong}");
    }
}

#[test]
fn seeds_are_bounded() {
    let of = |count: u16, port| {
        let seeds = (0..count)
            .map(|_| SocketAddr::from(([10, 0, 0, 1], port)))
            .collect();
        JoinToken::new(
            ClusterId::from_bits(1),
            [0; 32],
            TokenId::from_bits(1),
            [0; 16],
            seeds,
        )
    };
    assert!(of(0, 1).is_err());
    assert!(of(1, 0).is_err());
    assert!(of(SEEDS_MAX as u16, 1).is_ok());
    assert!(of(SEEDS_MAX as u16 + 1, 1).is_err());
}

#[test]
fn printing_for_debugging_keeps_the_secret() {
    let token = sample(&["10.0.0.1:7700"]);
    let shown = format!("{token:?}");
    assert!(
        !shown.contains("4, 4") && !shown.contains("secret"),
        "{shown}"
    );
    assert_eq!(token.secret_hash(), hash_secret(&[4; 16]));
}

fn a_token() -> impl Strategy<Value = JoinToken> {
    let seed = (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (
        any::<u128>(),
        any::<[u8; 32]>(),
        any::<u128>(),
        any::<[u8; 16]>(),
        proptest::collection::vec(seed, 1..=SEEDS_MAX),
    )
        .prop_map(|(cluster, digest, token, secret, seeds)| {
            let (cluster, token) = (ClusterId::from_bits(cluster), TokenId::from_bits(token));
            JoinToken::new(cluster, digest, token, secret, seeds).unwrap()
        })
}

proptest! {
    #[test]
    fn any_token_reads_back(token in a_token()) {
        let text = token.to_string();
        prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        prop_assert_eq!(parse(&text), Ok(token));
    }

    #[test]
    fn any_change_of_one_character_and_any_cut_is_noticed(
        token in a_token(),
        place in any::<prop::sample::Index>(),
        other in prop::char::range('!', '~'),
    ) {
        let text = token.to_string();
        let place = place.index(text.len());
        prop_assert!(parse(&text[..place]).is_err());
        let mut changed: Vec<char> = text.chars().collect();
        prop_assume!(changed[place] != other);
        changed[place] = other;
        let changed: String = changed.into_iter().collect();
        prop_assert!(parse(&changed).is_err());
        let mut without = text.clone();
        without.remove(place);
        prop_assert!(parse(&without).is_err());
    }

    #[test]
    fn no_text_makes_the_reader_stumble(text in ".*", tail in "[a-z2-7]{0,200}") {
        prop_assert!(parse(&text).is_err());
        for body in [&text, &tail] {
            let token = format!("KWN1-{body}");
            prop_assert!(parse(&token).is_err());
        }
    }
}
