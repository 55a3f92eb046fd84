//! Who brought this customer? A pure decision over the touchpoints that are known of a conversion.
//!
//! Evidence counts in this order: a click token that the shop handed back, a coupon, the same visitor, the same
//! fingerprint. The strongest evidence within its program's window leads, and says in which program the conversion
//! counts; of equally strong ones the latest. The program's model then shares the conversion out over all touchpoints
//! of that program:
//!
//! | model | |
//! |---|---|
//! | `last_click` | all to the leading touchpoint |
//! | `first_click` | all to the earliest |
//! | `linear` | the same to each |
//! | `time_decay` | half as much for every 7 days before the conversion |
//! | `position_based` | 40 % to the first, 40 % to the last, 20 % among those between |
//!
//! Shares have six digits and sum to one exactly. A fingerprint is the weakest sign: it counts for a day, and beside
//! no other evidence.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tributary_shared::commission;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId};

use super::around::Around;

/// How far the clocks of two edges may differ: a click this much after "its" conversion still counts.
pub(crate) const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);
/// How long a fingerprint is worth anything.
const FINGERPRINT_WINDOW: TimeDelta = TimeDelta::days(1);
/// After this long a touchpoint counts half.
const HALF_LIFE_SECONDS: u64 = 7 * 86_400;

/// How we know of a touchpoint, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Evidence {
    ClickToken,
    Coupon,
    Visitor,
    Fingerprint,
}

impl Evidence {
    /// As the column `attribution` holds it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ClickToken => "click_token",
            Self::Coupon => "coupon",
            Self::Visitor => "visitor",
            Self::Fingerprint => "fingerprint",
        }
    }

    /// How sure it makes, in per cent, as said to people. No decision depends on it.
    pub(crate) fn confidence(self) -> u8 {
        match self {
            Self::ClickToken => 100,
            Self::Coupon => 95,
            Self::Visitor => 90,
            Self::Fingerprint => 40,
        }
    }
}

/// How a program shares a conversion out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    LastClick,
    FirstClick,
    Linear,
    TimeDecay,
    PositionBased,
}

impl Model {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LastClick => "last_click",
            Self::FirstClick => "first_click",
            Self::Linear => "linear",
            Self::TimeDecay => "time_decay",
            Self::PositionBased => "position_based",
        }
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [
            Self::LastClick,
            Self::FirstClick,
            Self::Linear,
            Self::TimeDecay,
            Self::PositionBased,
        ];
        all.into_iter()
            .find(|model| model.as_str() == name)
            .ok_or_else(|| format!("a model is one of {}", all.map(Self::as_str).join(", ")))
    }
}

/// Something that may have led to the conversion: a click, or a coupon that was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touchpoint {
    /// None: a coupon.
    pub(crate) click_id: Option<String>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) program_id: ProgramId,
    pub(crate) affiliate_id: AffiliateId,
    pub(crate) link_id: Option<LinkId>,
    pub(crate) evidence: Evidence,
    /// None: the click's facts are not known (yet), or it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<ClickFacts>,
}

/// What rules and signals ask of a click. It is kept with the path, as the ground on which was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClickFacts {
    pub(crate) country: String,
    pub(crate) device: String,
    /// By the click's `utm_campaign`.
    pub(crate) campaign: String,
    pub(crate) subs: [String; 5],
    pub(crate) is_bot: bool,
    /// As the column of the facts.
    pub(crate) signals: u16,
    /// None: it was not counted, by an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) around: Option<Around>,
    /// Which of the tenant's blocked addresses, networks or sites it came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blocked: Vec<String>,
}

/// What a program says of attribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) window_seconds: i64,
    pub(crate) model: Model,
}

/// Why a conversion is credited to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unattributed {
    /// Nothing speaks for anybody.
    NoClick,
    /// The click id is not one of ours.
    BadClickToken,
    /// The click's link does not exist.
    UnknownLink,
    /// The click belongs to another tenant.
    OtherTenant,
    /// All that is known lies outside the program's window.
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

/// A touchpoint with its part of the conversion, as the path keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    pub(crate) touchpoint: Touchpoint,
    pub(crate) confidence: u8,
    /// 0 to 1; 0: it was considered and gets nothing.
    pub(crate) share: Decimal,
}

/// Who is credited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribution {
    /// The place in `path` of the touchpoint that leads.
    pub(crate) leading: usize,
    pub(crate) model: Model,
    /// All that was considered, in the order of time.
    pub(crate) path: Vec<Step>,
}

