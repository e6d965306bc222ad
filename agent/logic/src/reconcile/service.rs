//! One service: its seats are settled one by one, then the rollout takes its next step.

use std::sync::Arc;

use kawanan_api::{Revision, TaskId, Timestamp};

use super::seat::{SeatTasks, Work};
use super::{
    Draft, LazyPlacer, Pending, Why, cleanup, drain, global, node_loss, replicated, rollout,
};
use crate::command::{NewTask, TaskChange};
use crate::place::{NoPlacement, ServicePlacer, Tally, Wish};
use crate::state::{ClusterState, Desired, Rollout, Seat, Service, Task};

/// Brings one service closer to what its user asked for.
pub(super) fn look_after<'a>(
    state: &'a ClusterState,
    service: &'a Service,
    tasks: &[&'a Task],
    placer: &mut LazyPlacer<'a>,
    draft: &mut Draft,
    ids: &mut dyn FnMut() -> TaskId,
) {
    let work = Work::new(state, service, tasks);
    node_loss::give_up(&work, draft);
    let wanted = match work.spec.replicas() {
        Some(replicas) => replicated::seats(&work, replicas, draft),
        None => global::seats(&work, draft),
    };
    let progress = rollout::Progress::look(&work, &wanted, draft);
    let mut keeper = Keeper {
        placer,
        tally: None,
        wanted: &wanted,
        paused: matches!(service.rollout, Rollout::Paused { .. }) || progress.failed.is_some(),
        failed: progress.failed.clone(),
        moving: drain::under_way(&work, &wanted),
        work: &work,
        draft,
        ids,
    };
    for &seat in &wanted {
        if keeper.draft.is_full() {
            return;
        }
        keeper.tend(seat, &work.seat(seat));
    }
    keeper.roll_out(&progress);
    cleanup::history(&work, &wanted, draft);
}

/// What it takes to look after one service.
pub(super) struct Keeper<'k, 'a> {
    pub work: &'k Work<'a>,
    placer: &'k mut LazyPlacer<'a>,
    tally: Option<Tally>,
    /// The seats that are to be filled, in their order.
    wanted: &'k [Seat],
    pub draft: &'k mut Draft,
    pub ids: &'k mut dyn FnMut() -> TaskId,
    /// Outdated tasks are left alone.
    pub paused: bool,
    /// Why the rollout must stop here, once that is known.
    pub failed: Option<String>,
    /// Tasks being moved off their nodes.
    pub moving: u32,
}

/// A task to be made.
#[derive(Debug, Clone, Default)]
pub(super) struct Start {
    pub attempt: u32,
    pub not_before: Timestamp,
    pub wish: Wish,
}

impl<'a> Keeper<'_, 'a> {
    /// Places this service's tasks. Set up when the first one is placed.
    pub fn placer(&mut self) -> ServicePlacer<'_, 'a> {
        let (work, wanted) = (self.work, self.wanted);
        let placer = self.placer.get();
        let tally = self.tally.get_or_insert_with(|| {
            let live = wanted.iter().flat_map(|seat| work.seat(*seat).live);
            placer.tally(live.map(|task| {
                let stays = work.is_current(task) && work.is_well_placed(task);
                (task.node, stays)
            }))
        });
        placer.for_service(&work.spec.placement, tally)
    }

    fn tend(&mut self, seat: Seat, tasks: &SeatTasks<'_, '_>) {
        match tasks.live {
            [] => self.refill(seat, tasks),
            [only] if !self.work.is_well_placed(only) => self.move_away(seat, tasks, only),
            // If it is outdated, the rollout sees to it.
            [_] => {}
            several => self.choose_between(several),
        }
    }

    /// Puts a new task into a seat.
    ///
    /// # Errors
    /// When no node fits.
    pub fn create(
        &mut self,
        seat: Seat,
        revision: Revision,
        start: &Start,
    ) -> Result<(), Arc<NoPlacement>> {
        let spec = self.work.spec_of(revision);
        let (slot, node) = match seat {
            Seat::Slot(slot) => (
                Some(slot),
                self.placer().place(revision, spec, &start.wish)?,
            ),
            Seat::Node(node) => (None, self.placer().place_on(node, spec)?),
        };
        let task = NewTask {
            id: (self.ids)(),
            service: self.work.service.id,
            spec_revision: revision,
            slot,
            node,
            attempt: start.attempt,
            not_before: start.not_before,
        };
        self.draft.push(TaskChange::Create(task));
        Ok(())
    }

    pub fn stop(&mut self, task: &Task) {
        self.draft.push(TaskChange::SetDesired {
            task: task.id,
            desired: Desired::Shutdown,
        });
    }

    pub fn wait(&mut self, seat: Seat, keeps: Option<&Task>, why: Why) {
        self.draft.wait(Pending {
            service: self.work.service.id,
            seat,
            keeps: keeps.map(|task| task.id),
            why,
        });
    }

    /// Which revision an empty seat gets. While a rollout is paused, the one that worked last in it, or elsewhere.
    pub fn revision_for(&self, tasks: &SeatTasks<'_, '_>) -> Revision {
        let newest = self.work.service.spec_revision;
        if !self.paused {
            return newest;
        }
        // What ran before the rollout is trusted, however short it ran.
        let worked = tasks.past.iter().find(|task| {
            self.work.has_proven_itself(task, self.draft.now)
                || (!self.work.is_current(task) && task.running_since.is_some())
        });
        if let Some(task) = worked {
            return task.spec_revision;
        }
        let outdated = self.work.seats().flat_map(|(_, tasks)| tasks.live);
        outdated
            .filter(|task| !self.work.is_current(task))
            .map(|task| task.spec_revision)
            .max()
            .unwrap_or(newest)
    }

    /// Two tasks in one seat: one is there to replace the other.
    fn choose_between(&mut self, live: &[&Task]) {
        let work = self.work;
        let mut ranked = live.to_vec();
        ranked.sort_by_key(|task| {
            let up_to_date = self.paused || work.is_current(task);
            let place = (work.is_well_placed(task), up_to_date);
            std::cmp::Reverse((place, task.created_at, task.id))
        });
        let (heir, before) = (ranked[0], ranked[1]);
        for surplus in &ranked[2..] {
            self.stop(surplus);
        }
        let same = work.same_containers(heir.spec_revision, before.spec_revision);
        if !work.is_well_placed(heir) {
            self.stop(if before.is_running() && !heir.is_running() {
                heir
            } else {
                before
            });
        } else if !work.is_well_placed(before) {
            if self.is_good(heir, same) || !before.is_running() {
                self.stop(before);
            }
        } else if same {
            // A move that is not needed any more.
            self.stop(if heir.is_running() { before } else { heir });
        } else if self.paused {
            self.choose_while_paused(heir, before);
        } else if self.is_good(heir, same) {
            self.stop(before);
        }
    }

    fn choose_while_paused(&mut self, one: &Task, other: &Task) {
        let (new, old) = if self.work.is_current(one) {
            (one, other)
        } else {
            (other, one)
        };
        if self.is_good(new, false) || (new.is_running() && !old.is_running()) {
            self.stop(old);
        } else if old.is_running() {
            self.stop(new);
        }
    }

    /// Whether a task can take over. One that runs the same as the task before it is known to work; a new one has to
    /// stay up for a while.
    fn is_good(&mut self, task: &Task, same: bool) -> bool {
        let monitor = self.work.spec.update.monitor.duration();
        task.is_running()
            && (same
                || task
                    .running_since
                    .is_some_and(|since| self.draft.has_passed(since, monitor)))
    }
}
