//! `kawan service update`: the service is read, changed and written back; if somebody else changed it meanwhile, the
//! same change is made to what they left.

use clap::{ArgAction, Args};
use kawanan_api::client::ClientError;
use kawanan_api::spec::{Constraint, Mode, Mount, PortSpec};
use kawanan_api::views::UpdateService;
use kawanan_api::{ErrorCode, ServiceSpec, ValidSpec};

use super::follow_up::{FollowUp, Waiting};
use super::shape::Shape;
use crate::connect::Context;
use crate::failure::Failure;
use crate::parse::{environment, mount, pairs, words};
use crate::print::style::Style;

/// How often the change is made again after somebody else came in between.
const TRIES_MAX: u32 = 5;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kawan service update --image nginx:1.28 web\n  \
    kawan service update --env-add LOG=debug --env-rm TRACE web\n  \
    kawan service update --publish-rm 80 --publish-add 8081:80 web\n  \
    kawan service update --force web          (restart all tasks)")]
pub struct Update {
    /// The image to run
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Arguments that replace the image's command, as one command line
    #[arg(long, value_name = "COMMAND", value_parser = words::split, allow_hyphen_values = true)]
    args: Option<std::vec::Vec<String>>,
    /// How many tasks
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<u32>,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    shape: Shape,
    /// Replace all tasks, also when nothing changes
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// The service: name, id, or the beginning of its id
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Changes of lists. What is removed need not be there; it is mentioned when it was not.
#[derive(Debug, Args)]
struct Lists {
    /// Set an environment variable
    #[arg(long, value_name = "VARIABLE", value_parser = environment::variable)]
    env_add: Vec<environment::Variable>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Publish another port, or the same one differently
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<PortSpec>,
    /// Stop publishing: a port inside the container, or PUBLISHED:TARGET
    #[arg(long, value_name = "PORT")]
    publish_rm: Vec<String>,
    /// Add a rule for nodes
    #[arg(long, value_name = "RULE")]
    constraint_add: Vec<Constraint>,
    /// Remove a rule for nodes
    #[arg(long, value_name = "RULE")]
    constraint_rm: Vec<Constraint>,
    /// Set a label of the service
    #[arg(long, value_name = "LABEL", value_parser = pairs::label)]
    label_add: Vec<(String, String)>,
    /// Remove a label of the service
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Set a label of the containers
    #[arg(long, value_name = "LABEL", value_parser = pairs::label)]
    container_label_add: Vec<(String, String)>,
    /// Remove a label of the containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add a mount, or replace the one with the same target
    #[arg(long, value_name = "MOUNT", value_parser = mount::long, action = ArgAction::Append)]
    mount_add: Vec<Mount>,
    /// Remove the mount with this target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
}

impl Update {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut tries = 1;
        loop {
            let service = context.client.service(&self.service).await?;
            let before = service.spec;
            let mut spec = before.clone();
            let not_there = self.change(&mut spec)?;
            ValidSpec::check(with_some_password(spec.clone()))?;
            let id = service.service.id.to_string();
            let update = UpdateService {
                spec: spec.clone(),
                if_revision: Some(service.revision),
            };
            match context.client.update_service(&id, &update).await {
                Ok(written) => {
                    for thing in not_there {
                        eprintln!(
                            "{} {thing} was not there",
                            Style::of_stderr().changing("note:")
                        );
                    }
                    let follow_up =
                        FollowUp::of_update(&context, &self.waiting, written, &before, &spec);
                    return follow_up.run().await;
                }
                Err(ClientError::Api(error))
                    if error.code == ErrorCode::Conflict && tries < TRIES_MAX =>
                {
                    let now = context.client.service(&id).await?;
                    if now.revision == service.revision {
                        return Err(error.into());
                    }
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns what was to be removed and is not there.
    fn change(&self, spec: &mut ServiceSpec) -> Result<Vec<String>, Failure> {
        if let Some(image) = &self.image {
            spec.container.image.clone_from(image);
        }
        if let Some(args) = &self.args {
            spec.container.args.clone_from(args);
        }
        if let Some(replicas) = self.replicas {
            match &mut spec.mode {
                Mode::Replicated { replicas: wanted } => *wanted = replicas,
                Mode::Global => {
                    return Err(Failure::usage(
                        "a global service runs once on every node: it has no --replicas",
                    ));
                }
            }
        }
        if self.force {
            spec.container.force_update = spec.container.force_update.wrapping_add(1);
        }
        let not_there = self.lists.change(spec)?;
        self.shape.apply(spec)?;
        Ok(not_there)
    }
}

/// A password that was not shown is there nevertheless.
fn with_some_password(mut spec: ServiceSpec) -> ServiceSpec {
    if let Some(auth) = &mut spec.container.registry_auth
        && auth.password.is_empty()
    {
        auth.password.push('x');
    }
    spec
}

impl Lists {
    fn change(&self, spec: &mut ServiceSpec) -> Result<Vec<String>, Failure> {
        let mut not_there = Vec::new();
        let mut check = |removed: bool, what: String| {
            if !removed {
                not_there.push(what);
            }
        };
        for name in &self.env_rm {
            check(
                spec.container.env.remove(name).is_some(),
                format!("variable {name}"),
            );
        }
        spec.container.env.extend(self.env_add.iter().cloned());
        for key in &self.label_rm {
            check(spec.labels.remove(key).is_some(), format!("label {key}"));
        }
        spec.labels.extend(self.label_add.iter().cloned());
        for key in &self.container_label_rm {
            check(
                spec.container.labels.remove(key).is_some(),
                format!("container label {key}"),
            );
        }
        spec.container
            .labels
            .extend(self.container_label_add.iter().cloned());
        for target in &self.mount_rm {
            check(
                remove(&mut spec.container.mounts, |mount| mount.target == *target),
                format!("mount {target}"),
            );
        }
        for mount in &self.mount_add {
            remove(&mut spec.container.mounts, |known| {
                known.target == mount.target
            });
            spec.container.mounts.push(mount.clone());
        }
        for rule in &self.constraint_rm {
            check(
                remove(&mut spec.placement.constraints, |known| known == rule),
                format!("constraint {rule}"),
            );
        }
        for rule in &self.constraint_add {
            if !spec.placement.constraints.contains(rule) {
                spec.placement.constraints.push(rule.clone());
            }
        }
        for port in &self.publish_rm {
            let gone = unpublished(port)?;
            check(remove(&mut spec.ports, gone), format!("port {port}"));
        }
        for port in &self.publish_add {
            remove(&mut spec.ports, |known| {
                (known.published, known.protocol) == (port.published, port.protocol)
            });
            spec.ports.push(*port);
        }
        Ok(not_there)
    }
}

/// Which ports a `--publish-rm` means: all with that target port, or the one pair.
fn unpublished(text: &str) -> Result<impl Fn(&PortSpec) -> bool, Failure> {
    let pair: Option<PortSpec> = text.parse().ok();
    let target: Option<u16> = text.parse().ok();
    if pair.is_none() && target.is_none() {
        return Err(Failure::usage(format!(
            "`{text}` is not a published port; write the port inside the container, such as 80, or 8080:80"
        )));
    }
    Ok(move |known: &PortSpec| match pair {
        Some(pair) => {
            (pair.published, pair.target, pair.protocol)
                == (known.published, known.target, known.protocol)
        }
        None => Some(known.target.get()) == target,
    })
}

fn remove<T>(list: &mut Vec<T>, mut unwanted: impl FnMut(&T) -> bool) -> bool {
    let before = list.len();
    list.retain(|item| !unwanted(item));
    list.len() < before
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::{Cli, Command};

    fn changed(spec: &ServiceSpec, line: &str) -> Result<(ServiceSpec, Vec<String>), Failure> {
        let words = crate::parse::words::split(line).unwrap();
        let words = ["kawan", "service", "update"]
            .into_iter()
            .map(str::to_owned)
            .chain(words);
        let Command::Service(super::super::Command::Update(update)) =
            Cli::try_parse_from(words).unwrap().command
        else {
            panic!("{line}");
        };
        let mut spec = spec.clone();
        let not_there = update.change(&mut spec)?;
        Ok((spec, not_there))
    }

    #[test]
    fn only_what_is_named_changes() {
        let mut before = ServiceSpec::new("web", "nginx:1");
        before
            .container
            .env
            .insert("A".to_owned(), Some("1".to_owned()));
        before
            .container
            .env
            .insert("B".to_owned(), Some("2".to_owned()));
        before.ports.push("8080:80".parse().unwrap());
        let (after, not_there) = changed(
            &before,
            "--image nginx:2 --env-rm A --env-rm Z --env-add C=3 --publish-rm 80 --publish-add 9090:80 \
             --replicas 4 --args 'nginx -g \"daemon off;\"' web",
        )
        .unwrap();
        let mut expected = before.clone();
        expected.container.image = "nginx:2".to_owned();
        expected.container.env.remove("A");
        expected
            .container
            .env
            .insert("C".to_owned(), Some("3".to_owned()));
        expected.ports = vec!["9090:80".parse().unwrap()];
        expected.mode = Mode::Replicated { replicas: 4 };
        expected.container.args = vec![
            "nginx".to_owned(),
            "-g".to_owned(),
            "daemon off;".to_owned(),
        ];
        assert_eq!(after, expected);
        assert_eq!(not_there, ["variable Z"]);
    }

    #[test]
    fn force_makes_other_tasks_though_nothing_changes() {
        let before = ServiceSpec::new("web", "nginx");
        let (after, _) = changed(&before, "--force web").unwrap();
        assert!(!before.same_task_as(&after));
    }
}
