//! Tests of http tokens.

use kawanan_api::ErrorCode;
use kawanan_api::duration::Span;
use kawanan_api::views::CreateToken;
use kawanan_logic::JoinToken;

use super::*;

#[tokio::test]
async fn a_token_is_shown_once_and_leads_to_the_cluster() {
    let served = served(3).await;
    let wanted = CreateToken {
        expires_in: Some(Span::from_secs(3600)),
        uses: Some(2),
        note: "rack 3".to_owned(),
    };
    let created = served.client.create_token(&wanted).await.unwrap();
    let token: JoinToken = created.join_token.parse().unwrap();
    let state = served.fake.now();
    assert_eq!(token.cluster, state.cluster.as_ref().unwrap().id);
    assert_eq!(token.authority_digest, JoinToken::digest_of(b"certificate"));
    assert_eq!(state.tokens[&token.token].secret_hash, token.secret_hash());
    let seeds: Vec<String> = token.seeds().iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.0.0.1:7700", "10.0.0.2:7700", "10.0.0.3:7700"]);
    let listed = served.client.tokens().await.unwrap();
    assert_eq!(listed[0].id, token.token);
    assert_eq!(
        (
            listed[0].uses_left,
            listed[0].note.as_str(),
            listed[0].valid
        ),
        (Some(2), "rack 3", true)
    );
    let json = serde_json::to_string(&listed).unwrap();
    assert!(!json.contains(&created.join_token));
}

#[tokio::test]
async fn a_revoked_token_stays_listed_and_rotation_replaces_all() {
    let served = served(1).await;
    let first = served
        .client
        .create_token(&CreateToken::default())
        .await
        .unwrap()
        .token
        .id;
    let second = served
        .client
        .create_token(&CreateToken::default())
        .await
        .unwrap()
        .token
        .id;
    served
        .client
        .revoke_token(&first.to_string())
        .await
        .unwrap();
    let rotated = served.client.rotate_token(None).await.unwrap();
    assert_eq!(rotated.revoked, [second]);
    let valid: Vec<_> = (served.client.tokens().await.unwrap().into_iter())
        .filter(|token| token.valid)
        .map(|token| token.id)
        .collect();
    assert_eq!(valid, [rotated.token.id]);
}

#[tokio::test]
async fn rotating_one_token_keeps_its_terms() {
    let served = served(1).await;
    let wanted = CreateToken {
        expires_in: Some(Span::from_secs(60)),
        uses: Some(5),
        note: "ci".to_owned(),
    };
    let old = served.client.create_token(&wanted).await.unwrap().token;
    served
        .client
        .create_token(&CreateToken::default())
        .await
        .unwrap();
    let rotated = served
        .client
        .rotate_token(Some(&old.id.short()))
        .await
        .unwrap();
    assert_eq!(rotated.revoked, [old.id]);
    assert_eq!(
        (rotated.token.uses_left, rotated.token.note.as_str()),
        (Some(5), "ci")
    );
    let lifetime = rotated
        .token
        .expires_at
        .unwrap()
        .since(rotated.token.created_at);
    assert_eq!(lifetime.as_secs(), 60);
    assert_eq!(
        served
            .client
            .tokens()
            .await
            .unwrap()
            .iter()
            .filter(|token| token.valid)
            .count(),
        2
    );
}

#[tokio::test]
async fn a_token_that_lets_nobody_in_is_refused() {
    let served = served(1).await;
    for wanted in [
        CreateToken {
            uses: Some(0),
            ..CreateToken::default()
        },
        CreateToken {
            expires_in: Some(Span::from_secs(0)),
            ..CreateToken::default()
        },
        CreateToken {
            note: "a\nb".to_owned(),
            ..CreateToken::default()
        },
    ] {
        assert_eq!(
            api_error(served.client.create_token(&wanted).await).code,
            ErrorCode::Invalid
        );
    }
    assert_eq!(served.client.tokens().await.unwrap().len(), 0);
}
