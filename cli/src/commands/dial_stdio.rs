//! `kawan dial-stdio`: the far end of `ssh://`. Copies standard input to the agent's socket and back.

use kawanan_api::client::{Host, connect_local, parse_hosts};
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

use crate::failure::Failure;
use crate::flags::Global;

pub async fn run(global: &Global) -> Result<(), Failure> {
    let hosts = parse_hosts(&global.host)?;
    let Some(Host::Unix(path)) = hosts.iter().find(|host| matches!(host, Host::Unix(_))) else {
        return Err(Failure::usage(
            "dial-stdio connects to a socket of this machine only",
        ));
    };
    let stream = connect_local(path).await.map_err(|error| Failure::Other {
        message: error.to_string(),
        hint: error.hint(),
    })?;
    let (mut from_agent, mut to_agent) = stream.into_split();
    let (mut input, mut output) = (stdin(), stdout());
    let up = async {
        copy(&mut input, &mut to_agent).await?;
        to_agent.shutdown().await
    };
    let down = async {
        copy(&mut from_agent, &mut output).await?;
        output.flush().await
    };
    // The agent has the last word: input that stays open does not keep a finished conversation alive.
    tokio::select! {
        biased;
        ended = down => ended?,
        ended = async { up.await?; std::future::pending::<std::io::Result<()>>().await } => ended?,
    }
    Ok(())
}
