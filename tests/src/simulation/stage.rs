//! Plays stories: carries out the acts of a block, then compares the look with what the story expects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use kawanan_agent::containers::simulated::Behavior;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{Mode, UpdateOrder, ValidSpec};
use kawanan_api::{ApiError, NodeId, ServiceId, ServiceSpec, Slot};
use kawanan_logic::Command;
use kawanan_logic::state::Availability;
use rand::Rng;

use super::faults::MachineIndex;
use super::look::look;
use super::runtime;
use super::story::{self, Act, Block};
use super::world::World;

/// Stories are all played with one seed: a story tells one thing that happens, not all that may.
const STORY_SEED: u64 = 1;
/// Longest time that `settle` waits.
const SETTLE: Duration = Duration::from_secs(120);

/// Plays the story in a file.
///
/// # Errors
/// When the story cannot be read, breaks an invariant, or does not end as it expects; `UPDATE_EXPECT=1` in the
/// environment rewrites the file instead.
pub fn play_file(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the story {}", path.display()))?;
    let mut blocks = story::parse(&text).with_context(|| format!("in {}", path.display()))?;
    let looks = play(&blocks).with_context(|| format!("in {}", path.display()))?;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for (block, shown) in blocks.iter_mut().zip(looks) {
            block.expected = block.expected.as_ref().map(|_| shown);
        }
        return std::fs::write(path, story::print(&blocks))
            .with_context(|| format!("cannot write {}", path.display()));
    }
    for (block, shown) in blocks.iter().zip(looks) {
        if let Some(expected) = &block.expected
            && *expected != shown
        {
            bail!(
                "{} tells another story after\n{}\nit expects\n{}\nand the cluster shows\n{}\n(UPDATE_EXPECT=1 rewrites it)",
                path.display(),
                block.source.join("\n"),
                expected.join("\n"),
                shown.join("\n")
            );
        }
    }
    Ok(())
}

/// Plays blocks and returns what the cluster showed after each.
///
/// # Errors
/// When an act names something that is not there, or an invariant breaks.
pub fn play(blocks: &[Block]) -> anyhow::Result<Vec<Vec<String>>> {
    runtime::run(async {
        let mut stage = Stage {
            world: World::new(STORY_SEED),
            services: BTreeMap::new(),
            refusals: Vec::new(),
        };
        let mut looks = Vec::new();
        for block in blocks {
            for act in &block.acts {
                stage.perform(act).await?;
            }
            let mut shown = std::mem::take(&mut stage.refusals);
            shown.extend(look(&stage.world));
            looks.push(shown);
        }
        if let Some(violation) = stage.world.ledger.violations().first() {
            bail!("{violation}\n{}", stage.world.trace.text());
        }
        Ok(looks)
    })?
}

struct Stage {
    world: World,
    services: BTreeMap<String, (ServiceId, ServiceSpec)>,
    /// What was refused since the last look.
    refusals: Vec<String>,
}

impl Stage {
    async fn perform(&mut self, act: &Act) -> anyhow::Result<()> {
        match act {
            Act::AddNode { name } => {
                let added = self.world.add_machine(name).await;
                self.note_refusal(added.err());
            }
            Act::Kill { node } => self.world.kill(self.place(node)?),
            Act::Stop { node } => self.world.stop(self.place(node)?).await,
            Act::Start { node } => self.world.start(self.place(node)?),
            Act::PowerOff { node } => self.world.power_off(self.place(node)?),
            Act::PowerOn { node } => self.world.power_on(self.place(node)?),
            Act::Freeze { node } => self.world.set_frozen(self.place(node)?, true),
            Act::Thaw { node } => self.world.set_frozen(self.place(node)?, false),
            Act::Cut { one, other } => {
                let (one, other) = (self.place(one)?, self.place(other)?);
                self.world.set_cut(one, other, true);
                self.world.set_cut(other, one, true);
            }
            Act::CutOneWay { from, to } => {
                let (from, to) = (self.place(from)?, self.place(to)?);
                self.world.set_cut(from, to, true);
            }
            Act::Isolate { node } => {
                let node = self.place(node)?;
                for other in (0..self.world.machines.len()).filter(|other| *other != node) {
                    self.world.set_cut(node, other, true);
                    self.world.set_cut(other, node, true);
                }
            }
            Act::Heal => self.world.heal(),
            Act::Exit {
                service,
                slot,
                code,
            } => self.exit(service, Slot(*slot), *code)?,
            Act::BreakImage { image } => self.break_image(image),
            Act::Advance { time } => self.world.pass(*time).await,
            Act::Settle => {
                if let Err(open) = self.world.settle(SETTLE).await {
                    self.refusals
                        .push(format!("not settled: {}", open.join("; ")));
                }
            }
            write => self.write(write).await?,
        }
        Ok(())
    }

