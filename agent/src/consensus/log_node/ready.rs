//! From what raft-rs has ready to what the owner is to do, in the order that keeps Raft's promises.

use kawanan_api::Revision;
use raft::Ready;
use raft::eraftpb::{Message, MessageType};

use super::{Fault, Held, Installing, LogNode, StateToSave, Work};
use super::{SNAPSHOT_TICKS, SNAPSHOT_TICKS_PER_MIB, SNAPSHOTS_AT_ONCE};
use crate::consensus::wire::{self, Outgoing};
use crate::consensus::{StateMachine, mirror};
use crate::log_store::Write;
use crate::transport::Channel;

impl<S: StateMachine> LogNode<S> {
    /// Takes everything that raft-rs has ready.
    pub(super) fn drain(&mut self) -> Result<(), Fault> {
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            self.take(ready)?;
        }
        self.checkpoint_when_due();
        Ok(())
    }

    fn take(&mut self, mut ready: Ready) -> Result<(), Fault> {
        let number = ready.number();
        let at_once = ready.take_messages();
        let after = ready.take_persisted_messages();
        for state in ready.take_read_states() {
            if let Ok(context) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) {
                let context = u64::from_le_bytes(context);
                self.out.reads.push((context, Revision(state.index)));
            }
        }
        if let Some(hard_state) = ready.hs() {
            self.hard_state = mirror::hard_state_from_raft(hard_state);
        }
        let mut write = Write::default();
        let snapshot =
            (!ready.snapshot().is_empty()).then(|| mirror::snapshot_from_raft(ready.snapshot()));
        if let Some(snapshot) = &snapshot {
            self.raw.mut_store().reset(snapshot.at);
            write.install = Some(snapshot.clone());
        }
        self.raw.mut_store().append(ready.entries());
        write.append = ready
            .entries()
            .iter()
            .map(mirror::entry_from_raft)
            .collect();
        let must_sync = ready.must_sync();
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);

        if must_sync {
            self.give_work(write, None);
        }
        if let Some(snapshot) = snapshot {
            let state = S::restore(&snapshot.data)
                .map_err(|err| Fault(format!("the leader's snapshot cannot be read: {err}")))?;
            self.installing = Some(Installing {
                work: self.work_given,
                state,
                at: snapshot.at,
                members: snapshot.members,
            });
        }
        self.emit(at_once)?;
        self.hold(number, after)?;
        self.apply(committed)
    }

    /// Numbers a piece of work. The hard state always goes along.
    pub(super) fn give_work(&mut self, mut write: Write, checkpoint: Option<StateToSave<S>>) {
        self.work_given += 1;
        write.hard_state = Some(self.hard_state);
        self.commit_given = self.hard_state.commit;
        self.out.work.push(Work {
            number: self.work_given,
            write,
            checkpoint,
        });
    }

    /// Keeps what speaks of this batch until the batch is durable. An answer to a heartbeat only says that we live, and
    /// must not wait for a slow disk.
    fn hold(&mut self, ready: u64, messages: Vec<Message>) -> Result<(), Fault> {
        let (at_once, after): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| message.get_msg_type() == MessageType::MsgHeartbeatResponse);
        self.emit(at_once)?;
        let messages = self.encode(after)?;
        self.held.push_back(Held {
            ready,
            needs: self.work_given,
            messages,
        });
        self.release();
        Ok(())
    }

    /// Lets go of what has become durable.
    pub(super) fn release(&mut self) {
        let mut durable = None;
        while let Some(held) = self.held.pop_front_if(|held| held.needs <= self.work_done) {
            self.out.messages.extend(held.messages);
            durable = Some(held.ready);
        }
        if let Some(ready) = durable {
            self.raw.on_persist_ready(ready);
        }
    }

    fn emit(&mut self, messages: Vec<Message>) -> Result<(), Fault> {
        let messages = self.encode(messages)?;
        self.out.messages.extend(messages);
        Ok(())
    }

    fn encode(&mut self, messages: Vec<Message>) -> Result<Vec<Outgoing>, Fault> {
        let mut encoded = Vec::with_capacity(messages.len());
        for message in messages {
            let outgoing = wire::encode(message)
                .map_err(|err| Fault(format!("a message cannot be written: {err}")))?;
            for message in outgoing {
                if message.channel == Channel::Snapshot {
                    let mib = (message.bytes.len() >> 20) as u64;
                    let ticks = SNAPSHOT_TICKS + mib * SNAPSHOT_TICKS_PER_MIB;
                    self.snapshots.insert(message.to.0, ticks);
                }
                encoded.push(message);
            }
        }
        let allowed = self.snapshots.len() < SNAPSHOTS_AT_ONCE;
        self.raw.mut_store().snapshots_allowed = allowed;
        Ok(encoded)
    }
}
