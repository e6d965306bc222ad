//! From flags to what commands work with.

use kawanan_api::Timestamp;
use kawanan_api::client::{Client, parse_hosts};

use crate::clock;
use crate::failure::Failure;
use crate::flags::{Global, Output};
use crate::print::style::Style;

/// What every command gets.
pub struct Context {
    pub client: Client,
    /// As asked for; `None` leaves it to the command.
    pub output: Option<Output>,
    /// For standard output.
    pub style: Style,
    pub now: Timestamp,
}

impl Context {
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let hosts = parse_hosts(&global.host)?;
        Ok(Self {
            client: Client::new(hosts).consistent(global.consistent),
            output: global.output,
            style: Style::of_stdout(),
            now: clock::now(),
        })
    }

    pub fn wants_json(&self) -> bool {
        self.output == Some(Output::Json)
    }
}