impl Attribution {
    pub(crate) fn leading(&self) -> &Touchpoint {
        &self.path[self.leading].touchpoint
    }

    /// What each affiliate gets, in the order in which they first appear in the path; they sum to 1.
    pub(crate) fn shares(&self) -> Vec<(AffiliateId, Decimal)> {
        let mut shares: Vec<(AffiliateId, Decimal)> = Vec::new();
        for step in self.path.iter().filter(|step| !step.share.is_zero()) {
            let affiliate = step.touchpoint.affiliate_id;
            match shares.iter_mut().find(|(known, _)| *known == affiliate) {
                Some((_, share)) => *share += step.share,
                None => shares.push((affiliate, step.share)),
            }
        }
        shares
    }
}

/// Decides over `touchpoints`, all of them the tenant's own, in any order. `terms` knows each one's program.
///
/// # Errors
/// Why nobody is credited; with the path that was considered all the same.
pub(crate) fn attribute(
    touchpoints: &[Touchpoint],
    converted_at: DateTime<Utc>,
    terms: impl Fn(ProgramId) -> Option<Terms>,
) -> Result<Attribution, (Unattributed, Vec<Step>)> {
    let mut path: Vec<&Touchpoint> = Vec::new();
    let mut strongest_first: Vec<&Touchpoint> = touchpoints.iter().collect();
    strongest_first.sort_by_key(|touch| (touch.evidence, touch.at));
    for touch in strongest_first {
        // The same click, known in two ways, is one touchpoint.
        let known =
            |other: &&Touchpoint| other.click_id.is_some() && other.click_id == touch.click_id;
        if !path.iter().any(known) {
            path.push(touch);
        }
    }
    path.sort_by(|a, b| (a.at, &a.click_id).cmp(&(b.at, &b.click_id)));
    let counts: Vec<bool> = path
        .iter()
        .map(|touch| {
            terms(touch.program_id).is_some_and(|terms| in_window(touch, converted_at, terms))
        })
        .collect();
    let leading = (0..path.len())
        .filter(|place| counts[*place])
        .max_by_key(|place| (std::cmp::Reverse(path[*place].evidence), *place));
    let keep = |shares: &[Decimal]| -> Vec<Step> {
        let steps = path.iter().zip(shares);
        let step = |(touch, share): (&&Touchpoint, &Decimal)| Step {
            touchpoint: (*touch).clone(),
            confidence: touch.evidence.confidence(),
            share: *share,
        };
        steps.map(step).collect()
    };
    let Some((leading, terms)) = leading.and_then(|at| Some((at, terms(path[at].program_id)?)))
    else {
        let reason = if path.is_empty() {
            Unattributed::NoClick
        } else {
            Unattributed::OutsideWindow
        };
        return Err((reason, keep(&vec![Decimal::ZERO; path.len()])));
    };
    let by_fingerprint = path[leading].evidence == Evidence::Fingerprint;
    let shared: Vec<usize> = (0..path.len())
        .filter(|place| {
            let touch = path[*place];
            counts[*place]
                && touch.program_id == path[leading].program_id
                && (by_fingerprint || touch.evidence != Evidence::Fingerprint)
        })
        .collect();
    let weights = weights(terms.model, &shared, leading, |place| {
        let age = (converted_at - path[place].at).num_seconds().max(0);
        age.unsigned_abs()
    });
    let mut shares = vec![Decimal::ZERO; path.len()];
    // It refuses no weights, and more of them than a path ever has.
    for (place, share) in shared
        .iter()
        .zip(commission::shares(&weights).unwrap_or_default())
    {
        shares[*place] = share;
    }
    Ok(Attribution {
        leading,
        model: terms.model,
        path: keep(&shares),
    })
}

fn in_window(touch: &Touchpoint, converted_at: DateTime<Utc>, terms: Terms) -> bool {
    let window = TimeDelta::seconds(terms.window_seconds);
    let window = match touch.evidence {
        Evidence::Coupon => return true, // it was used with this very order
        Evidence::Fingerprint => window.min(FINGERPRINT_WINDOW),
        Evidence::ClickToken | Evidence::Visitor => window,
    };
    let since = converted_at - touch.at;
    since >= -CLOCK_SKEW && since <= window
}

