//! What committed entries do to the state, and when the log's beginning may go.

use kawanan_api::Revision;
use kawanan_logic::Entry;
use kawanan_logic::codec::{self, CodecError};
use raft::eraftpb::{self, EntryType};

use super::{Applied, Changed, Fault, Installing, LogNode, StateToSave, Work};
use crate::consensus::{StateMachine, mirror};
use crate::log_store::{Position, Write};

impl<S: StateMachine> LogNode<S> {
    /// Applies committed entries, which are durable here.
    pub(super) fn apply(&mut self, entries: Vec<eraftpb::Entry>) -> Result<(), Fault> {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return Ok(());
        };
        for entry in entries {
            let at = Position {
                index: entry.index,
                term: entry.term,
            };
            self.bytes_since_checkpoint += entry.data.len() + entry.context.len();
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => self.skip(at),
                EntryType::EntryNormal => self.apply_command(at, &entry.data)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_step(at, &entry.context)?;
                }
            }
            // Only now: a snapshot made in between must not claim an entry whose effect it lacks.
            self.raw.mut_store().applied = at;
        }
        self.out.state_changed = true;
        self.raw.advance_apply_to(last);
        self.settle_members();
        Ok(())
    }

    fn skip(&mut self, at: Position) {
        self.raw.mut_store().state.skip(Revision(at.index));
    }

    fn apply_command(&mut self, at: Position, data: &[u8]) -> Result<(), Fault> {
        let entry: Entry = codec::decode(data).map_err(|err| too_old(at, &err))?;
        let outcome = self.raw.mut_store().state.apply(Revision(at.index), &entry);
        self.out.applied.push(Applied {
            index: at.index,
            request: entry.request,
            outcome,
        });
        Ok(())
    }

    fn apply_step(&mut self, at: Position, context: &[u8]) -> Result<(), Fault> {
        let step = mirror::decode_step(context).map_err(|err| too_old(at, &err))?;
        self.skip(at);
        let result = self.raw.apply_conf_change(&mirror::conf_change(&step));
        let result = result.map_err(|err| err.to_string()).map(|members| {
            self.raw.mut_store().members = mirror::members_from_raft(&members);
            tracing::info!(?step, members = ?self.members(), "members of the log changed");
        });
        self.out.changed.push(Changed {
            index: at.index,
            term: at.term,
            result,
        });
        Ok(())
    }

    /// A leader's snapshot is durable: it takes effect.
    pub(super) fn install(&mut self, installing: Installing<S>) {
        let Installing {
            state, at, members, ..
        } = installing;
        let store = self.raw.mut_store();
        store.state = state;
        store.members = members;
        store.applied = at;
        self.checkpoint_at = at.index;
        self.checkpointing = None;
        self.bytes_since_checkpoint = 0;
        self.out.state_changed = true;
        self.raw.advance_apply_to(at.index);
        tracing::info!(index = at.index, "took over the leader's snapshot");
    }

    /// Saves the state and drops the log's beginning, once enough was applied since the last time.
    pub(super) fn checkpoint_when_due(&mut self) {
        let applied = self.raw.store().applied;
        let entries = applied.index.saturating_sub(self.checkpoint_at);
        let due = entries >= self.config.checkpoint_entries
            || self.bytes_since_checkpoint >= self.config.checkpoint_bytes;
        if !due || entries == 0 || self.checkpointing.is_some() || self.installing.is_some() {
            return;
        }
        let drop_to = self.keep_from(applied.index);
        let store = self.raw.store();
        let save = StateToSave {
            state: store.state.clone(),
            at: applied,
            members: store.members.clone(),
            drop_to,
        };
        self.checkpoint_at = applied.index;
        self.bytes_since_checkpoint = 0;
        self.give_work(Write::default(), Some(save));
        self.checkpointing = self
            .out
            .work
            .last()
            .map(|work: &Work<S>| (work.number, drop_to));
    }

    /// Where the log may begin after a checkpoint at `applied`.
    fn keep_from(&self, applied: u64) -> Position {
        let store = self.raw.store();
        let start = store.start();
        let mut index = applied
            .saturating_sub(self.config.kept_entries)
            .max(start.index);
        while index < applied && store.bytes_after(index) > self.config.kept_bytes {
            index += (applied - index).div_ceil(2);
        }
        store
            .term_at(index)
            .map_or(start, |term| Position { index, term })
    }
}

/// Passing over an entry would make this node's state another one than everybody else's: it must stop instead.
fn too_old(at: Position, err: &CodecError) -> Fault {
    Fault(format!(
        "log entry {} cannot be understood ({err}): this agent is older than the others; upgrade it",
        at.index
    ))
}
