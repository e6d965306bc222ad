//! How services are reached. For now: published ports, each answered on the nodes that run a task of the service.
//!
//! Ports in `ingress` mode are answered by the port proxy, a process of its own ([`proxy`]) with the same binary: it
//! keeps its last table on disk and serves on while the agent restarts. The agent side is [`ports`]: it starts the proxy
//! when there is something to publish and tells it the table. Ports in `host` mode are Docker's own affair.

pub mod ports;
pub mod proxy;
pub mod simulated;
pub mod table;

pub use ports::{IngressPorts, PortInUse, PortsHandle, SharedPorts};
pub use table::{PortKey, PortTable};
