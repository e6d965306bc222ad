//! The owner: feeds the [`LogNode`] and carries out what it says. One `select!`, one method per branch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{NodeId, RaftId, RequestId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::StateMachine;
use super::config::{ConsensusConfig, TICK};
use super::handle::{ChangeError, ConsensusHandle, INBOX_MAX, ProposeError, ReadError, Request};
use super::log_node::{Fault, LogNode, Output, Refusal};
use super::mirror::Step;
use super::persist::Persister;
use super::status::{ConsensusStatus, Role};
use super::waiters::{ChangeAnswer, ProposeAnswer, Waiters, reply};
use crate::transport::SharedLinks;

/// Messages and requests taken in one go, so that neither starves the other nor the clock.
const BATCH_MAX: usize = 256;
/// For handing leadership over when the agent ends.
const HANDOVER: Duration = Duration::from_millis(1500);
/// For the last write when the agent ends.
const LAST_WRITE: Duration = Duration::from_secs(2);

struct Owner<S: StateMachine> {
    node: LogNode<S>,
    persister: Persister<S>,
    links: SharedLinks,
    waiters: Waiters,
    status: watch::Sender<ConsensusStatus>,
    state: watch::Sender<Arc<S>>,
    /// The term in which this node leads.
    leads: Option<u64>,
}

/// What the loop does next.
enum Next {
    GoOn,
    Stop(oneshot::Sender<()>),
}

pub(super) fn spawn<S: StateMachine>(
    config: &ConsensusConfig,
    mut node: LogNode<S>,
    persister: Persister<S>,
    links: SharedLinks,
    inbound: mpsc::Receiver<(NodeId, Bytes)>,
) -> (ConsensusHandle<S>, JoinHandle<()>) {
    let (inbox, requests) = mpsc::channel(INBOX_MAX);
    let (status, status_seen) = watch::channel(ConsensusStatus::outsider(config.raft_id));
    let (state, state_seen) = watch::channel(Arc::new(node.state().clone()));
    status.send_replace(node.status());
    let owner = Owner {
        node,
        persister,
        links,
        waiters: Waiters::default(),
        status,
        state,
        leads: None,
    };
    let task = tokio::spawn(run(owner, requests, inbound));
    (ConsensusHandle::new(inbox, status_seen, state_seen), task)
}

/// Drives the node until it is told to stop or cannot go on; then answers everybody that it takes no part any more.
async fn run<S: StateMachine>(
    mut owner: Owner<S>,
    mut requests: mpsc::Receiver<Request>,
    mut inbound: mpsc::Receiver<(NodeId, Bytes)>,
) {
    let fault = match owner.drive(&mut requests, &mut inbound).await {
        Ok(answer) => {
            drop(owner);
            if let Some(answer) = answer {
                reply(answer, ());
            }
            return;
        }
        Err(fault) => fault,
    };
    tracing::error!(reason = %fault, "this node takes no part in the log any more");
    owner.waiters.stopped();
    owner.status.send_modify(|status| {
        status.role = Role::Failed(fault.0);
        status.leader = None;
        status.progress.clear();
    });
    let Owner { status, state, .. } = owner;
    drain_failed(requests, inbound).await;
    drop((status, state));
}

/// A failed node still answers, so that nobody waits for it, until all handles are gone.
async fn drain_failed(
    mut requests: mpsc::Receiver<Request>,
    mut inbound: mpsc::Receiver<(NodeId, Bytes)>,
) {
    loop {
        tokio::select! {
            biased;
            request = requests.recv() => match request {
                Some(Request::Propose { answer, .. }) => reply(answer, Err(ProposeError::Stopped)),
                Some(Request::ReadIndex { answer }) => reply(answer, Err(ReadError::Stopped)),
                Some(
                    Request::ChangeMembers { answer, .. } | Request::Transfer { answer, .. },
                ) => reply(answer, Err(ChangeError::Stopped)),
                Some(Request::Ping { answer }) => reply(answer, ()),
                Some(Request::Shutdown { answer }) => {
                    reply(answer, ());
                    return;
                }
                None => return,
            },
            Some(_) = inbound.recv() => {}
        }
    }
}

