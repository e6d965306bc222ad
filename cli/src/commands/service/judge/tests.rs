//! Tests of service judge.

use kawanan_api::duration::Span;
use kawanan_api::views::{DesiredState, RolloutView, TaskView};
use kawanan_api::{ServiceId, Timestamp};

use super::*;

const MONITOR: Duration = Duration::from_secs(2);

fn seat(number: u32, state: TaskState) -> SeatView {
    let task = TaskView {
        id: TaskId::from_bits(u128::from(number)),
        name: format!("web.{number}"),
        service: ServiceId::from_bits(1),
        service_name: "web".to_owned(),
        slot: Some(number),
        node: Some("n1".to_owned()),
        node_id: None,
        desired_state: DesiredState::Running,
        state,
        state_at: Timestamp::from_millis(0),
        error: None,
        exit_code: None,
        image: "nginx".to_owned(),
        revision: Revision(1),
        message: None,
        ports: Vec::new(),
    };
    SeatView {
        name: task.name.clone(),
        task,
        up_to_date: true,
        older_runs: false,
        ended: 0,
        last_error: None,
        last_node: Some("n1".to_owned()),
        running_since: None,
        waits_for: None,
    }
}

fn event(seats: Vec<SeatView>) -> ProgressEvent {
    let running = seats.iter().filter(|seat| runs(seat)).count();
    ProgressEvent {
        at: Timestamp::from_millis(1_000_000),
        applied: Revision(10),
        service: ServiceId::from_bits(1),
        name: "web".to_owned(),
        revision: Revision(1),
        wanted: u32::try_from(seats.len()).unwrap(),
        running: u32::try_from(running).unwrap(),
        complete: 0,
        rollout: RolloutView {
            state: RolloutState::Steady,
            at: None,
            reason: None,
        },
        monitor: Span::from_millis(2000),
        max_failures: 3,
        leaving: 0,
        converged: running == seats.len(),
        seats,
        addresses: Vec::new(),
        leaderless: false,
        removed: false,
    }
}

/// A judge, and the instant so many seconds after it began.
fn judge(same_containers: bool) -> (Judge, impl Fn(u64) -> Instant) {
    let started = Instant::now();
    let judge = Judge::new(
        started,
        Revision(10),
        Some(Duration::from_secs(60)),
        same_containers,
    );
    (judge, move |seconds| started + Duration::from_secs(seconds))
}

fn waiting(number: u32, why: &str) -> SeatView {
    let mut seat = seat(number, TaskState::Pending);
    seat.waits_for = Some(WaitsFor::Place);
    seat.task.error = Some(why.to_owned());
    seat
}

#[test]
fn pictures_from_before_the_write_are_not_looked_at() {
    let (judge, _) = judge(false);
    let mut old = event(vec![]);
    old.applied = Revision(9);
    assert!(!judge.is_recent(&old));
    assert!(judge.is_recent(&event(vec![])));
}

#[test]
fn what_just_started_has_to_stay_up_for_the_monitoring_time() {
    let (mut judge, at) = judge(false);
    let starting = event(vec![
        seat(1, TaskState::Running),
        seat(2, TaskState::Starting),
    ]);
    let running = event(vec![
        seat(1, TaskState::Running),
        seat(2, TaskState::Running),
    ]);
    assert_eq!(judge.judge(&starting, at(0)), Verdict::Wait);
    assert_eq!(judge.judge(&running, at(3)), Verdict::Wait);
    assert_eq!(judge.judge(&running, at(4)), Verdict::Wait);
    let took = Duration::from_secs(3);
    assert_eq!(
        judge.judge(&running, at(5)),
        Verdict::Converged {
            took,
            stable: MONITOR
        }
    );
}

#[test]
fn a_task_that_is_replaced_meanwhile_starts_the_wait_again() {
    let (mut judge, at) = judge(false);
    let running = event(vec![seat(1, TaskState::Running)]);
    assert_eq!(judge.judge(&running, at(0)), Verdict::Wait);
    let mut other = running.clone();
    other.seats[0].task.id = TaskId::from_bits(99);
    assert_eq!(judge.judge(&other, at(1)), Verdict::Wait);
    assert_eq!(judge.judge(&other, at(2)), Verdict::Wait);
    assert!(matches!(
        judge.judge(&other, at(3)),
        Verdict::Converged { .. }
    ));
}

#[test]
fn what_ran_long_before_needs_no_proof() {
    let (mut judge, at) = judge(true);
    let mut running = event(vec![seat(1, TaskState::Running)]);
    running.seats[0].running_since = Some(Timestamp::from_millis(1));
    let verdict = judge.judge(&running, at(0));
    let zero = Duration::ZERO;
    assert_eq!(
        verdict,
        Verdict::Converged {
            took: zero,
            stable: zero
        }
    );
    let (mut judge, at) = super::tests::judge(true);
    assert!(
        matches!(
            judge.judge(&event(vec![]), at(0)),
            Verdict::Converged { .. }
        ),
        "zero replicas"
    );
}

