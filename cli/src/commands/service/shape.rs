//! Flags that mean the same for `service create` and `service update`: everything that has one value.

use std::io::Read;

use clap::{Args, ValueEnum};
use kawanan_api::ServiceSpec;
use kawanan_api::duration::Span;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{HealthCheck, HealthTest, RegistryAuth, RestartCondition, UpdateOrder};

use crate::failure::Failure;
use crate::parse::{docker_login, words};

/// Longest password read from standard input.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub struct Shape {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    restart: Restart,
    #[command(flatten)]
    rollout: Rollout,
    #[command(flatten)]
    registry: Registry,
}

#[derive(Debug, Args)]
struct Process {
    /// Command line that replaces the image's entrypoint
    #[arg(long, value_name = "COMMAND", value_parser = words::split)]
    entrypoint: Option<std::vec::Vec<String>>,
    /// User name or id, optionally with :GROUP
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Host name inside the container
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Make the container's own files read-only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// Run an init as process 1, which reaps zombies and forwards signals
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Give the process a terminal
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// Signal that asks the process to stop, such as SIGTERM (the default) or SIGQUIT
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Time between that signal and SIGKILL, such as 30s
    #[arg(long, value_name = "TIME")]
    stop_grace_period: Option<Span>,
}

#[derive(Debug, Args)]
struct Resources {
    /// Most processor time, such as 0.5; 0 for no limit
    #[arg(long, value_name = "CPUS")]
    limit_cpu: Option<MilliCpus>,
    /// Most memory, such as 512m; 0 for no limit
    #[arg(long, value_name = "BYTES")]
    limit_memory: Option<Bytes>,
    /// Most processes and threads; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    limit_pids: Option<u32>,
    /// Processor time to set aside on the node
    #[arg(long, value_name = "CPUS")]
    reserve_cpu: Option<MilliCpus>,
    /// Memory to set aside on the node
    #[arg(long, value_name = "BYTES")]
    reserve_memory: Option<Bytes>,
    /// Most tasks on one node; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    replicas_max_per_node: Option<u32>,
}

#[derive(Debug, Args)]
struct Health {
    /// Command line that checks the container's health
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    health_cmd: Option<String>,
    /// Time between two checks
    #[arg(long, value_name = "TIME")]
    health_interval: Option<Span>,
    /// Longest time for one check
    #[arg(long, value_name = "TIME")]
    health_timeout: Option<Span>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<u32>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME")]
    health_start_period: Option<Span>,
    /// No health check, also when the image has one
    #[arg(long)]
    no_healthcheck: bool,
}

#[derive(Debug, Args)]
struct Restart {
    /// When a stopped container is replaced
    #[arg(long, value_enum, value_name = "CONDITION")]
    restart_condition: Option<Condition>,
    /// Wait before a restart; doubles with each failure in a row, up to a minute
    #[arg(long, value_name = "TIME")]
    restart_delay: Option<Span>,
    /// Failures after which a task stays down; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    restart_max_attempts: Option<u32>,
    /// How far back failures count; 0 for ever
    #[arg(long, value_name = "TIME")]
    restart_window: Option<Span>,
}

#[derive(Debug, Args)]
struct Rollout {
    /// Tasks that are replaced at the same time
    #[arg(long, value_name = "NUMBER")]
    update_parallelism: Option<u32>,
    /// Pause between one batch and the next
    #[arg(long, value_name = "TIME")]
    update_delay: Option<Span>,
    /// Whether the new task starts before the old one stops
    #[arg(long, value_enum, value_name = "ORDER")]
    update_order: Option<Order>,
    /// How long a new task must run before it counts as good
    #[arg(long, value_name = "TIME")]
    update_monitor: Option<Span>,
    /// Failures of new tasks that pause the update
    #[arg(long, value_name = "NUMBER")]
    update_max_failures: Option<u32>,
}

