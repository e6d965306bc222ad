//! One proxy serves at a time. A newer version takes the listening sockets themselves over from the older one, so no
//! connection that waits to be accepted is lost; the older one only sees its open connections out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::network::table::{LINE_BYTES_MAX, Order, PortKey, PortTable, ProxyFiles, Report};

/// Time for the older proxy to give its sockets.
const HANDOVER_DEADLINE: Duration = Duration::from_secs(3);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Listening sockets of the proxy before this one.
pub(super) type Inherited = BTreeMap<PortKey, OwnedFd>;

/// Takes the directory when it is free, takes over from a proxy of another version, or refuses.
///
/// # Errors
/// When a proxy of the same version serves the directory, or the older one does not let go.
pub(super) async fn become_the_one(
    files: &ProxyFiles,
    build: &str,
) -> io::Result<(File, Inherited)> {
    let deadline = Instant::now() + HANDOVER_DEADLINE;
    let mut inherited = Inherited::new();
    loop {
        if let Some(lock) = try_lock(files)? {
            return Ok((lock, inherited));
        }
        if inherited.is_empty() {
            let handed = timeout(HANDOVER_DEADLINE, take_over(files, build)).await;
            match handed.map_err(|_| serves_already("does not hand its ports over"))? {
                Ok(sockets) => inherited = sockets,
                Err(err) if err.kind() == io::ErrorKind::AddrInUse => return Err(err),
                // It is ending, or only starting.
                Err(err) => info!(%err, "another port proxy holds the directory"),
            }
        }
        if Instant::now() > deadline {
            return Err(serves_already("does not let go"));
        }
        sleep(LOCK_LOOK).await;
    }
}

fn serves_already(what: &str) -> io::Error {
    let text = format!("another port proxy serves in this directory and {what}");
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

fn try_lock(files: &ProxyFiles) -> io::Result<Option<File>> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(files.lock())?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

async fn take_over(files: &ProxyFiles, build: &str) -> io::Result<Inherited> {
    let mut stream = UnixStream::connect(files.socket()).await?;
    let order = Order {
        hand_over_to: Some(build.to_owned()),
        ..Order::of(&PortTable::new())
    };
    let mut line = serde_json::to_vec(&order)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    // Byte by byte: what follows the line are messages with sockets, which must not end up in a buffer.
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        answer.push(stream.read_u8().await?);
        if answer.len() as u64 > LINE_BYTES_MAX {
            return Err(io::Error::other("its answer is too long"));
        }
    }
    let report: Report = serde_json::from_slice(&answer)?;
    if report.build == build {
        return Err(serves_already("is of the same version"));
    }
    info!(
        old = report.build,
        ports = report.handed.len(),
        "taking over"
    );
    let mut inherited = Inherited::new();
    for key in report.handed {
        inherited.insert(key, receive_socket(&stream).await?);
    }
    Ok(inherited)
}

/// Sends one open socket; the other process gets one of its own to the same door.
pub(super) async fn send_socket(stream: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        let sent = sendmsg(
            stream,
            &[IoSlice::new(b"s")],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(sent)
    };
    match stream.async_io(Interest::WRITABLE, send).await? {
        1 => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
    }
}

async fn receive_socket(stream: &UnixStream) -> io::Result<OwnedFd> {
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )?;
        if message.bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        socket.ok_or_else(|| io::Error::other("a message came without its socket"))
    };
    stream.async_io(Interest::READABLE, receive).await
}

/// Allows this process as many open files as the system grants; returns how many.
pub(super) fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(err) = setrlimit(Resource::Nofile, limit) {
        warn!(%err, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
