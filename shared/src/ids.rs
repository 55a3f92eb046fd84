//! Ids. A small integer names configuration (compact in a million cached links and in a hundred
//! million facts); a UUID names what happens: clicks, conversions, commissions.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! configuration_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// As events carry it. Ids are positive; anything else becomes 0, "none".
            #[must_use]
            pub fn to_wire(self) -> u64 {
                u64::try_from(self.0).unwrap_or(0)
            }

            /// From an event; none for 0 and for what PostgreSQL's bigint can't hold.
            #[must_use]
            pub fn from_wire(id: u64) -> Option<Self> {
                i64::try_from(id).ok().filter(|id| *id > 0).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

configuration_id! {
    /// A merchant's workspace.
    TenantId,
    /// A program of a tenant.
    ProgramId,
    /// A partner of a tenant.
    AffiliateId,
    /// A tracking link.
    LinkId,
}

/// Names Tributary's own UUIDs (version 5). Changing it would let every stored order in twice.
const CONVERSIONS: Uuid = Uuid::from_u128(0x6b0f_5f3e_0d0c_4f4e_9d3b_5a1c_7e2f_8a61);

/// The id of a conversion: the same for the same tenant, order and event, so that a merchant that
/// retries a postback reads the same id and every store can tell a repetition.
#[must_use]
pub fn conversion_id(tenant: TenantId, order_id: &str, event: &str) -> Uuid {
    // event can't hold the separator (see postback rules), so no two triples read alike.
    let name = format!("{tenant}\n{event}\n{order_id}");
    Uuid::new_v5(&CONVERSIONS, name.as_bytes())
}

/// A new UUIDv7 for something that happens at `now`: unique, and ordered in time.
#[must_use]
pub fn new_uuid_v7(now: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    let mut random = [0_u8; 10];
    rand::fill(&mut random);
    uuid_v7(millis, random)
}

/// The UUIDv7 of a moment, in milliseconds since 1970; six bits of `random` become its version and variant.
pub(crate) fn uuid_v7(millis: u64, random: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_id_depends_on_each_part() {
        let id = conversion_id(TenantId(1), "A-1", "sale");
        assert_eq!(id, conversion_id(TenantId(1), "A-1", "sale"));
        assert_ne!(id, conversion_id(TenantId(2), "A-1", "sale"));
        assert_ne!(id, conversion_id(TenantId(1), "A-2", "sale"));
        assert_ne!(id, conversion_id(TenantId(1), "A-1", "lead"));
    }

    #[test]
    fn wire_ids_round_trip_and_zero_is_none() {
        assert_eq!(LinkId::from_wire(LinkId(7).to_wire()), Some(LinkId(7)));
        assert_eq!(LinkId::from_wire(0), None);
        assert_eq!(LinkId::from_wire(u64::MAX), None);
    }
}
