//! `kawan version`: this program's version, and the agent's if one answers.

use serde::Serialize;

use crate::connect::Context;
use crate::failure::Failure;
use crate::print;

#[derive(Serialize)]
struct Versions {
    kawan: &'static str,
    agent: Option<kawanan_api::views::VersionView>,
}

pub async fn run(context: Context) -> Result<(), Failure> {
    let agent = context.client.version().await;
    let kawan = env!("CARGO_PKG_VERSION");
    if context.wants_json() {
        let agent = agent.ok();
        return print::json(&Versions { kawan, agent });
    }
    print::line(&format!("kawan   {kawan}"))?;
    match agent {
        Ok(agent) => print::line(&format!(
            "agent   {} on {}",
            agent.version,
            print::harmless(&agent.node_name)
        )),
        Err(error) => print::line(&format!("agent   {error}")),
    }
}
