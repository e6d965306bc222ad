//! `kawan service inspect`.

use clap::Args;
use kawanan_api::views::ServiceDetail;

use crate::connect::Context;
use crate::failure::Failure;
use crate::flags::Output;
use crate::print::{self, age};

#[derive(Debug, Args)]
pub struct Inspect {
    /// For people: the most important facts, one per line
    #[arg(long)]
    pretty: bool,
    /// Services: name, id, or the beginning of an id
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
}

impl Inspect {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut details = Vec::new();
        for service in &self.services {
            details.push(context.client.service(service).await?);
        }
        if self.pretty || context.output == Some(Output::Table) {
            for (number, detail) in details.iter().enumerate() {
                if number > 0 {
                    print::line("")?;
                }
                pretty(&context, detail)?;
            }
            return Ok(());
        }
        print::json(&details)
    }
}

fn pretty(context: &Context, detail: &ServiceDetail) -> Result<(), Failure> {
    let (service, spec) = (&detail.service, &detail.spec);
    let fact = |name: &str, value: String| {
        if value.is_empty() {
            return Ok(());
        }
        let name = format!("{:<13}", format!("{name}:"));
        print::line(&format!(
            "{} {}",
            context.style.faint(&name),
            print::harmless(&value)
        ))
    };
    fact("ID", service.id.to_string())?;
    fact("Name", service.name.clone())?;
    fact(
        "Mode",
        format!(
            "{}, {} of {} running",
            service.mode, service.running, service.replicas
        ),
    )?;
    fact("Image", service.image.clone())?;
    fact(
        "Entrypoint",
        spec.container
            .entrypoint
            .clone()
            .unwrap_or_default()
            .join(" "),
    )?;
    fact("Args", spec.container.args.join(" "))?;
    let env = (spec.container.env.iter()).map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("{name} (removed)"),
    });
    fact("Env", env.collect::<Vec<_>>().join(" "))?;
    let labels = spec
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    fact("Labels", labels.collect::<Vec<_>>().join(" "))?;
    let constraints = spec.placement.constraints.iter().map(ToString::to_string);
    fact("Constraints", constraints.collect::<Vec<_>>().join(", "))?;
    let (limits, reserved) = (&spec.resources.limits, &spec.resources.reservations);
    let amounts = |cpus: u64, memory: u64, text: String| {
        if cpus == 0 && memory == 0 {
            String::new()
        } else {
            text
        }
    };
    fact(
        "Limits",
        amounts(
            limits.cpus.0,
            limits.memory.0,
            format!("{} cpus, {}", limits.cpus, limits.memory),
        ),
    )?;
    fact(
        "Reserved",
        amounts(
            reserved.cpus.0,
            reserved.memory.0,
            format!("{} cpus, {}", reserved.cpus, reserved.memory),
        ),
    )?;
    fact("Ports", print::ports(&spec.ports))?;
    fact("Reachable at", detail.addresses.join(", "))?;
    fact("Created", age::ago(service.created_at, context.now))?;
    fact(
        "Updated",
        format!(
            "{}, revision {}",
            age::ago(service.updated_at, context.now),
            detail.revision
        ),
    )?;
    fact(
        "Update",
        service
            .update
            .reason
            .clone()
            .map(|why| format!("paused: {why}"))
            .unwrap_or_default(),
    )
}
