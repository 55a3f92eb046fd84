//! What takes long is done for so many at once and no more: a bound for each tenant, and one for all of them, so
//! that no tenant can take what the others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tributary_shared::ids::TenantId;

/// Places, by tenant; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    taken: Arc<Mutex<HashMap<TenantId, usize>>>,
    of_tenant: usize,
    of_all: usize,
}

/// A place that is taken; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    tenant: TenantId,
}

impl Slots {
    /// At most `of_tenant` places for one tenant and `of_all` in all.
    pub(crate) fn new(of_tenant: usize, of_all: usize) -> Self {
        Self {
            taken: Arc::default(),
            of_tenant,
            of_all,
        }
    }

    /// A place; none: all are taken.
    pub(crate) fn take(&self, tenant: TenantId) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&tenant).copied().unwrap_or(0);
        if own >= self.of_tenant || taken.values().sum::<usize>() >= self.of_all {
            return None;
        }
        taken.insert(tenant, own + 1);
        Some(Slot {
            slots: self.clone(),
            tenant,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let taken = self.slots.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.tenant) {
            Some(number) if *number > 1 => *number -= 1,
            _ => {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_and_all_have_so_many_places() {
        let slots = Slots::new(2, 3);
        let take = |tenant| slots.take(TenantId(tenant));
        let (first, _second) = (take(1).unwrap(), take(1).unwrap());
        assert!(take(1).is_none());
        let _third = take(2).unwrap();
        assert!(take(2).is_none());
        drop(first);
        assert!(take(1).is_some());
    }
}
