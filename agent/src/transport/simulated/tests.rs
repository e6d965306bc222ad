//! Tests of transport simulated.

use std::collections::BTreeSet;

use super::super::contract::{self, Peer, answer_reversed, both, contract_suite, soon};
use super::*;

const DEADLINE: Duration = Duration::from_secs(3);

struct Simulation {
    network: SimulatedNetwork,
    nodes: u128,
}

impl Simulation {
    fn calm() -> Self {
        Self::with(1, Weather::calm())
    }

    fn with(seed: u64, weather: Weather) -> Self {
        Self {
            network: SimulatedNetwork::new(seed, weather),
            nodes: 0,
        }
    }

    fn peer(&mut self) -> Peer {
        contract::World::node(self)
    }
}

impl contract::World for Simulation {
    fn node(&mut self) -> Peer {
        self.nodes += 1;
        let id = NodeId::from_bits(self.nodes);
        let (links, inbound) = self.network.node(id);
        Peer { id, links, inbound }
    }

    async fn kill(&mut self, peer: &Peer) {
        self.network.crash(peer.id);
    }
}

contract_suite!(
    Simulation::calm(),
    #[tokio::test(start_paused = true)]
);

fn rough() -> Weather {
    Weather {
        delay: Duration::from_millis(1)..=Duration::from_millis(50),
        loss: 0.1,
        duplication: 0.1,
    }
}

/// Everything that arrives at the second of two nodes which talk for a while, with its time.
async fn transcript(seed: u64) -> (Vec<(Duration, Bytes)>, Traffic) {
    let mut simulation = Simulation::with(seed, rough());
    let one = simulation.peer();
    let mut two = simulation.peer();
    let begun = Instant::now();
    for number in 0..200u32 {
        let message = Bytes::from(number.to_be_bytes().to_vec());
        one.links.send(two.id, Channel::Raft, message).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut heard = Vec::new();
    while let Ok((_, message)) = two.inbound.raft.try_recv() {
        heard.push((begun.elapsed(), message));
    }
    (heard, simulation.network.traffic())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn one_seed_is_one_history_and_another_seed_another() {
    let first = run(transcript(7));
    assert_eq!(first, run(transcript(7)));
    assert_ne!(first, run(transcript(8)));
}

#[tokio::test(start_paused = true)]
async fn rough_weather_loses_and_doubles_but_keeps_raft_in_order() {
    let (heard, traffic) = transcript(3).await;
    let numbers: Vec<&Bytes> = heard.iter().map(|(_, message)| message).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] <= pair[1]));
    let distinct: BTreeSet<&Bytes> = numbers.iter().copied().collect();
    assert!(distinct.len() > 150 && distinct.len() < 200, "{traffic:?}");
    assert_eq!(traffic.sent, 200);
    assert_eq!(traffic.sent_bytes, 800);
    assert_eq!(traffic.lost as usize, 200 - distinct.len());
    assert_eq!(traffic.duplicated as usize, numbers.len() - distinct.len());
    assert_eq!(traffic.delivered as usize, numbers.len());
    assert!(traffic.duplicated > 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_a_cut_until_it_is_healed() {
    let mut simulation = Simulation::calm();
    let mut one = simulation.peer();
    let mut two = simulation.peer();
    let say = |links: &SharedLinks, to| {
        links
            .send(to, Channel::Raft, Bytes::from_static(b"x"))
            .unwrap();
    };
    simulation.network.cut_one_way(one.id, two.id);
    say(&one.links, two.id);
    say(&two.links, one.id);
    soon("the open direction", one.inbound.raft.recv()).await;
    assert!(two.inbound.raft.try_recv().is_err());
    simulation.network.heal(one.id, two.id);
    simulation.network.isolate(two.id);
    say(&one.links, two.id);
    say(&two.links, one.id);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(two.inbound.raft.try_recv().is_err());
    assert!(one.inbound.raft.try_recv().is_err());
    simulation.network.heal_all();
    say(&one.links, two.id);
    soon("the healed link", two.inbound.raft.recv()).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_on_its_way_is_lost_when_the_link_is_cut() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let mut two = simulation.peer();
    one.links
        .send(two.id, Channel::Raft, Bytes::from_static(b"x"))
        .unwrap();
    simulation.network.cut(one.id, two.id);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(two.inbound.raft.try_recv().is_err());
    assert_eq!(simulation.network.traffic().lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_into_a_fresh_cut_has_no_answer_and_into_an_old_one_is_unreachable() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let two = simulation.peer();
    let call = || one.links.call(two.id, Bytes::new(), DEADLINE);
    answer_reversed(two.inbound);
    call().await.unwrap();
    simulation.network.cut(one.id, two.id);
    assert_eq!(call().await, Err(CallError::NoAnswer { node: two.id }));
    tokio::time::sleep(limits::IDLE_TIMEOUT).await;
    assert!(matches!(call().await, Err(CallError::Unreachable { .. })));
    simulation.network.heal_all();
    call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_waiting_gets_through_once_the_link_is_healed() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let two = simulation.peer();
    answer_reversed(two.inbound);
    simulation.network.cut(one.id, two.id);
    let network = simulation.network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        network.heal_all();
    });
    let answer = one.links.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
}

