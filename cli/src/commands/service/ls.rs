//! `kawan service ls`.

use clap::Args;
use kawanan_api::views::{RolloutState, ServiceView};

use crate::connect::Context;
use crate::failure::Failure;
use crate::filter::Filters;
use crate::print::table::{Cell, Table, Tone};
use crate::print::{self};

#[derive(Debug, Args)]
pub struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show some only: name=, id=, label=KEY[=VALUE] or mode=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not shorten ids and texts
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let filters = Filters::parse(&self.filter, &["name", "id", "label", "mode"])?;
        let mut services = context.client.services().await?;
        services.retain(|service| {
            filters.fits_name("name", &service.name)
                && filters.fits_id(&service.id.to_string())
                && filters.fits_labels(&service.labels)
                && filters.fits("mode", |mode| mode == service.mode)
        });
        if context.wants_json() {
            return print::json(&services);
        }
        if self.quiet {
            return services
                .iter()
                .try_for_each(|service| print::line(&id(service, self.no_trunc)));
        }
        let mut table =
            Table::new(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]).flexible("IMAGE");
        for service in &services {
            table.row(vec![
                id(service, self.no_trunc).into(),
                service.name.as_str().into(),
                service.mode.as_str().into(),
                replicas(service),
                service.image.as_str().into(),
                print::ports(&service.ports).into(),
            ]);
        }
        table.print(context.style)
    }
}

fn id(service: &ServiceView, whole: bool) -> String {
    if whole {
        service.id.to_string()
    } else {
        service.id.short()
    }
}

fn replicas(service: &ServiceView) -> Cell {
    let count = format!("{}/{}", service.running, service.replicas);
    match service.update.state {
        RolloutState::Paused => Cell::toned(format!("{count} (update paused)"), Tone::Bad),
        RolloutState::Updating => Cell::toned(format!("{count} (updating)"), Tone::Changing),
        RolloutState::Steady if service.running == service.replicas => {
            Cell::toned(count, Tone::Plain)
        }
        RolloutState::Steady => Cell::toned(count, Tone::Changing),
    }
}
