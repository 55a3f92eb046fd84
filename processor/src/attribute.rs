//! Who brought this customer? A pure decision over the clicks that are known of a conversion.
//!
//! Model: last click. The latest click within the program's window before the conversion is credited
//! with all of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};

/// How far the clocks of two edges may differ: a click this much after "its" conversion still counts.
pub(crate) const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// A click that may have led to the conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Touchpoint {
    pub(crate) click_id: String,
    pub(crate) clicked_at: DateTime<Utc>,
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: ProgramId,
    pub(crate) affiliate_id: AffiliateId,
    pub(crate) link_id: LinkId,
    /// The program's window.
    pub(crate) window_seconds: i64,
    /// How we know of the click.
    pub(crate) evidence: &'static str,
}

/// Why a conversion is credited to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unattributed {
    /// The merchant sent no click id.
    NoClick,
    /// The click id is not one of ours.
    BadClickToken,
    /// The click's link does not exist.
    UnknownLink,
    /// The click belongs to another tenant.
    OtherTenant,
    /// The click lies outside the program's window.
    OutsideWindow,
}

impl Unattributed {
    /// As the column `attribution` holds it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoClick => "no_click",
            Self::BadClickToken => "bad_click_token",
            Self::UnknownLink => "unknown_link",
            Self::OtherTenant => "other_tenant",
            Self::OutsideWindow => "outside_window",
        }
    }
}

/// Chooses the touchpoint that is credited with a conversion of `tenant` at `converted_at`.
///
/// # Errors
/// Why there is none.
pub(crate) fn last_click(
    path: &[Touchpoint],
    tenant: TenantId,
    converted_at: DateTime<Utc>,
) -> Result<&Touchpoint, Unattributed> {
    if path.is_empty() {
        return Err(Unattributed::NoClick);
    }
    let own = || path.iter().filter(|touch| touch.tenant_id == tenant);
    if own().next().is_none() {
        return Err(Unattributed::OtherTenant);
    }
    own()
        .filter(|touch| in_window(touch, converted_at))
        .max_by_key(|touch| touch.clicked_at)
        .ok_or(Unattributed::OutsideWindow)
}

fn in_window(touch: &Touchpoint, converted_at: DateTime<Utc>) -> bool {
    let since = converted_at - touch.clicked_at;
    since >= -CLOCK_SKEW && since <= TimeDelta::seconds(touch.window_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: i64 = 3600;
    const TENANT: TenantId = TenantId(1);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn touch(tenant: i64, link: i64, seconds: i64) -> Touchpoint {
        Touchpoint {
            click_id: String::new(),
            clicked_at: at(seconds),
            tenant_id: TenantId(tenant),
            program_id: ProgramId(1),
            affiliate_id: AffiliateId(1),
            link_id: LinkId(link),
            window_seconds: WINDOW,
            evidence: "click_token",
        }
    }

    fn credited(path: &[Touchpoint]) -> Result<i64, Unattributed> {
        last_click(path, TENANT, at(0)).map(|touch| touch.link_id.0)
    }

    #[test]
    fn the_last_click_in_the_window_is_credited() {
        assert_eq!(
            credited(&[touch(1, 1, -50), touch(1, 2, -10), touch(1, 3, -20)]),
            Ok(2)
        );
        assert_eq!(credited(&[]), Err(Unattributed::NoClick));
        assert_eq!(
            credited(&[touch(2, 1, -10)]),
            Err(Unattributed::OtherTenant)
        );
        assert_eq!(credited(&[touch(2, 1, -10), touch(1, 2, -20)]), Ok(2));
    }

    #[test]
    fn the_window_includes_its_last_second() {
        assert_eq!(credited(&[touch(1, 1, -WINDOW)]), Ok(1));
        assert_eq!(
            credited(&[touch(1, 1, -WINDOW - 1)]),
            Err(Unattributed::OutsideWindow)
        );
        let skew = CLOCK_SKEW.num_seconds();
        assert_eq!(credited(&[touch(1, 1, skew)]), Ok(1));
        assert_eq!(
            credited(&[touch(1, 1, skew + 1)]),
            Err(Unattributed::OutsideWindow)
        );
    }

    proptest! {
        #[test]
        fn the_order_of_the_path_does_not_matter(
            mut path in proptest::collection::vec((1..3_i64, -5000..400_i64), 0..8)
        ) {
            path.dedup_by_key(|(_, seconds)| *seconds);
            let touches = |path: &[(i64, i64)]| -> Vec<Touchpoint> {
                path.iter().map(|(tenant, seconds)| touch(*tenant, *seconds + 10_000, *seconds)).collect()
            };
            let forward = credited(&touches(&path));
            path.reverse();
            prop_assert_eq!(forward, credited(&touches(&path)));
        }
    }
}
