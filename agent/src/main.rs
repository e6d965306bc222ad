//! The `agent` binary: flags, then one call per subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    kawanan_agent::commands::main()
}