#[tokio::test(start_paused = true)]
async fn a_crashed_node_says_nothing_and_comes_back_as_another_life() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let mut two = simulation.peer();
    let former = SharedLinks::clone(&two.links);
    let call = one.links.call(two.id, Bytes::new(), DEADLINE);
    let network = simulation.network.clone();
    let crash = async {
        let call = two.inbound.calls.recv().await.unwrap();
        network.crash(two.id);
        assert!(two.inbound.raft.recv().await.is_none());
        drop(call);
    };
    let (answer, ()) = both(call, crash).await;
    assert_eq!(answer, Err(CallError::NoAnswer { node: two.id }));
    let (links, mut inbound) = simulation.network.node(two.id);
    former
        .send(one.id, Channel::Raft, Bytes::from_static(b"former"))
        .unwrap();
    links
        .send(one.id, Channel::Raft, Bytes::from_static(b"present"))
        .unwrap();
    let mut one = one;
    let (_, message) = soon("the present life", one.inbound.raft.recv())
        .await
        .unwrap();
    assert_eq!(message, "present");
    one.links
        .send(two.id, Channel::Raft, Bytes::from_static(b"hello"))
        .unwrap();
    soon("the way back", inbound.raft.recv()).await.unwrap();
}

struct Nobody;

impl Gate for Nobody {
    fn admits(&self, _node: NodeId) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_admitted_is_refused() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let mut two = simulation.peer();
    simulation.network.set_gate(two.id, Arc::new(Nobody));
    one.links
        .send(two.id, Channel::Raft, Bytes::from_static(b"x"))
        .unwrap();
    let call = one.links.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(call, Err(CallError::Refused(two.id)));
    let open = one.links.open(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(open.err(), Some(CallError::Refused(two.id)));
    assert!(two.inbound.raft.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_joiner_s_request_is_answered() {
    let mut simulation = Simulation::calm();
    let mut one = simulation.peer();
    let asking = simulation
        .network
        .ask_to_join(one.id, Bytes::from_static(b"please"), DEADLINE);
    let serving = async {
        let call = one.inbound.joins.recv().await.unwrap();
        assert_eq!(call.request, "please");
        call.answer.send(Bytes::from_static(b"welcome")).unwrap();
    };
    let (answer, ()) = both(asking, serving).await;
    assert_eq!(answer.unwrap(), "welcome");
}

#[tokio::test(start_paused = true)]
async fn a_stream_across_a_lasting_cut_ends() {
    let mut simulation = Simulation::calm();
    let one = simulation.peer();
    let mut two = simulation.peer();
    let opening = one.links.open(two.id, Bytes::new(), DEADLINE);
    let (frames, call) = both(opening, two.inbound.streams.recv()).await;
    let (mut frames, call) = (frames.unwrap(), call.unwrap());
    simulation.network.cut(one.id, two.id);
    call.frames.send(Bytes::from_static(b"x")).await.unwrap();
    let end = tokio::time::timeout(limits::IDLE_TIMEOUT * 2, frames.recv()).await;
    assert_eq!(end, Ok(None));
    soon("the end at the server", call.frames.closed()).await;
}