#[test]
fn no_place_counts_only_when_it_lasts_and_nothing_else_moves() {
    let (mut judge, at) = judge(false);
    let moving = event(vec![seat(1, TaskState::Preparing), waiting(2, "no memory")]);
    assert_eq!(judge.judge(&moving, at(0)), Verdict::Wait);
    assert_eq!(judge.judge(&moving, at(10)), Verdict::Wait);
    let settled = event(vec![
        seat(1, TaskState::Running),
        waiting(2, "no memory"),
        waiting(3, "no memory"),
    ]);
    assert_eq!(judge.judge(&settled, at(11)), Verdict::Wait);
    let why = "2 of 3 tasks cannot be placed: no memory".to_owned();
    assert_eq!(judge.judge(&settled, at(14)), Verdict::Unplaceable { why });
}

#[test]
fn a_service_that_keeps_failing_is_given_up_on() {
    let (mut judge, at) = judge(false);
    let mut failing = event(vec![seat(1, TaskState::Assigned)]);
    failing.seats[0].ended = 2;
    failing.seats[0].last_error = Some("exit code 1".to_owned());
    assert_eq!(judge.judge(&failing, at(1)), Verdict::Wait);
    failing.seats[0].ended = 3;
    let why = "web.1 ended 3 times, the last time on n1: exit code 1".to_owned();
    let rollout_paused = false;
    assert_eq!(
        judge.judge(&failing, at(2)),
        Verdict::Failed {
            why,
            rollout_paused
        }
    );
}

#[test]
fn failures_from_before_a_scaling_do_not_count() {
    let (mut judge, at) = judge(true);
    let mut shaky = event(vec![seat(1, TaskState::Starting)]);
    shaky.seats[0].ended = 7;
    assert_eq!(judge.judge(&shaky, at(0)), Verdict::Wait);
    shaky.seats[0].ended = 9;
    assert_eq!(judge.judge(&shaky, at(1)), Verdict::Wait);
    shaky.seats[0].ended = 10;
    assert!(matches!(judge.judge(&shaky, at(2)), Verdict::Failed { .. }));
}

#[test]
fn while_an_update_runs_its_own_rules_decide_about_failures() {
    let (mut judge, at) = judge(false);
    let mut updating = event(vec![seat(1, TaskState::Assigned)]);
    updating.rollout.state = RolloutState::Updating;
    updating.seats[0].ended = 5;
    assert_eq!(judge.judge(&updating, at(1)), Verdict::Wait);
    updating.rollout.state = RolloutState::Paused;
    updating.rollout.reason = Some("3 new tasks failed".to_owned());
    let why = "3 new tasks failed".to_owned();
    let rollout_paused = true;
    assert_eq!(
        judge.judge(&updating, at(2)),
        Verdict::Failed {
            why,
            rollout_paused
        }
    );
}

#[test]
fn a_task_that_is_not_restarted_is_a_failure_soon() {
    let (mut judge, at) = judge(false);
    let mut over = event(vec![seat(1, TaskState::Failed)]);
    over.seats[0].waits_for = Some(WaitsFor::Nothing);
    over.seats[0].last_error = Some("exit code 2".to_owned());
    over.seats[0].ended = 1;
    assert_eq!(judge.judge(&over, at(0)), Verdict::Wait);
    let why = "web.1 ended on n1: exit code 2, and is not restarted".to_owned();
    let rollout_paused = false;
    assert_eq!(
        judge.judge(&over, at(5)),
        Verdict::Failed {
            why,
            rollout_paused
        }
    );
}

#[test]
fn an_election_is_waited_for_and_a_lost_quorum_is_not() {
    let (mut judge, at) = judge(false);
    let mut leaderless = event(vec![seat(1, TaskState::Pending)]);
    leaderless.leaderless = true;
    assert_eq!(judge.judge(&leaderless, at(0)), Verdict::Wait);
    assert_eq!(
        judge.judge(&event(vec![seat(1, TaskState::Pending)]), at(10)),
        Verdict::Wait
    );
    assert_eq!(judge.judge(&leaderless, at(11)), Verdict::Wait);
    assert_eq!(judge.judge(&leaderless, at(26)), Verdict::NoLeader);
}

#[test]
fn the_time_is_up_when_it_is_up() {
    let (mut judge, at) = judge(false);
    let slow = event(vec![seat(1, TaskState::Preparing)]);
    assert_eq!(judge.judge(&slow, at(59)), Verdict::Wait);
    assert_eq!(judge.judge(&slow, at(60)), Verdict::TimedOut);
}
