//! The task that owns chitchat: starts it, feeds it facts, turns its view into [`Liveness`], restarts it when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat,
};
use kawanan_api::NodeId;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use super::socket::{Arrivals, LinkTransport, address_of};
use super::{GossipConfig, Lateness, Liveness, Request};
use crate::transport::SharedLinks;

/// Suspicion level at which a node counts as silent: its silence is this many times its mean gap.
const PHI_THRESHOLD: f64 = 8.0;
const DETECTOR_WINDOW: usize = 100;
/// Gaps above this are outages, not habits.
const DETECTOR_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// How long a silent incarnation stays in the digest. Every restart makes a new one, and a digest over 64 KiB breaks
/// gossip, so this is short (the field's experience: hours were too long, `reliability.md` C5).
const DEAD_GRACE: Duration = Duration::from_secs(15 * 60);
/// Wait before chitchat's loop is started again after it ended.
const RESTART_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Owner {
    config: GossipConfig,
    links: SharedLinks,
    arrivals: Arrivals,
    asked: mpsc::Receiver<Request>,
    facts: BTreeMap<String, String>,
    liveness: watch::Sender<Arc<Liveness>>,
    lateness: Lateness,
}

impl Owner {
    pub(super) fn new(
        config: GossipConfig,
        links: SharedLinks,
        inbound: mpsc::Receiver<(NodeId, Bytes)>,
        asked: mpsc::Receiver<Request>,
        liveness: watch::Sender<Arc<Liveness>>,
    ) -> Self {
        let lateness = Lateness::new(config.interval, Instant::now());
        let facts = config.facts.iter().cloned().collect();
        Self {
            config,
            links,
            arrivals: Arc::new(Mutex::new(inbound)),
            asked,
            facts,
            liveness,
            lateness,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.start().await {
                Ok(chitchat) => {
                    if self.follow(chitchat).await.is_break() {
                        return;
                    }
                    warn!("gossip ended unexpectedly and starts again");
                }
                Err(err) => warn!(%err, "gossip cannot start, trying again"),
            }
            // A new incarnation needs a higher number; so many restarts within a millisecond there are not.
            self.config.generation += 1;
            sleep(RESTART_DELAY).await;
        }
    }

    async fn start(&self) -> anyhow::Result<ChitchatHandle> {
        let own_address = address_of(self.config.node);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(
                self.config.node.to_string(),
                self.config.generation,
                own_address,
            ),
            cluster_id: self.config.cluster.to_string(),
            gossip_interval: self.config.interval,
            listen_addr: own_address,
            seed_nodes: self
                .config
                .seeds
                .iter()
                .map(|node| address_of(*node).to_string())
                .collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_THRESHOLD,
                sampling_window_size: DETECTOR_WINDOW,
                max_interval: DETECTOR_INTERVAL_MAX,
                initial_interval: self.config.interval,
                dead_node_grace_period: DEAD_GRACE,
            },
            marked_for_deletion_grace_period: DEAD_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let facts = self.facts.clone().into_iter().collect();
        let transport = LinkTransport {
            links: Arc::clone(&self.links),
            arrivals: Arc::clone(&self.arrivals),
        };
        spawn_chitchat(config, facts, &transport).await
    }

    /// Breaks when nobody holds the handle any more; continues when chitchat ended by itself.
    async fn follow(&mut self, chitchat: ChitchatHandle) -> std::ops::ControlFlow<()> {
        let mut live = chitchat.chitchat().lock().await.live_nodes_watcher();
        let ended = chitchat.termination_watcher();
        tokio::pin!(ended);
        let mut ticks = interval(self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    if let Some(pause) = self.lateness.tick(Instant::now()) {
                        info!(?pause, "this agent stood still and distrusts its view of the others for a moment");
                    }
                    self.refresh(&live.borrow_and_update());
                }
                request = self.asked.recv() => match request {
                    Some(Request::Ping(answer)) => {
                        if answer.send(()).is_err() {
                            debug!("who asked whether gossip turns has given up");
                        }
                    }
                    Some(Request::Publish(key, value)) => {
                        chitchat.with_chitchat(|state| state.self_node_state().set(&key, &value)).await;
                        self.facts.insert(key, value);
                    }
                    None => return std::ops::ControlFlow::Break(()),
                },
                changed = live.changed() => match changed {
                    Ok(()) => self.refresh(&live.borrow_and_update()),
                    Err(_) => return std::ops::ControlFlow::Continue(()),
                },
                result = &mut ended => {
                    if let Err(err) = result {
                        warn!(%err, "gossip loop failed");
                    }
                    return std::ops::ControlFlow::Continue(());
                }
            }
        }
    }

    fn refresh(&self, live: &BTreeMap<ChitchatId, NodeState>) {
        let mut newest: BTreeMap<NodeId, (u64, &NodeState)> = BTreeMap::new();
        for (id, state) in live {
            let Ok(node) = id.node_id.parse::<NodeId>() else {
                continue;
            };
            let older = newest
                .get(&node)
                .is_none_or(|(generation, _)| *generation < id.generation_id);
            if node != self.config.node && older {
                newest.insert(node, (id.generation_id, state));
            }
        }
        let live = newest
            .into_iter()
            .map(|(node, (_, state))| {
                (
                    node,
                    state
                        .key_values()
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .collect(),
                )
            })
            .collect();
        let now = Instant::now();
        let next = self
            .liveness
            .borrow()
            .next(live, self.lateness.trusts_itself(now), now);
        self.liveness.send_if_modified(|current| {
            let changed = current.untrusted != next.untrusted || current.peers != next.peers;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
    }
}
