//! The node on a real Docker Engine.

use super::*;
use crate::clock::SystemClock;
use crate::containers::contract::Bench;
use crate::containers::contract::real::Machine;
use crate::network::SharedPorts;
use crate::random::SystemRandom;

fn start(machine: &Machine, log: &Log, ports: &SharedPorts) -> Node {
    Node::spawn(NodeParts {
        cluster: machine.cluster,
        node: ME,
        name: "n1".to_owned(),
        engine: machine.engine.clone(),
        state: log.state.subscribe(),
        caught_up: watch::channel(true).1,
        submit: Arc::new(log.clone()),
        ports: ports.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        parallel_starts: parallel_starts(),
    })
}

async fn until_all(log: &Log, state: TaskState) {
    let begun = Instant::now();
    loop {
        let now = log.state();
        let done = now
            .tasks
            .values()
            .filter(|task| task.state == state)
            .count();
        if done == now.tasks.len() {
            return;
        }
        assert!(begun.elapsed() < secs(300), "{:#?}", now.tasks);
        sleep(Duration::from_millis(2)).await;
    }
}

/// Bare create and start calls by as many workers, for comparison.
async fn bare_calls(machine: &Machine, spec: &ServiceSpec, count: u128) -> Duration {
    let begun = Instant::now();
    let next = Arc::new(Mutex::new(1001..=1000 + count));
    let mut workers = JoinSet::new();
    for _ in 0..parallel_starts() {
        let (engine, next) = (machine.engine.clone(), next.clone());
        let (cluster, spec) = (machine.cluster, Arc::new(spec.clone()));
        workers.spawn(async move {
            loop {
                let Some(number) = next.lock().unwrap().next() else {
                    return;
                };
                let container = TaskContainer {
                    cluster,
                    node: NodeId::from_bits(2),
                    node_name: "other".to_owned(),
                    service: SERVICE,
                    task: task(number),
                    slot: Some(Slot(number as u32)),
                    spec: spec.clone(),
                };
                let id = engine.create(&container).await.unwrap();
                engine.start(&id).await.unwrap();
            }
        });
    }
    workers.join_all().await;
    begun.elapsed()
}

async fn remove_all(machine: &Machine) {
    let list = machine.engine.list(machine.cluster).await.unwrap();
    let removals = list.iter().map(|seen| machine.engine.remove(&seen.id));
    for removed in futures::future::join_all(removals).await {
        removed.unwrap();
    }
}

#[tokio::test]
async fn tasks_run_on_docker_and_survive_the_agent() {
    let Some(machine) = Machine::find() else {
        return;
    };
    let clock = SimulatedClock::starting_at(SystemClock.now());
    let log = Log::found(clock, machine.cluster);
    let ports: SharedPorts = Arc::new(SimulatedPorts::default());
    let node = start(&machine, &log, &ports);
    log.create(machine.runs(), (1..=4).map(task));
    until_all(&log, TaskState::Running).await;
    let before = machine.engine.list(machine.cluster).await.unwrap();
    drop(node);
    let node = start(&machine, &log, &ports);
    sleep(secs(2)).await;
    assert_eq!(machine.engine.list(machine.cluster).await.unwrap(), before);
    for number in 1..=4 {
        log.want(task(number), Desired::Remove);
    }
    let begun = Instant::now();
    while !log.state().tasks.is_empty() {
        assert!(begun.elapsed() < secs(60), "{:#?}", log.state().tasks);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(machine.engine.list(machine.cluster).await.unwrap(), []);
    drop(node);
}

/// Not part of the usual run: it needs the machine for itself. Prints both times.
#[tokio::test]
#[ignore = "a measurement, for a quiet machine"]
async fn a_hundred_tasks_start_on_docker_in_little_more_than_bare_calls_need() {
    let machine = Machine::find().expect("this measures a real Docker Engine");
    let spec = machine.runs();
    let count = 100;
    for round in 1..=2 {
        let bare = bare_calls(&machine, &spec, count).await;
        remove_all(&machine).await;
        let clock = SimulatedClock::starting_at(SystemClock.now());
        let log = Log::found(clock, machine.cluster);
        let ports: SharedPorts = Arc::new(SimulatedPorts::default());
        let node = start(&machine, &log, &ports);
        sleep(secs(1)).await;
        let begun = Instant::now();
        log.create(spec.clone(), (1..=count).map(task));
        until_all(&log, TaskState::Running).await;
        let took = begun.elapsed();
        drop(node);
        remove_all(&machine).await;
        let ratio = took.as_secs_f64() / bare.as_secs_f64();
        eprintln!("round {round}: bare {bare:.2?}, by the node {took:.2?}, ratio {ratio:.3}");
    }
}
