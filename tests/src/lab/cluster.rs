//! A cluster on hosts of the lab, and the questions that tests ask of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::engine::Container;
use super::host::Host;
use super::wait::wait_until;
use super::{Lab, Signal};

/// Elections, joins and detection of failures take seconds; the rest is for a busy machine.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

pub struct Cluster {
    nodes: Vec<Host>,
}

impl Cluster {
    /// Hosts `n1`, `n2`, ... with an agent each: the first founds the cluster, the others join by one token.
    pub fn start(lab: &Lab, nodes: usize) -> Result<Self> {
        let names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::form(lab.start_hosts(&names)?)
    }

    /// Hosts whose agents are, or will be, a cluster already.
    pub fn of(nodes: Vec<Host>) -> Self {
        Self { nodes }
    }

    /// Makes one cluster of hosts that have no agent yet.
    pub fn form(nodes: Vec<Host>) -> Result<Self> {
        let (first, others) = nodes
            .split_first()
            .context("a cluster has at least one node")?;
        first.start_agent_init()?;
        let token = first.token("")?;
        for host in others {
            host.join(&token)?;
        }
        let cluster = Self::of(nodes);
        cluster.wait_ready(cluster.nodes.len())?;
        Ok(cluster)
    }

    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    pub fn node(&self, index: usize) -> &Host {
        &self.nodes[index]
    }

    pub fn named(&self, name: &str) -> Result<&Host> {
        self.nodes
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| format!("no host {name}"))
    }

    /// Takes one more host in.
    pub fn add(&mut self, host: Host) -> Result<()> {
        host.join(&self.node(0).token("")?)?;
        self.nodes.push(host);
        Ok(())
    }

    /// Waits until every living agent lists this many ready nodes, one of them the leader.
    pub fn wait_ready(&self, count: usize) -> Result<()> {
        wait_until(&format!("{count} nodes are ready"), SETTLE_DEADLINE, || {
            for host in self.living() {
                let rows = host.kawan_rows("node ls")?;
                let ready = rows.iter().filter(|row| row["status"] == "ready").count();
                ensure!(
                    ready == count,
                    "{} sees {ready}: {}",
                    host.name(),
                    Value::from(rows)
                );
                let leaders = rows.iter().filter(|row| row["leader"] == true).count();
                ensure!(leaders == 1, "{} sees {leaders} leaders", host.name());
                let voters = rows.iter().filter(|row| row["voter"] == true).count();
                let enough = if count >= 3 { 3 } else { 1 };
                ensure!(voters >= enough, "{} sees {voters} voters", host.name());
            }
            Ok(())
        })
    }

    /// Waits until `asked` shows the node with this status.
    pub fn wait_status(&self, asked: &Host, node: &str, status: &str) -> Result<()> {
        wait_until(&format!("{node} is {status}"), SETTLE_DEADLINE, || {
            let row = node_row(asked, node)?;
            ensure!(row["status"] == status, "its status is {}", row["status"]);
            Ok(())
        })
    }

    /// The host whose agent leads, as some living agent sees it.
    pub fn leader(&self) -> Result<&Host> {
        let mut why = anyhow::anyhow!("no agent runs");
        for host in self.living() {
            match leader_as_seen_by(host) {
                Ok(name) => return self.named(&name),
                Err(err) => why = err,
            }
        }
        Err(why)
    }

    /// Hosts whose agent runs.
    pub fn living(&self) -> impl Iterator<Item = &Host> {
        self.nodes.iter().filter(|host| host.agent_pid().is_some())
    }

    /// All containers of a service, with the name of the host that they are on.
    pub fn containers_of(&self, service: &str) -> Result<Vec<(String, Container)>> {
        let mut all = Vec::new();
        for host in &self.nodes {
            let containers = host.engine().containers_of(service)?;
            all.extend(
                containers
                    .into_iter()
                    .map(|container| (host.name().to_owned(), container)),
            );
        }
        Ok(all)
    }

    /// Running containers of a service with the time of their last start, by id: two equal maps mean zero restarts.
    pub fn starts_of(&self, service: &str) -> Result<BTreeMap<String, String>> {
        let running = self
            .containers_of(service)?
            .into_iter()
            .filter(|(_, c)| c.is_running());
        Ok(running
            .map(|(_, container)| (container.id, container.started_at))
            .collect())
    }

    /// Waits until exactly this many containers of the service run on the given hosts, and `kawan` says so, too.
    pub fn wait_running_on(&self, hosts: &[&Host], service: &str, count: usize) -> Result<()> {
        let asked = *hosts
            .iter()
            .find(|host| host.agent_pid().is_some())
            .context("no agent runs")?;
        wait_until(
            &format!("{count} tasks of {service} run"),
            SETTLE_DEADLINE,
            || {
                let mut running = 0;
                for host in hosts {
                    let containers = host.engine().containers_of(service)?;
                    running += containers
                        .iter()
                        .filter(|container| container.is_running())
                        .count();
                }
                ensure!(running == count, "{running} containers run");
                let row = service_row(asked, service)?;
                ensure!(
                    row["running"] == count,
                    "`service ls` shows {} running",
                    row["running"]
                );
                Ok(())
            },
        )
    }

    /// The same on all hosts.
    pub fn wait_running(&self, service: &str, count: usize) -> Result<()> {
        self.wait_running_on(&self.nodes.iter().collect::<Vec<_>>(), service, count)
    }

    /// Ends every agent without a warning.
    pub fn kill_all_agents(&self) -> Result<()> {
        for host in &self.nodes {
            host.kill_agent(Signal::KILL)?;
        }
        Ok(())
    }

    /// Starts every agent from its data directory. None is ready before most of them run.
    pub fn start_all_agents(&self) -> Result<()> {
        for host in &self.nodes {
            host.spawn_agent("run")?;
        }
        self.wait_ready(self.nodes.len())
    }
}

/// The row of `kawan node ls` with this name.
pub fn node_row(asked: &Host, node: &str) -> Result<Value> {
    let rows = asked.kawan_rows("node ls")?;
    rows.into_iter()
        .find(|row| row["name"] == node)
        .with_context(|| format!("{} does not list {node}", asked.name()))
}

/// The row of `kawan service ls` with this name.
pub fn service_row(asked: &Host, service: &str) -> Result<Value> {
    let rows = asked.kawan_rows("service ls")?;
    rows.into_iter()
        .find(|row| row["name"] == service)
        .with_context(|| format!("{} does not list {service}", asked.name()))
}

fn leader_as_seen_by(host: &Host) -> Result<String> {
    let rows = host.kawan_rows("node ls")?;
    match rows
        .iter()
        .find(|row| row["leader"] == true)
        .map(|row| &row["name"])
    {
        Some(Value::String(name)) => Ok(name.clone()),
        _ => bail!("{} knows no leader", host.name()),
    }
}