impl<S: StateMachine> Owner<S> {
    async fn drive(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        inbound: &mut mpsc::Receiver<(NodeId, Bytes)>,
    ) -> Result<Option<oneshot::Sender<()>>, Fault> {
        let mut ticks = tokio::time::interval(TICK);
        // After a pause Raft's clock stands where it stood: nobody is declared dead because we slept.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.carry_out(true)?;
        loop {
            let room = !self.persister.is_full();
            let mut ticked = false;
            tokio::select! {
                biased;
                done = self.persister.done() => self.on_persisted(done)?,
                _ = ticks.tick() => {
                    ticked = true;
                    self.guard(|owner| owner.node.tick())?;
                }
                Some((from, bytes)) = inbound.recv(), if room => {
                    self.on_message(from, &bytes)?;
                }
                request = requests.recv() => match request {
                    Some(request) => if let Next::Stop(answer) = self.on_request(request)? {
                        self.stop(inbound, &mut ticks).await?;
                        return Ok(Some(answer));
                    },
                    None => return Ok(None),
                },
            }
            if let Next::Stop(answer) = self.take_more(requests, inbound)? {
                self.stop(inbound, &mut ticks).await?;
                return Ok(Some(answer));
            }
            self.carry_out(ticked)?;
        }
    }

    /// Takes what else has come: entries proposed together are written together.
    fn take_more(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        inbound: &mut mpsc::Receiver<(NodeId, Bytes)>,
    ) -> Result<Next, Fault> {
        for _ in 0..BATCH_MAX {
            if self.persister.is_full() {
                break;
            }
            let Ok((from, bytes)) = inbound.try_recv() else {
                break;
            };
            self.on_message(from, &bytes)?;
        }
        for _ in 0..BATCH_MAX {
            let Ok(request) = requests.try_recv() else {
                break;
            };
            if let Next::Stop(answer) = self.on_request(request)? {
                return Ok(Next::Stop(answer));
            }
        }
        Ok(Next::GoOn)
    }

    /// Hands leadership over, and lets the disk finish.
    async fn stop(
        &mut self,
        inbound: &mut mpsc::Receiver<(NodeId, Bytes)>,
        ticks: &mut tokio::time::Interval,
    ) -> Result<(), Fault> {
        let begun = Instant::now();
        let successor = self.node.successor();
        if let Some(successor) = successor {
            tracing::info!(%successor, "handing leadership over");
            self.guard(|owner| owner.node.transfer_leadership(successor).map(drop))?;
        }
        self.node.save_commit_index();
        self.carry_out(true)?;
        loop {
            let me = self.node.config().node;
            let led_elsewhere = self.node.status().leader.is_some_and(|node| node != me);
            let leads = successor.is_some() && !led_elsewhere && begun.elapsed() < HANDOVER;
            let writes = !self.persister.is_idle() && begun.elapsed() < LAST_WRITE;
            if !leads && !writes {
                break;
            }
            tokio::select! {
                biased;
                done = self.persister.done() => self.on_persisted(done)?,
                _ = ticks.tick() => self.guard(|owner| owner.node.tick())?,
                Some((from, bytes)) = inbound.recv() => self.on_message(from, &bytes)?,
            }
            self.carry_out(true)?;
        }
        self.waiters.stopped();
        Ok(())
    }