#[derive(Debug, Args)]
struct Registry {
    /// Send along the login that `docker login` keeps for the image's registry
    #[arg(long, conflicts_with = "registry_user")]
    with_registry_auth: bool,
    /// User name for the image's registry
    #[arg(long, value_name = "NAME", requires = "registry_password_stdin")]
    registry_user: Option<String>,
    /// Read the password for the image's registry from standard input
    #[arg(long, requires = "registry_user")]
    registry_password_stdin: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Condition {
    None,
    OnFailure,
    Any,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    StartFirst,
    StopFirst,
}

impl Shape {
    /// Writes what was given into the spec and leaves the rest alone.
    pub fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        self.process.apply(spec);
        self.resources.apply(spec);
        self.health.apply(spec)?;
        self.restart.apply(spec);
        self.rollout.apply(spec);
        self.registry.apply(spec)
    }
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// For fields where an empty text goes back to the image's own.
fn set_text(field: &mut Option<String>, value: &Option<String>) {
    if let Some(value) = value {
        *field = Some(value.clone()).filter(|value| !value.is_empty());
    }
}

/// For limits where 0 means none.
fn set_limit(field: &mut Option<u32>, value: Option<u32>) {
    if let Some(value) = value {
        *field = Some(value).filter(|value| *value > 0);
    }
}

impl Process {
    fn apply(&self, spec: &mut ServiceSpec) {
        let container = &mut spec.container;
        if let Some(entrypoint) = &self.entrypoint {
            container.entrypoint = Some(entrypoint.clone()).filter(|words| !words.is_empty());
        }
        set_text(&mut container.user, &self.user);
        set_text(&mut container.workdir, &self.workdir);
        set_text(&mut container.hostname, &self.hostname);
        set_text(&mut container.stop_signal, &self.stop_signal);
        set(&mut container.read_only, &self.read_only);
        set(&mut container.init, &self.init);
        set(&mut container.tty, &self.tty);
        if self.stop_grace_period.is_some() {
            container.stop_grace = self.stop_grace_period;
        }
    }
}

impl Resources {
    fn apply(&self, spec: &mut ServiceSpec) {
        let resources = &mut spec.resources;
        set(&mut resources.limits.cpus, &self.limit_cpu);
        set(&mut resources.limits.memory, &self.limit_memory);
        set(&mut resources.reservations.cpus, &self.reserve_cpu);
        set(&mut resources.reservations.memory, &self.reserve_memory);
        set_limit(&mut resources.pids_limit, self.limit_pids);
        set_limit(&mut spec.placement.max_per_node, self.replicas_max_per_node);
    }
}

impl Health {
    fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        let health = &mut spec.container.health;
        if self.no_healthcheck {
            *health = Some(check(HealthTest::None));
        }
        if let Some(command) = &self.health_cmd {
            let test = HealthTest::Shell(command.clone());
            *health = match health.take() {
                _ if command.is_empty() => None,
                Some(known) => Some(HealthCheck { test, ..known }),
                None => Some(check(test)),
            };
        }
        let times = [
            self.health_interval,
            self.health_timeout,
            self.health_start_period,
        ];
        if times.iter().all(Option::is_none) && self.health_retries.is_none() {
            return Ok(());
        }
        let Some(health) = health
            .as_mut()
            .filter(|health| health.test != HealthTest::None)
        else {
            return Err(Failure::usage("health check times need --health-cmd"));
        };
        health.interval = self.health_interval.or(health.interval);
        health.timeout = self.health_timeout.or(health.timeout);
        health.start_period = self.health_start_period.or(health.start_period);
        health.retries = self.health_retries.or(health.retries);
        Ok(())
    }
}

fn check(test: HealthTest) -> HealthCheck {
    HealthCheck {
        test,
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
    }
}

impl Restart {
    fn apply(&self, spec: &mut ServiceSpec) {
        let restart = &mut spec.restart;
        if let Some(condition) = self.restart_condition {
            restart.condition = match condition {
                Condition::None => RestartCondition::None,
                Condition::OnFailure => RestartCondition::OnFailure,
                Condition::Any => RestartCondition::Any,
            };
        }
        set(&mut restart.delay, &self.restart_delay);
        set(&mut restart.window, &self.restart_window);
        set_limit(&mut restart.max_attempts, self.restart_max_attempts);
    }
}

impl Rollout {
    fn apply(&self, spec: &mut ServiceSpec) {
        let update = &mut spec.update;
        if let Some(order) = self.update_order {
            update.order = match order {
                Order::StartFirst => UpdateOrder::StartFirst,
                Order::StopFirst => UpdateOrder::StopFirst,
            };
        }
        set(&mut update.parallelism, &self.update_parallelism);
        set(&mut update.delay, &self.update_delay);
        set(&mut update.monitor, &self.update_monitor);
        set(&mut update.max_failures, &self.update_max_failures);
    }
}

impl Registry {
    fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        if self.with_registry_auth {
            spec.container.registry_auth = Some(docker_login::for_image(&spec.container.image)?);
        }
        if let Some(username) = &self.registry_user {
            spec.container.registry_auth = Some(RegistryAuth {
                username: username.clone(),
                password: read_password()?,
            });
        }
        Ok(())
    }
}

fn read_password() -> Result<String, Failure> {
    let mut password = String::new();
    let read = std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut password);
    read.map_err(|err| {
        Failure::usage(format!(
            "cannot read the password from standard input: {err}"
        ))
    })?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(Failure::usage("standard input holds no password"));
    }
    Ok(password)
}
