//! Keeps this node's certificate fresh while it runs.
//!
//! At a random point between 50 and 70 percent of its life the node asks the leader for a new one (any member passes
//! the request on) and swaps it into the running transport; connections go on. A failed renewal is tried again with
//! growing pauses: a third of the life is left for that. An expired certificate is renewed through the joiners' door
//! before the agent takes part again ([`renew_expired`]).

use std::net::SocketAddr;
use std::time::Duration;

use kawanan_api::Timestamp;
use kawanan_logic::codec;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::clock::SharedClock;
use crate::identity::join::{JoinAnswer, JoinRequest};
use crate::identity::renewal::renew_at;
use crate::identity::{Identity, IdentityStore};
use crate::random::SharedRandom;

/// First pause after a renewal that failed; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The clock is looked at again at least this often, because it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("{0}")]
    Identity(String),
    #[error("{0}")]
    Refused(kawanan_api::ApiError),
    #[error("the answer cannot be read: {0}")]
    Answer(String),
}

/// Renews for as long as the agent runs. Whoever watches `identity` swaps the certificate in.
pub async fn keep_fresh(
    admission: std::sync::Arc<Admission>,
    identity: watch::Sender<Identity>,
    clock: SharedClock,
    random: SharedRandom,
) {
    let mut pause = PAUSE_FIRST;
    loop {
        let due = due_at(&identity.borrow(), random.as_ref());
        let now = clock.now();
        if now < due {
            sleep(due.since(now).min(LOOK_AGAIN)).await;
            continue;
        }
        let current = identity.borrow().clone();
        match renew(&admission, &current).await {
            Ok(renewed) => {
                info!("the node's certificate is renewed");
                identity.send_replace(renewed);
                pause = PAUSE_FIRST;
            }
            Err(err) => {
                warn!(%err, ?pause, "the node's certificate could not be renewed, trying again");
                sleep(pause + random.up_to(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn due_at(identity: &Identity, random: &dyn crate::random::Random) -> Timestamp {
    match identity.certificate() {
        Ok(certificate) => {
            let share = (random.bits() >> 96) as f64 / f64::from(u32::MAX);
            renew_at(certificate.not_before, certificate.not_after, share)
        }
        Err(err) => {
            warn!(%err, "this node's certificate cannot be read and is asked for anew");
            Timestamp::default()
        }
    }
}

async fn renew(admission: &Admission, identity: &Identity) -> Result<Identity, RenewError> {
    let request = renewal_request(identity)?;
    let bytes = codec::encode(&request).map_err(|err| RenewError::Answer(err.to_string()))?;
    let answer = admission
        .ask_leader(bytes)
        .await
        .map_err(RenewError::Refused)?;
    let answer = codec::decode(&answer).map_err(|err| RenewError::Answer(err.to_string()))?;
    keep(&admission.store, identity, answer)
}

/// Renews a certificate that has run out, from outside: the machines at `seeds` are asked as a joiner asks.
///
/// # Errors
/// When none of them answers or the cluster does not know this node any more.
pub async fn renew_expired(
    store: &IdentityStore,
    identity: &Identity,
    seeds: &[SocketAddr],
    clock: SharedClock,
) -> Result<Identity, RenewError> {
    let digests: Vec<[u8; 32]> = identity
        .authorities
        .iter()
        .map(|authority| crate::identity::authority::digest_of(authority))
        .collect();
    let digest = *digests
        .first()
        .ok_or_else(|| RenewError::Identity("no authority is known".to_owned()))?;
    let request = renewal_request(identity)?;
    let welcome = crate::identity::join::join(seeds, digest, &request, clock)
        .await
        .map_err(|err| RenewError::Answer(err.to_string()))?;
    keep(store, identity, JoinAnswer::Welcome(Box::new(welcome)))
}

fn renewal_request(identity: &Identity) -> Result<JoinRequest, RenewError> {
    let signing_request = identity
        .key
        .signing_request()
        .map_err(|err| RenewError::Identity(err.to_string()))?;
    Ok(JoinRequest::Renew { signing_request })
}

fn keep(
    store: &IdentityStore,
    identity: &Identity,
    answer: JoinAnswer,
) -> Result<Identity, RenewError> {
    let welcome = match answer {
        JoinAnswer::Welcome(welcome) => *welcome,
        JoinAnswer::Refused(error) => return Err(RenewError::Refused(error)),
        JoinAnswer::Redirect(_) => {
            return Err(RenewError::Answer(
                "it names other machines to ask".to_owned(),
            ));
        }
    };
    let renewed = identity
        .renewed(vec![welcome.certificate], welcome.authorities)
        .map_err(|err| RenewError::Identity(err.to_string()))?;
    store
        .save_certificates(&renewed)
        .map_err(|err| RenewError::Identity(err.to_string()))?;
    Ok(renewed)
}

/// Whether the certificate is past its end.
pub fn is_expired(identity: &Identity, now: Timestamp) -> bool {
    identity
        .certificate()
        .is_ok_and(|certificate| now >= certificate.not_after)
}