    /// The acts that are writes to the log.
    async fn write(&mut self, act: &Act) -> anyhow::Result<()> {
        let command = match act {
            Act::CreateService { name, options } => {
                let mut spec = ServiceSpec::new(name, "web:1");
                set_options(&mut spec, options)?;
                if let Err(err) = ValidSpec::check(spec.clone()) {
                    self.note_refusal(Some(err));
                    return Ok(());
                }
                let id = ServiceId::from_bits(self.world.random.random());
                return self.create(name, id, spec).await;
            }
            Act::UpdateService { name, options } => {
                let (id, spec) = self.service(name)?;
                let (id, mut spec) = (*id, spec.clone());
                set_options(&mut spec, options)?;
                self.services.insert(name.clone(), (id, spec.clone()));
                Command::UpdateService {
                    id,
                    spec,
                    if_revision: None,
                }
            }
            Act::Scale { name, replicas } => {
                let id = self.service(name)?.0;
                Command::ScaleServices {
                    replicas: BTreeMap::from([(id, *replicas)]),
                }
            }
            Act::RemoveService { name } => Command::RemoveService {
                id: self.service(name)?.0,
            },
            Act::SetAvailability { node, availability } => Command::UpdateNode {
                id: self.node(node)?,
                availability: Some(match availability.as_str() {
                    "drain" => Availability::Drain,
                    "pause" => Availability::Pause,
                    _ => Availability::Active,
                }),
                set_labels: BTreeMap::new(),
                remove_labels: BTreeSet::new(),
            },
            Act::RemoveNode { node, force } => Command::RemoveNode {
                id: self.node(node)?,
                force: *force,
            },
            other => bail!("{other:?} is no write"),
        };
        let submitted = self.world.submit(command).await;
        self.note_refusal(submitted.err());
        Ok(())
    }

    async fn create(&mut self, name: &str, id: ServiceId, spec: ServiceSpec) -> anyhow::Result<()> {
        let command = Command::CreateService {
            id,
            spec: spec.clone(),
        };
        match self.world.submit(command).await {
            Ok(_) => {
                self.services.insert(name.to_owned(), (id, spec));
            }
            Err(err) => self.note_refusal(Some(err)),
        }
        Ok(())
    }

    fn note_refusal(&mut self, error: Option<ApiError>) {
        self.refusals
            .extend(error.map(|error| format!("refused: {error}")));
    }

    fn place(&self, name: &str) -> anyhow::Result<MachineIndex> {
        self.world
            .place_of(name)
            .with_context(|| format!("the story has no node {name}"))
    }

    fn node(&self, name: &str) -> anyhow::Result<NodeId> {
        Ok(self.world.machines[self.place(name)?].node)
    }

    fn service(&self, name: &str) -> anyhow::Result<&(ServiceId, ServiceSpec)> {
        self.services
            .get(name)
            .with_context(|| format!("the story has no service {name}"))
    }

    fn exit(&self, service: &str, slot: Slot, code: i32) -> anyhow::Result<()> {
        let id = self.service(service)?.0;
        let state = self.world.newest();
        let task = state
            .tasks_of(id)
            .find(|task| task.slot == Some(slot) && task.is_running())
            .with_context(|| format!("{service}.{slot} does not run"))?;
        for machine in &self.world.machines {
            machine.engine.kill_container(task.id, code);
        }
        Ok(())
    }

    fn break_image(&self, image: &str) {
        for machine in &self.world.machines {
            let behavior = Behavior {
                exits: Some((Duration::from_millis(200), 1)),
                ..Behavior::default()
            };
            machine.engine.set_behavior(image, behavior);
        }
    }
}

fn set_options(spec: &mut ServiceSpec, options: &story::Options) -> anyhow::Result<()> {
    for (key, value) in options {
        match key.as_str() {
            "replicas" => {
                spec.mode = Mode::Replicated {
                    replicas: value.parse().context("replicas is no number")?,
                };
            }
            "global" => spec.mode = Mode::Global,
            "image" => spec.container.image.clone_from(value),
            "env" => {
                let (name, value) = value.split_once('=').context("expected env=NAME=VALUE")?;
                let env = &mut spec.container.env;
                env.insert(name.to_owned(), Some(value.to_owned()));
            }
            "publish" => spec.ports.push(value.parse()?),
            "constraint" => spec.placement.constraints.push(value.parse()?),
            "max-per-node" => spec.placement.max_per_node = Some(value.parse()?),
            "cpus" => spec.resources.reservations.cpus = value.parse::<MilliCpus>()?,
            "memory" => spec.resources.reservations.memory = value.parse::<Bytes>()?,
            "parallelism" => spec.update.parallelism = value.parse()?,
            "order" if value == "stop-first" => spec.update.order = UpdateOrder::StopFirst,
            "order" if value == "start-first" => spec.update.order = UpdateOrder::StartFirst,
            _ => bail!("`{key}={value}` is no option of a service in stories"),
        }
    }
    Ok(())
}
