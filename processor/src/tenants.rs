//! What each tenant chose to keep of its clicks, and which visitors it had erased: read from PostgreSQL,
//! at most [`MAX_AGE`] old.

use std::net::Ipv6Addr;
use std::time::Duration;

use ahash::{HashMap, HashSet};
use sqlx::PgPool;
use tokio::time::Instant;

/// How old what is known may be. An erasure waits for longer than this before it counts as done.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30);
/// A tenant that is not known is looked for at most this often.
const UNKNOWN_EVERY: Duration = Duration::from_secs(1);

/// How much of an address is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKept {
    Whole,
    Truncated,
    None,
}

impl AddressKept {
    fn from_name(name: &str) -> Self {
        match name {
            "whole" => Self::Whole,
            "truncated" => Self::Truncated,
            _ => Self::None,
        }
    }

    /// What is kept of `address`: of a truncated one /24 of IPv4, /48 of IPv6.
    pub(crate) fn of(self, address: Ipv6Addr) -> Ipv6Addr {
        match (self, address.to_ipv4_mapped()) {
            (Self::Whole, _) => address,
            (Self::None, _) => Ipv6Addr::UNSPECIFIED,
            (Self::Truncated, Some(v4)) => {
                let [a, b, c, _] = v4.octets();
                std::net::Ipv4Addr::new(a, b, c, 0).to_ipv6_mapped()
            }
            (Self::Truncated, None) => {
                let [a, b, c, ..] = address.segments();
                Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
            }
        }
    }
}

/// A tenant's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) address_kept: AddressKept,
    pub(crate) click_days: u16,
}

/// Nobody's clicks, whose code no tenant has: little is kept, and briefly.
const NOBODY: Tenant = Tenant {
    address_kept: AddressKept::None,
    click_days: 30,
};

/// The tenants' choices.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_id: HashMap<u64, Tenant>,
    /// Tenant and visitor.
    erased: HashSet<(u64, u64)>,
    read_at: Option<Instant>,
}

impl Tenants {
    /// Whether it must be read before clicks of these tenants are stored.
    pub(crate) fn is_old(&self, mut tenants: impl Iterator<Item = u64>) -> bool {
        self.read_at.is_none_or(|at| {
            let age = at.elapsed();
            age > MAX_AGE
                || age > UNKNOWN_EVERY && tenants.any(|id| id != 0 && !self.by_id.contains_key(&id))
        })
    }

    pub(crate) async fn read(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let asked_at = Instant::now();
        let tenants: Vec<(i64, String, i32)> =
            sqlx::query_as("SELECT id, address_kept, click_days FROM tenants")
                .fetch_all(pool)
                .await?;
        let erased: Vec<(i64, String)> = sqlx::query_as(
            "SELECT tenant_id, visitor_id FROM erasures WHERE visitor_id IS NOT NULL",
        )
        .fetch_all(pool)
        .await?;
        let tenant = |(id, kept, days): (i64, String, i32)| {
            let tenant = Tenant {
                address_kept: AddressKept::from_name(&kept),
                click_days: u16::try_from(days).unwrap_or(NOBODY.click_days),
            };
            (id.unsigned_abs(), tenant)
        };
        self.by_id = tenants.into_iter().map(tenant).collect();
        let visitor = |(id, visitor): (i64, String)| {
            Some((id.unsigned_abs(), u64::from_str_radix(&visitor, 16).ok()?))
        };
        self.erased = erased.into_iter().filter_map(visitor).collect();
        self.read_at = Some(asked_at);
        Ok(())
    }

    pub(crate) fn of(&self, id: u64) -> Tenant {
        self.by_id.get(&id).copied().unwrap_or(NOBODY)
    }

    pub(crate) fn is_erased(&self, tenant: u64, visitor: u64) -> bool {
        !self.erased.is_empty() && self.erased.contains(&(tenant, visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_as_far_as_was_chosen() {
        let kept = |kept: AddressKept, address: &str| kept.of(address.parse().unwrap()).to_string();
        for (address, truncated) in [
            ("::ffff:203.0.113.9", "::ffff:203.0.113.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            ("::", "::"),
        ] {
            assert_eq!(kept(AddressKept::Whole, address), address);
            assert_eq!(kept(AddressKept::Truncated, address), truncated);
            assert_eq!(kept(AddressKept::None, address), "::");
        }
        assert_eq!(Tenants::default().of(7), NOBODY);
    }
}
