//! The lab's network: one bridge, in a network namespace of its own where no Docker filters traffic.
//!
//! Nothing outside can be reached from it and it cannot be reached from outside, so every lab may use the same
//! addresses, whatever the machine around it uses. Docker's own pools (172.16/12, 192.168/16) are stayed clear of.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::machine::Machine;
use super::process;

/// The bridge's own address: every host's default route, and where the registry listens.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PREFIX_BITS: u8 = 24;
/// Hosts count from here: the first is 10.77.0.11.
const FIRST_HOST: u8 = 11;
/// Linux: 15 characters for the name of a network device, and the device of a host bears its name.
pub(super) const NAME_LENGTH_MAX: usize = 15;

const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Packets of a cut host are dropped where they enter and leave the bridge; those of a cut pair between its ports.
/// The host itself sees no link going down: as when a switch far away fails.
const CUTS: &str = "
table bridge lab {
    set cut { type ifname; }
    set cut_pairs { type ifname . ifname; }
    chain entering { type filter hook prerouting priority -300; iifname @cut drop; }
    chain leaving { type filter hook postrouting priority 300; oifname @cut drop; }
    chain between { type filter hook forward priority 0; iifname . oifname @cut_pairs drop; }
}
";

/// Address of the host with this number, counted from 0 in the order of their making.
pub fn address(number: usize) -> Result<Ipv4Addr> {
    let last = u8::try_from(number)?
        .checked_add(FIRST_HOST)
        .filter(|last| *last < 255);
    ensure!(
        last.is_some(),
        "a lab has room for {} hosts",
        254 - FIRST_HOST
    );
    let [a, b, c, _] = GATEWAY.octets();
    Ok(Ipv4Addr::new(a, b, c, last.unwrap_or_default()))
}

pub struct Wire {
    switch: Machine,
}

impl Wire {
    pub fn lay(dir: &Path, environment: Vec<(String, String)>) -> Result<Self> {
        let switch = Machine::boot("switch", dir, environment)?;
        let wire = Self { switch };
        // Forwarding is on only to say "unreachable" at once: there is no way out.
        wire.shell(&format!(
            "ip link add lab type bridge forward_delay 0 && ip addr add {GATEWAY}/{PREFIX_BITS} dev lab && \
             ip link set lab up && ip route add unreachable default && \
             sysctl -qw net.ipv4.ip_forward=1 && nft -f - <<'RULES'\n{CUTS}\nRULES"
        ))?;
        Ok(wire)
    }

    /// The machine that the bridge is on.
    pub fn switch(&self) -> &Machine {
        &self.switch
    }

    /// Gives a machine its network device, address and default route.
    pub fn plug(&self, machine: &Machine, address: Ipv4Addr) -> Result<()> {
        let name = machine.name();
        // Seen from this program's process namespace, because the pid is counted there.
        let pid = machine.pid().to_string();
        self.switch.inside_network(|| {
            let link = [
                "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &pid,
            ];
            process::run_here("ip", &link, COMMAND_DEADLINE)?.ok()?;
            let up = ["link", "set", name, "master", "lab", "up"];
            process::run_here("ip", &up, COMMAND_DEADLINE)?.ok()?;
            Ok(())
        })?;
        machine
            .shell(
                &format!(
                    "ip addr add {address}/{PREFIX_BITS} dev eth0 && ip link set eth0 up && \
                     ip route add default via {GATEWAY}"
                ),
                COMMAND_DEADLINE,
            )?
            .ok()?;
        Ok(())
    }

    /// Lets no packet from or to this host through.
    pub fn cut(&self, host: &str) -> Result<()> {
        self.shell(&format!(
            "nft add element bridge lab cut '{{ \"{host}\" }}'"
        ))
    }

    /// Undoes `cut`.
    pub fn heal(&self, host: &str) -> Result<()> {
        self.shell(&format!(
            "nft delete element bridge lab cut '{{ \"{host}\" }}'"
        ))
    }

    /// Lets no packet from one host to the other through; the way back stays open.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.shell(&format!(
            "nft add element bridge lab cut_pairs '{{ \"{from}\" . \"{to}\" }}'"
        ))
    }

    /// Undoes `cut_one_way`.
    pub fn heal_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.shell(&format!(
            "nft delete element bridge lab cut_pairs '{{ \"{from}\" . \"{to}\" }}'"
        ))
    }

    fn shell(&self, line: &str) -> Result<()> {
        self.switch.shell(line, COMMAND_DEADLINE)?.ok()?;
        Ok(())
    }
}
