//! `kawan service create`.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use kawanan_api::spec::{Constraint, Mode, Mount, PortSpec};
use kawanan_api::{ServiceSpec, ValidSpec};

use super::follow_up::{FollowUp, Waiting};
use super::shape::Shape;
use crate::connect::Context;
use crate::failure::Failure;
use crate::names;
use crate::parse::{environment, mount, pairs};

#[derive(Debug, Args)]
#[command(
    override_usage = "kawan service create [OPTIONS] IMAGE [ARG]...",
    after_help = "Examples:\n  \
        kawan service create --name web --replicas 3 --publish 8080:80 nginx:1.27\n  \
        kawan service create --name db --constraint node.labels.disk==ssd \\\n    \
        --mount source=db,target=/var/lib/postgresql/data -e POSTGRES_PASSWORD=x postgres:17\n  \
        kawan service create --name agent --mode global -v /var/log:/logs:ro example/shipper --verbose"
)]
pub struct Create {
    /// Name of the service; drawn at random if left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many tasks (default 1)
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<u32>,
    /// `replicated`: that many tasks; `global`: one on every node
    #[arg(long, value_enum, value_name = "MODE", default_value = "replicated")]
    mode: ModeName,
    /// Port to reach it at: PUBLISHED:TARGET[/udp], or published=8080,target=80,mode=host
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<PortSpec>,
    /// Environment variable: NAME=VALUE, or NAME for the caller's own value
    #[arg(short, long, value_name = "VARIABLE", value_parser = environment::variable)]
    env: Vec<environment::Variable>,
    /// File with one variable per line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Label of the service: KEY=VALUE
    #[arg(short, long, value_name = "LABEL", value_parser = pairs::label)]
    label: Vec<(String, String)>,
    /// Label of its containers: KEY=VALUE
    #[arg(long, value_name = "LABEL", value_parser = pairs::label)]
    container_label: Vec<(String, String)>,
    /// Rule for nodes: node.labels.KEY==VALUE, node.name!=NAME, ...; all must hold
    #[arg(long, value_name = "RULE")]
    constraint: Vec<Constraint>,
    /// Mount: type=volume|bind|tmpfs,source=...,target=...[,readonly]
    #[arg(long, value_name = "MOUNT", value_parser = mount::long)]
    mount: Vec<Mount>,
    /// Mount in short: [SOURCE:]TARGET[:ro]
    #[arg(short, long, value_name = "MOUNT", value_parser = mount::short)]
    volume: Vec<Mount>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    waiting: Waiting,
    /// Image, then arguments that replace the image's command
    #[arg(value_name = "IMAGE", required = true, trailing_var_arg = true, allow_hyphen_values = true, num_args = 1..)]
    image_and_args: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Replicated,
    Global,
}

impl Create {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let spec = self.spec()?;
        let spec = ValidSpec::check(spec)?.into_inner();
        let written = context.client.create_service(&spec).await?;
        FollowUp::of_creation(&context, &self.waiting, written, &spec)
            .run()
            .await
    }

    fn spec(&self) -> Result<ServiceSpec, Failure> {
        let Some((image, args)) = self.image_and_args.split_first() else {
            return Err(Failure::usage("which image?"));
        };
        if image.starts_with('-') {
            return Err(Failure::Usage {
                message: format!("`{image}` is neither a flag of this command nor an image"),
                hint: Some("`kawan service create --help` lists the flags".to_owned()),
            });
        }
        let name = self.name.clone().unwrap_or_else(names::random);
        let mut spec = ServiceSpec::new(name, image);
        spec.mode = self.mode()?;
        spec.container.args = args.to_vec();
        spec.container.env = self.env()?;
        spec.container.mounts = self.mount.iter().chain(&self.volume).cloned().collect();
        spec.container.labels = self.container_label.iter().cloned().collect();
        spec.labels = self.label.iter().cloned().collect();
        spec.placement.constraints.clone_from(&self.constraint);
        spec.ports.clone_from(&self.publish);
        self.shape.apply(&mut spec)?;
        Ok(spec)
    }

    fn mode(&self) -> Result<Mode, Failure> {
        match (self.mode, self.replicas) {
            (ModeName::Replicated, replicas) => Ok(Mode::Replicated {
                replicas: replicas.unwrap_or(1),
            }),
            (ModeName::Global, None) => Ok(Mode::Global),
            (ModeName::Global, Some(_)) => Err(Failure::usage(
                "a global service runs once on every node: --replicas does not go with --mode global",
            )),
        }
    }

    /// Variables given directly win over those of files.
    fn env(&self) -> Result<BTreeMap<String, Option<String>>, Failure> {
        let mut env = BTreeMap::new();
        for path in &self.env_file {
            env.extend(environment::file(path)?);
        }
        env.extend(self.env.iter().cloned());
        Ok(env)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kawanan_api::spec::{MountKind, Protocol};

    use super::*;
    use crate::flags::{Cli, Command};

    fn spec(words: &str) -> Result<ServiceSpec, Failure> {
        let words = crate::parse::words::split(words).unwrap();
        let words = ["kawan", "service", "create"]
            .into_iter()
            .map(str::to_owned)
            .chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Service(super::super::Command::Create(create)) => create.spec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_the_spec() {
        let spec = spec(
            "--name web --replicas 3 -p 8080:80 --publish 53:53/udp -e A=1 --env B= -l tier=front \
             --container-label x=y --constraint node.labels.disk==ssd --limit-memory 64m --reserve-cpu 0.5 \
             --health-cmd 'curl -f localhost' --health-interval 5s --restart-condition on-failure \
             --update-order stop-first --stop-grace-period 30s -v data:/srv -u 1000:1000 --read-only \
             nginx:1.27 nginx -g 'daemon off;' --name not-a-flag",
        )
        .unwrap();
        assert_eq!(spec.name, "web");
        assert_eq!(spec.replicas(), Some(3));
        assert_eq!(spec.container.image, "nginx:1.27");
        assert_eq!(
            spec.container.args,
            ["nginx", "-g", "daemon off;", "--name", "not-a-flag"]
        );
        assert_eq!(spec.ports[1].protocol, Protocol::Udp);
        assert_eq!(spec.container.env["B"], Some(String::new()));
        assert_eq!(spec.resources.limits.memory.0, 64 << 20);
        assert_eq!(
            spec.container.mounts[0].kind,
            MountKind::Volume {
                name: Some("data".to_owned())
            }
        );
        assert!(spec.container.read_only);
        assert!(ValidSpec::check(spec).is_ok());
    }

    #[test]
    fn a_switch_does_not_swallow_the_image() {
        let spec = spec("--init --tty nginx").unwrap();
        assert_eq!(spec.container.image, "nginx");
        assert!(spec.container.init && spec.container.tty);
        assert!(
            !super::super::create::tests::spec("--init=false nginx")
                .unwrap()
                .container
                .init
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(spec("--mode global --replicas 2 nginx").is_err());
        assert!(spec("--health-interval 5s nginx").is_err());
        assert!(spec("--no-such-flag nginx").is_err());
    }
}
