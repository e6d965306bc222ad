//! Published ports that open nothing: the twin of [`super::ports`] for tests and simulated clusters.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::ports::TAKEN;
use super::{IngressPorts, PortInUse, PortKey, PortTable};

/// Clones share the ports.
#[derive(Clone, Default)]
pub struct SimulatedPorts(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    table: Option<PortTable>,
    taken: BTreeSet<u16>,
    updates: u64,
}

impl SimulatedPorts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process listens on this port.
    pub fn occupy(&self, port: u16) {
        self.inner().taken.insert(port);
    }

    /// What was published last; `None` while nobody said anything.
    pub fn table(&self) -> Option<PortTable> {
        self.inner().table.clone()
    }

    /// How often the table changed.
    pub fn updates(&self) -> u64 {
        self.inner().updates
    }
}

#[async_trait]
impl IngressPorts for SimulatedPorts {
    async fn ensure(&self, key: PortKey) -> Result<(), PortInUse> {
        if self.inner().taken.contains(&key.port) {
            let cause = TAKEN.to_owned();
            return Err(PortInUse { key, cause });
        }
        Ok(())
    }

    fn update(&self, table: PortTable) {
        let mut inner = self.inner();
        if inner.table.as_ref() != Some(&table) {
            inner.updates += 1;
            inner.table = Some(table);
        }
    }

    async fn settled(&self) {}
}