    /// raft-rs panics when its assumptions break: that ends this node's part, not the agent.
    fn guard<T>(&mut self, input: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        catch_unwind(AssertUnwindSafe(|| input(self))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            Err(Fault(format!(
                "an invariant of the log broke ({text}): restart the agent; if it happens again, remove this node's data \
                 directory and join again with a new token"
            )))
        })
    }

    fn on_persisted(
        &mut self,
        done: Result<u64, crate::log_store::StoreError>,
    ) -> Result<(), Fault> {
        let work = done.map_err(|err| Fault(err.to_string()))?;
        self.guard(|owner| owner.node.persisted(work))
    }

    fn on_message(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), Fault> {
        self.guard(|owner| owner.node.message(from, bytes))
    }

    fn on_request(&mut self, request: Request) -> Result<Next, Fault> {
        match request {
            Request::Propose {
                request,
                entry,
                answer,
            } => self.on_propose(request, entry, answer)?,
            Request::ReadIndex { answer } => {
                if self.node.is_leader() {
                    self.waiters.ask(answer);
                } else {
                    let leader = self.node.status().leader;
                    reply(answer, Err(ReadError::NotLeader { leader }));
                }
            }
            Request::ChangeMembers { step, answer } => self.on_change(&step, answer)?,
            Request::Transfer { to, answer } => self.on_transfer(to, answer)?,
            Request::Ping { answer } => reply(answer, ()),
            Request::Shutdown { answer } => return Ok(Next::Stop(answer)),
        }
        Ok(Next::GoOn)
    }

    fn on_propose(
        &mut self,
        request: RequestId,
        entry: Bytes,
        answer: ProposeAnswer,
    ) -> Result<(), Fault> {
        if !self.node.is_leader() {
            let leader = self.node.status().leader;
            reply(answer, Err(ProposeError::NotLeader { leader }));
            return Ok(());
        }
        if let Some(outcome) = self.node.state().remembered(request) {
            reply(answer, Ok(outcome));
            return Ok(());
        }
        let Some(answer) = self.waiters.join(request, answer) else {
            return Ok(());
        };
        if self.waiters.is_full() || self.persister.is_full() {
            reply(answer, Err(ProposeError::Busy));
            return Ok(());
        }
        match self.guard(|owner| owner.node.propose(entry))? {
            Ok(()) => self.waiters.wait_for(request, answer),
            Err(_) => reply(answer, Err(ProposeError::Busy)),
        }
        Ok(())
    }

    fn on_change(&mut self, step: &Step, answer: ChangeAnswer) -> Result<(), Fault> {
        match self.guard(|owner| owner.node.change_members(step))? {
            Ok(place) => self.waiters.wait_for_change(place, answer),
            Err(refusal) => reply(answer, Err(self.change_error(refusal))),
        }
        Ok(())
    }

    fn on_transfer(&mut self, to: RaftId, answer: ChangeAnswer) -> Result<(), Fault> {
        let result = self.guard(|owner| owner.node.transfer_leadership(to))?;
        let result = result.map_err(|refusal| self.change_error(refusal));
        reply(answer, result);
        Ok(())
    }

    fn change_error(&mut self, refusal: Refusal) -> ChangeError {
        match refusal {
            Refusal::NotLeader => ChangeError::NotLeader {
                leader: self.node.status().leader,
            },
            Refusal::Busy => ChangeError::Busy,
            Refusal::Impossible(why) => ChangeError::Refused(why.to_owned()),
        }
    }

    /// Does what the node wants done, publishes what changed, answers who can be answered.
    fn carry_out(&mut self, ticked: bool) -> Result<(), Fault> {
        self.put_reads()?;
        let mut output = self.node.take_output();
        self.send(&mut output)?;
        for work in std::mem::take(&mut output.work) {
            self.persister
                .submit(work)
                .map_err(|err| Fault(err.to_string()))?;
        }
        if output.state_changed {
            self.state.send_replace(Arc::new(self.node.state().clone()));
        }
        self.publish(ticked);
        for (context, index) in output.reads {
            self.waiters.confirmed(context, index);
        }
        self.waiters.applied(output.applied);
        self.waiters.changed(output.changed);
        self.waiters.reached(self.node.applied());
        let leads = self.node.is_leader().then(|| self.node.term());
        if self.leads.is_some() && self.leads != leads {
            let leader = self.status.borrow().leader;
            self.waiters.lost_leadership(leader);
        }
        self.leads = leads;
        Ok(())
    }

    fn put_reads(&mut self) -> Result<(), Fault> {
        if let Some(context) = self.waiters.reads_to_put()
            && self.guard(|owner| owner.node.read_index(context))?.is_ok()
        {
            self.waiters.reads_were_put(context);
        }
        Ok(())
    }

    fn send(&mut self, output: &mut Output<S>) -> Result<(), Fault> {
        for message in std::mem::take(&mut output.messages) {
            let sent = self.node.node_of(message.to).is_some_and(|node| {
                let sent = self.links.send(node, message.channel, message.bytes);
                sent.inspect_err(|err| tracing::trace!(%err, "raft message not sent"))
                    .is_ok()
            });
            if !sent {
                let (to, channel) = (message.to, message.channel);
                self.guard(|owner| owner.node.unreachable(to, channel))?;
            }
        }
        Ok(())
    }

    /// How far the followers are changes with every message: that is news only once per tick.
    fn publish(&mut self, ticked: bool) {
        let mut fresh = self.node.status();
        self.status.send_if_modified(|status| {
            if !ticked && status.role == fresh.role && status.members == fresh.members {
                fresh.progress.clone_from(&status.progress);
            }
            let changed = *status != fresh;
            if changed {
                *status = fresh;
            }
            changed
        });
    }
}
