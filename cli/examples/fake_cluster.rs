//! Serves the API of a cluster in memory: `cargo run -p kawan --example fake_cluster -- /tmp/api.sock 3`, to try
//! `kawan` without any machine. Images `missing`, `crash`, `once` and `slow` do what they say.

use std::path::PathBuf;
use std::sync::Arc;

use kawanan_agent::clock::SystemClock;
use kawanan_agent::http::fake::FakeCluster;
use kawanan_agent::http::{Api, ApiSocket, serve};
use kawanan_agent::random::SystemRandom;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("which socket?")?);
    let nodes = args.next().map_or(Ok(3), |count| count.parse())?;
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let fake = FakeCluster::new(nodes, clock.clone(), random.clone());
    let life = fake.live();
    let (stop, stopped) = watch::channel(false);
    let socket = ApiSocket::bind(&path).await?;
    let server = tokio::spawn(serve(socket, Api::new(fake, clock, random, stopped)));
    tokio::signal::ctrl_c().await?;
    stop.send(true)?;
    server.await?;
    life.abort();
    Ok(())
}