/// How much each of `places`, which are in the order of time, counts; `leading` is one of them.
fn weights(model: Model, places: &[usize], leading: usize, age: impl Fn(usize) -> u64) -> Vec<u64> {
    let last = places.len() - 1;
    let weight = |(nth, place): (usize, &usize)| match model {
        Model::LastClick => u64::from(*place == leading),
        Model::FirstClick => u64::from(nth == 0),
        Model::Linear => 1,
        Model::TimeDecay => decayed(age(*place)),
        // In units of which the middle ones together have 2, however many they are.
        Model::PositionBased => match last {
            0 | 1 => 1,
            _ if nth == 0 || nth == last => 2 * (last as u64 - 1),
            _ => 1,
        },
    };
    places.iter().enumerate().map(weight).collect()
}

/// 2^32 · 2^(-age / half-life), at least 1: in whole numbers, so that it is the same on every machine.
fn decayed(age_seconds: u64) -> u64 {
    /// 2^32 · 2^(-1/2), 2^(-1/4) ... 2^(-1/256): a 256th of the half-life is forty minutes.
    const ROOTS: [u64; 8] = [
        3_037_000_500,
        3_611_622_603,
        3_938_502_376,
        4_112_874_773,
        4_202_935_003,
        4_248_703_256,
        4_271_772_977,
        4_283_353_962,
    ];
    let halves = age_seconds / HALF_LIFE_SECONDS;
    let part = (age_seconds % HALF_LIFE_SECONDS) * 256 / HALF_LIFE_SECONDS;
    let mut weight = 1_u64 << 32;
    for (bit, root) in ROOTS.iter().enumerate() {
        if part & (128 >> bit) != 0 {
            weight = (weight * root) >> 32;
        }
    }
    weight
        .checked_shr(u32::try_from(halves).unwrap_or(u32::MAX))
        .unwrap_or(0)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    const WINDOW: i64 = 30 * 86_400;
    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn touch(evidence: Evidence, affiliate: i64, seconds: i64) -> Touchpoint {
        Touchpoint {
            click_id: (evidence != Evidence::Coupon).then(|| format!("{affiliate}-{seconds}")),
            at: at(seconds),
            program_id: ProgramId(1),
            affiliate_id: AffiliateId(affiliate),
            link_id: Some(LinkId(affiliate)),
            evidence,
            facts: None,
        }
    }

    fn decide(model: Model, touches: &[Touchpoint]) -> Result<Attribution, Unattributed> {
        let terms = |_| {
            Some(Terms {
                window_seconds: WINDOW,
                model,
            })
        };
        attribute(touches, at(0), terms).map_err(|(reason, _)| reason)
    }

    /// Each affiliate's share, in millionths.
    fn shares(model: Model, touches: &[Touchpoint]) -> Vec<(i64, i128)> {
        let shares = decide(model, touches).unwrap().shares();
        let millionths = |share: Decimal| (share * dec!(1_000_000)).normalize().mantissa();
        let share = |(affiliate, share): (AffiliateId, Decimal)| (affiliate.0, millionths(share));
        shares.into_iter().map(share).collect()
    }

    const WHOLE: i128 = 1_000_000;

    use Evidence::{ClickToken, Coupon, Fingerprint, Visitor};
    use Model::{FirstClick, LastClick, Linear, PositionBased, TimeDecay};

    #[test]
    fn the_strongest_evidence_leads_and_of_equals_the_latest() {
        let touches = [
            touch(Visitor, 1, -10),
            touch(ClickToken, 2, -500),
            touch(Coupon, 3, 0),
            touch(Fingerprint, 4, -1),
        ];
        assert_eq!(shares(LastClick, &touches), [(2, WHOLE)]);
        assert_eq!(shares(LastClick, &touches[2..]), [(3, WHOLE)]);
        assert_eq!(
            shares(LastClick, &[touches[0].clone(), touches[3].clone()]),
            [(1, WHOLE)]
        );
        assert_eq!(shares(LastClick, &touches[3..]), [(4, WHOLE)]);
        let two = [touch(Visitor, 1, -10), touch(Visitor, 2, -20)];
        assert_eq!(shares(LastClick, &two), [(1, WHOLE)]);
        assert_eq!(decide(LastClick, &[]), Err(Unattributed::NoClick));
    }

    #[test]
    fn each_model_shares_out_in_its_way() {
        let touches = [
            touch(Visitor, 1, -14 * DAY),
            touch(Visitor, 2, -7 * DAY),
            touch(Visitor, 3, -3600),
            touch(ClickToken, 4, 0),
        ];
        assert_eq!(shares(FirstClick, &touches), [(1, WHOLE)]);
        assert_eq!(shares(Linear, &touches), [1, 2, 3, 4].map(|a| (a, 250_000)));
        assert_eq!(
            shares(PositionBased, &touches),
            [(1, 400_000), (2, 100_000), (3, 100_000), (4, 400_000)]
        );
        assert_eq!(
            shares(PositionBased, &touches[2..]),
            [(3, 500_000), (4, 500_000)]
        );
        assert_eq!(shares(PositionBased, &touches[3..]), [(4, WHOLE)]);
        // 1/4, 1/2 and 1 of 7/4.
        let decay = [touches[0].clone(), touches[1].clone(), touches[3].clone()];
        assert_eq!(
            shares(TimeDecay, &decay),
            [(1, 142_857), (2, 285_714), (4, 571_429)]
        );
    }

    #[test]
    fn an_affiliate_with_several_clicks_gets_their_sum_and_a_click_counts_once() {
        let mut same = touch(Visitor, 1, -5);
        let click = touch(ClickToken, 1, -5);
        same.click_id.clone_from(&click.click_id);
        let touches = [click, same, touch(Visitor, 1, -9), touch(Visitor, 2, -7)];
        assert_eq!(shares(Linear, &touches), [(1, 666_667), (2, 333_333)]);
    }

    #[test]
    fn the_window_includes_its_last_second_and_a_fingerprint_has_a_day() {
        let credited =
            |evidence, seconds| decide(LastClick, &[touch(evidence, 1, seconds)]).is_ok();
        assert!(credited(ClickToken, -WINDOW));
        assert!(!credited(ClickToken, -WINDOW - 1));
        assert!(credited(Visitor, CLOCK_SKEW.num_seconds()));
        assert!(!credited(Visitor, CLOCK_SKEW.num_seconds() + 1));
        assert!(credited(Fingerprint, -DAY));
        assert!(!credited(Fingerprint, -DAY - 1));
        assert_eq!(
            decide(LastClick, &[touch(ClickToken, 1, -WINDOW - 1)]),
            Err(Unattributed::OutsideWindow)
        );
    }

    #[test]
    fn a_fingerprint_shares_with_no_better_evidence_and_no_other_program() {
        let mut elsewhere = touch(Visitor, 9, -1);
        elsewhere.program_id = ProgramId(2);
        let touches = [
            touch(Fingerprint, 1, -10),
            touch(ClickToken, 2, -20),
            elsewhere,
        ];
        assert_eq!(shares(Linear, &touches), [(2, WHOLE)]);
        assert_eq!(decide(Linear, &touches).unwrap().path.len(), 3);
    }

    #[test]
    fn a_touchpoint_decays_by_half_in_a_week() {
        let week = HALF_LIFE_SECONDS;
        assert_eq!(decayed(0), 1 << 32);
        assert_eq!(decayed(week), 1 << 31);
        assert_eq!(decayed(3 * week), 1 << 29);
        assert!(decayed(week / 2).abs_diff(3_037_000_499) < 10);
        assert_eq!(decayed(u64::MAX), 1);
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_whatever_the_path_and_its_order(
            mut touches in proptest::collection::vec((0..4_usize, 1..5_i64, -40 * DAY..600_i64), 1..70), model in 0..5_usize
        ) {
            let model = [LastClick, FirstClick, Linear, TimeDecay, PositionBased][model];
            let all = |touches: &[(usize, i64, i64)]| -> Vec<Touchpoint> {
                let kinds = [ClickToken, Coupon, Visitor, Fingerprint];
                touches.iter().map(|(kind, affiliate, seconds)| touch(kinds[*kind], *affiliate, *seconds)).collect()
            };
            // Two that no one can tell apart would make the order matter.
            touches.sort_by_key(|t| t.2);
            touches.dedup_by_key(|t| t.2);
            let forward = decide(model, &all(&touches));
            touches.reverse();
            prop_assert_eq!(&forward, &decide(model, &all(&touches)));
            if let Ok(attribution) = forward {
                prop_assert_eq!(attribution.path.iter().map(|step| step.share).sum::<Decimal>(), Decimal::ONE);
                prop_assert_eq!(attribution.shares().iter().map(|(_, share)| share).sum::<Decimal>(), Decimal::ONE);
            }
        }
    }
}
