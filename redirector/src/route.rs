//! Where does this click go? A pure decision over the link and what the visit shows.
//!
//! 1. An expired link leads to its fallback.
//! 2. Else the first route all of whose conditions hold decides, else the link's split or destination.
//! 3. Among several variants the visitor's own seed decides, by weighted rendezvous hashing: the same
//!    visitor gets the same variant, each variant gets its weight's share of visitors, and a changed
//!    weight moves only visitors to the variant that grew or from the one that shrank.
//!
//! What a condition asks for is looked at when a route first asks, once.

use std::cell::OnceCell;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use tributary_shared::events::Outcome;
use tributary_shared::template::Template;

use crate::link::{ActiveLink, Route, Schedule, Split};
use tributary_shared::device::{Machine, machine};

/// Entries of Accept-Language that are looked at.
const MAX_LANGUAGES: usize = 32;

/// What is known of a click when it is routed. Headers that weren't sent are empty or none.
pub(crate) struct Visit<'a> {
    pub(crate) now: DateTime<Utc>,
    /// The same for the same visitor: decides among variants.
    pub(crate) visitor: u128,
    pub(crate) user_agent: &'a str,
    /// `Sec-CH-UA-Mobile`.
    pub(crate) hint_mobile: Option<&'a str>,
    /// `Sec-CH-UA-Platform`.
    pub(crate) hint_platform: Option<&'a str>,
    pub(crate) accept_language: &'a str,
    /// ISO 3166-1 alpha-2, upper case; asked only if a route needs it.
    pub(crate) country: &'a dyn Fn() -> Option<[u8; 2]>,
}

/// Where a click goes, and what is recorded of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice<'l> {
    pub(crate) outcome: Outcome,
    /// The number of the variant within the link, counted through its own and then each route's,
    /// from 1; 0: the link's destination or fallback.
    pub(crate) variant: u32,
    /// None: nowhere; there is no fallback.
    pub(crate) target: Option<&'l Template>,
}

impl<'l> Choice<'l> {
    /// The link's fallback, for a reason.
    pub(crate) fn fallback(link: &'l ActiveLink, outcome: Outcome) -> Self {
        Self {
            outcome,
            variant: 0,
            target: link.fallback(),
        }
    }

    /// The destination of a link without extras.
    pub(crate) fn plain(link: &'l ActiveLink) -> Self {
        Self::destination(&link.destination, 0)
    }

    fn destination(target: &'l Template, variant: u32) -> Self {
        Self {
            outcome: Outcome::Destination,
            variant,
            target: Some(target),
        }
    }
}

/// Decides. A link's cap is not asked here: see [`ActiveLink::cap`] and [`Choice::fallback`].
#[inline]
pub(crate) fn choose<'l>(link: &'l ActiveLink, visit: &Visit<'_>) -> Choice<'l> {
    let Some(extras) = &link.extras else {
        return Choice::plain(link);
    };
    if extras.expires_at_s != 0 && visit.now.timestamp() >= extras.expires_at_s {
        return Choice::fallback(link, Outcome::Expired);
    }
    let facts = Facts::of(visit);
    let route = extras.routes.iter().find(|route| facts.meet(route));
    match route.map(|route| &route.split).or(extras.split.as_ref()) {
        Some(split) => pick(split, link, visit.visitor),
        None => Choice::destination(&link.destination, 0),
    }
}

/// A visit's answers to conditions, found when they are first asked for.
struct Facts<'v> {
    visit: &'v Visit<'v>,
    machine: OnceCell<Machine>,
    country: OnceCell<Option<[u8; 2]>>,
    language: OnceCell<Option<&'v str>>,
}

impl<'v> Facts<'v> {
    fn of(visit: &'v Visit<'v>) -> Self {
        Self {
            visit,
            machine: OnceCell::new(),
            country: OnceCell::new(),
            language: OnceCell::new(),
        }
    }

    /// Whether each condition that is given holds; the cheap ones first.
    fn meet(&self, route: &Route) -> bool {
        let visit = self.visit;
        let machine = || {
            self.machine
                .get_or_init(|| machine(visit.user_agent, visit.hint_mobile, visit.hint_platform))
        };
        let language = || {
            *self
                .language
                .get_or_init(|| preferred(visit.accept_language))
        };
        let schedule = &route.schedule;
        schedule.as_ref().is_none_or(|s| is_on(s, visit.now))
            && (route.devices.as_ref())
                .is_none_or(|any| machine().device.is_some_and(|d| any.contains(&d)))
            && (route.systems.as_ref())
                .is_none_or(|any| machine().system.is_some_and(|s| any.contains(&s)))
            && (route.languages.as_ref()).is_none_or(|any| {
                language().is_some_and(|tag| any.iter().any(|range| speaks(tag, range)))
            })
            && (route.countries.as_ref()).is_none_or(|any| {
                let country = self.country.get_or_init(visit.country);
                country.is_some_and(|c| any.contains(&c))
            })
    }
}

/// The language that a visitor prefers: the first with the highest weight. That one understands a
/// second language doesn't mean that one wants it: most browsers list English somewhere.
fn preferred(accept_language: &str) -> Option<&str> {
    let mut best = None;
    for entry in accept_language.split(',').take(MAX_LANGUAGES) {
        let (tag, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let tag = tag.trim();
        let quality = quality(parameters);
        if !tag.is_empty() && tag != "*" && quality > best.map_or(0, |(_, highest)| highest) {
            best = Some((tag, quality));
        }
    }
    best.map(|(tag, _)| tag)
}

/// In thousandths: 1000 where it isn't given, 0 where it can't be read.
fn quality(parameters: &str) -> u32 {
    let Some(value) = parameters.trim().strip_prefix("q=") else {
        return 1000;
    };
    let (whole, decimals) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "1" => 1000,
        "0" if digits => format!("{decimals:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a language tag such as `de-AT` is within `range`, such as `de` (RFC 4647, basic filtering).
fn speaks(tag: &str, range: &str) -> bool {
    let (tag, range) = (tag.as_bytes(), range.as_bytes());
    tag.get(..range.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(range))
        && matches!(tag.get(range.len()), None | Some(b'-'))
}

/// Whether `now` is within a schedule. Days and minutes are those that a clock on a wall in its time
/// zone shows: where the clock is put back, an hour comes twice; where it is put forward, one is left
/// out.
fn is_on(schedule: &Schedule, now: DateTime<Utc>) -> bool {
    let Some(zone) = schedule.time_zone else {
        return false;
    };
    let seconds = now.timestamp();
    if seconds < schedule.starts_at_s || (schedule.ends_at_s != 0 && seconds >= schedule.ends_at_s)
    {
        return false;
    }
    let wall = now.with_timezone(&zone);
    let minute = wall.hour() * 60 + wall.minute();
    let today = wall.weekday();
    let on = |day: chrono::Weekday| {
        schedule.days == 0 || schedule.days & (1 << day.num_days_from_monday()) != 0
    };
    let (from, to) = (schedule.from_minute, schedule.to_minute);
    if from == to {
        on(today)
    } else if from < to {
        (from..to).contains(&minute) && on(today)
    } else {
        (minute >= from && on(today)) || (minute < to && on(today.pred()))
    }
}

/// The variant of a visitor: the one with the lowest draw.
fn pick<'l>(split: &'l Split, link: &'l ActiveLink, visitor: u128) -> Choice<'l> {
    let seed = seed(visitor, link.link_id.to_wire());
    let numbered = (split.first..).zip(&split.variants);
    let chosen = (0..)
        .zip(numbered)
        .filter(|(_, (_, variant))| variant.weight > 0)
        .map(|(place, numbered)| (draw(seed, place, numbered.1.weight), numbered))
        .min_by(|(a, _), (b, _)| a.total_cmp(b));
    match chosen {
        Some((_, (number, variant))) => Choice::destination(&variant.destination, number),
        None => Choice::destination(&link.destination, 0), // no split is without a weight
    }
}

/// What a visitor's draws for one link begin with.
#[expect(clippy::cast_possible_truncation, reason = "each half in turn")]
fn seed(visitor: u128, link_id: u64) -> u64 {
    mix(mix(mix(link_id) ^ visitor as u64) ^ (visitor >> 64) as u64)
}

/// A visitor's draw for the variant at `place`: exponentially distributed with the weight as its rate,
/// so that the lowest of several falls on each with the probability of its share of the weights. It
/// depends on no other variant and on no other weight, which is what keeps visitors where they are.
#[expect(
    clippy::float_arithmetic,
    reason = "compared, never summed or stored: an edge that rounds otherwise moves one visitor in 2^50"
)]
fn draw(seed: u64, place: u64, weight: u32) -> f64 {
    // 53 bits, which is what a double holds; never 0.
    let uniform = ((mix(seed ^ place) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}

/// SplitMix64's step: each bit of what comes in moves about half of those that come out. Not the
/// hasher of a library: all edges must agree, across builds.
fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[expect(
    clippy::float_arithmetic,
    reason = "shares are judged by their deviation"
)]
mod tests {
    use super::*;
    use crate::link::Compiler;
    use proptest::prelude::*;
    use prost::Message as _;
    use std::cell::Cell;
    use tributary_shared::ids::TenantId;
    use tributary_shared::links;

    const NOBODY: &dyn Fn() -> Option<[u8; 2]> = &|| None;

    fn at(time: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(time).unwrap().to_utc()
    }

    fn visit() -> Visit<'static> {
        Visit {
            now: at("2026-06-01T12:00:00Z"),
            visitor: 1,
            user_agent: "",
            hint_mobile: None,
            hint_platform: None,
            accept_language: "",
            country: NOBODY,
        }
    }

    fn to(host: &str, weight: u32) -> links::Variant {
        links::Variant {
            destination: format!("https://{host}.example/"),
            weight,
        }
    }

    fn link(change: impl FnOnce(&mut links::Link)) -> ActiveLink {
        let mut link = links::Link {
            link_id: 3,
            tenant_id: 7,
            destination: "https://own.example/".to_owned(),
            fallback_url: "https://fallback.example/".to_owned(),
            ..links::Link::default()
        };
        change(&mut link);
        Compiler::new()
            .compile(&link.encode_to_vec(), TenantId(7))
            .unwrap()
    }

    fn routed(route: links::Route) -> ActiveLink {
        link(|l| {
            l.routes = vec![links::Route {
                variants: vec![to("route", 1)],
                ..route
            }];
        })
    }

    fn goes_to(link: &ActiveLink, visit: &Visit<'_>) -> String {
        let mut out = String::new();
        let target = choose(link, visit).target.unwrap();
        target.render(&mut out, |_| "");
        out["https://".len()..].replace(".example/", "")
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn a_plain_link_goes_to_its_destination() {
        let link = link(|_| ());
        assert_eq!(
            choose(&link, &visit()),
            Choice::destination(&link.destination, 0)
        );
    }

    #[test]
    fn an_expired_link_goes_to_its_fallback() {
        let mut visit = visit();
        let link = link(|l| {
            l.expires_at_s = visit.now.timestamp() + 1;
            l.click_cap = 9;
        });
        assert_eq!(goes_to(&link, &visit), "own");
        visit.now += chrono::TimeDelta::seconds(1);
        assert_eq!(choose(&link, &visit).outcome, Outcome::Expired);
        assert_eq!(goes_to(&link, &visit), "fallback");
        assert_eq!(link.cap().map(|cap| cap.limit), Some(9));
    }

    #[test]
    fn without_a_fallback_an_expired_link_goes_nowhere() {
        let link = link(|l| {
            l.expires_at_s = 1;
            l.fallback_url.clear();
        });
        assert_eq!(choose(&link, &visit()).target, None);
    }

    #[test]
    fn the_first_route_that_matches_decides() {
        let country = |code: &str, host| links::Route {
            countries: texts(&[code, "CH"]),
            variants: vec![to(host, 1)],
            ..links::Route::default()
        };
        let link = link(|l| {
            l.routes = vec![country("DE", "first"), country("AT", "second")];
            l.variants = vec![to("split", 1)];
        });
        let from = |code: Option<&[u8; 2]>| {
            let asked = Cell::new(0);
            let ask = || {
                asked.set(asked.get() + 1);
                code.copied()
            };
            let mut visit = visit();
            visit.country = &ask;
            let choice = choose(&link, &visit);
            let got = (
                goes_to(
                    &link,
                    &Visit {
                        country: &|| code.copied(),
                        ..visit
                    },
                ),
                choice.variant,
            );
            assert_eq!(asked.get(), 1, "a country is looked up once");
            got
        };
        assert_eq!(from(Some(b"DE")), ("first".to_owned(), 2));
        assert_eq!(from(Some(b"CH")), ("first".to_owned(), 2));
        assert_eq!(from(Some(b"AT")), ("second".to_owned(), 3));
        assert_eq!(from(Some(b"FR")), ("split".to_owned(), 1));
        assert_eq!(from(None), ("split".to_owned(), 1));
    }

    #[test]
    fn all_conditions_must_hold() {
        let link = routed(links::Route {
            devices: texts(&["mobile", "tablet"]),
            systems: texts(&["ios"]),
            languages: texts(&["de"]),
            ..links::Route::default()
        });
        let phone = Visit {
            user_agent: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Mobile/15E148",
            accept_language: "de-AT,de;q=0.9",
            ..visit()
        };
        assert_eq!(goes_to(&link, &phone), "route");
        for other in [
            Visit {
                accept_language: "en",
                ..phone
            },
            Visit {
                accept_language: "",
                ..phone
            },
            Visit {
                user_agent: "",
                ..phone
            },
            Visit {
                hint_platform: Some("\"Android\""),
                ..phone
            },
            Visit {
                hint_mobile: Some("?0"),
                hint_platform: Some("\"macOS\""),
                ..phone
            },
        ] {
            assert_eq!(goes_to(&link, &other), "own");
        }
    }

    #[test]
    fn a_condition_with_unknown_values_never_holds() {
        for route in [
            links::Route {
                devices: texts(&["watch"]),
                ..links::Route::default()
            },
            links::Route {
                systems: texts(&["fuchsia"]),
                ..links::Route::default()
            },
            links::Route {
                countries: texts(&["Germany"]),
                ..links::Route::default()
            },
            links::Route {
                schedule: Some(links::Schedule {
                    time_zone: "Mars/Olympus".into(),
                    ..links::Schedule::default()
                }),
                ..links::Route::default()
            },
        ] {
            assert_eq!(goes_to(&routed(route), &visit()), "own");
        }
        assert_eq!(goes_to(&routed(links::Route::default()), &visit()), "route");
    }

    #[test]
    fn the_preferred_language_counts() {
        for (header, language) in [
            ("de-AT,de;q=0.9,en;q=0.8", Some("de-AT")),
            ("en;q=0.5, fr ; q=0.75,de;q=0.7", Some("fr")),
            ("en;q=0,*", None),
            ("en;q=oops,de;q=0.001", Some("de")),
            ("en;q=0.1234,de;q=0.1", Some("de")),
            ("de;q=1.0,en", Some("de")),
            (",,;q=1", None),
            ("", None),
        ] {
            assert_eq!(preferred(header), language, "{header}");
        }
    }

    #[test]
    fn a_language_covers_its_regions() {
        assert!(speaks("de", "de") && speaks("de-AT", "de") && speaks("pt-BR", "pt-br"));
        assert!(!speaks("den", "de") && !speaks("pt", "pt-br") && !speaks("pt-PT", "pt-br"));
        assert!(!speaks("é", "de"));
    }

    fn schedule(zone: &str, days: u32, from: u32, to: u32) -> links::Schedule {
        links::Schedule {
            time_zone: zone.to_owned(),
            days,
            from_minute: from,
            to_minute: to,
            ..links::Schedule::default()
        }
    }

    fn on(schedule: &links::Schedule, time: &str) -> bool {
        let link = routed(links::Route {
            schedule: Some(schedule.clone()),
            ..links::Route::default()
        });
        goes_to(
            &link,
            &Visit {
                now: at(time),
                ..visit()
            },
        ) == "route"
    }

    #[test]
    fn a_schedule_follows_the_clock_on_the_wall() {
        let office = schedule("Europe/Berlin", 0b001_1111, 9 * 60, 17 * 60);
        assert!(!on(&office, "2026-01-05T07:59:59Z")); // Monday 08:59 in winter
        assert!(on(&office, "2026-01-05T08:00:00Z"));
        assert!(on(&office, "2026-07-06T07:00:00Z")); // Monday 09:00 in summer
        assert!(!on(&office, "2026-07-06T15:00:00Z")); // 17:00
        assert!(!on(&office, "2026-01-04T10:00:00Z")); // Sunday
        // UTC where no zone is named; the day is the zone's, not UTC's.
        assert!(on(&schedule("", 0b1, 0, 1440), "2026-01-05T00:00:00Z"));
        assert!(on(
            &schedule("Asia/Tokyo", 0b1, 0, 60),
            "2026-01-04T15:30:00Z"
        ));
        assert!(on(&schedule("", 0b1, 0, 0), "2026-01-05T23:59:59Z"));
        assert!(!on(&schedule("", 0b1, 0, 0), "2026-01-06T00:00:00Z"));
    }

    #[test]
    fn a_schedule_over_midnight_counts_to_the_day_on_which_it_begins() {
        let friday_night = schedule("Europe/Berlin", 0b001_0000, 22 * 60, 4 * 60);
        assert!(!on(&friday_night, "2026-01-09T01:00:00Z")); // Friday 02:00: Thursday's night
        assert!(on(&friday_night, "2026-01-09T21:00:00Z")); // Friday 22:00
        assert!(on(&friday_night, "2026-01-10T02:59:59Z")); // Saturday 03:59
        assert!(!on(&friday_night, "2026-01-10T03:00:00Z"));
        assert!(!on(&friday_night, "2026-01-10T21:00:00Z")); // Saturday 22:00
        // Sunday's night ends on Monday.
        assert!(on(
            &schedule("", 0b100_0000, 1380, 60),
            "2026-01-05T00:30:00Z"
        ));
    }

    #[test]
    fn a_schedule_survives_the_change_of_clocks() {
        // 29 March 2026: 02:00 becomes 03:00 in Berlin, at 01:00 UTC. 25 October: 03:00 becomes 02:00.
        let two_to_three = schedule("Europe/Berlin", 0, 120, 180);
        assert!(!on(&two_to_three, "2026-03-29T00:59:59Z"));
        assert!(!on(&two_to_three, "2026-03-29T01:00:00Z"));
        assert!(on(&two_to_three, "2026-10-25T00:30:00Z"));
        assert!(on(&two_to_three, "2026-10-25T01:30:00Z"));
        assert!(!on(&two_to_three, "2026-10-25T02:00:00Z"));
        let night = schedule("Europe/Berlin", 0b010_0000, 22 * 60, 4 * 60); // Saturday's
        assert!(on(&night, "2026-03-29T01:59:59Z")); // 03:59 in summer time
        assert!(!on(&night, "2026-03-29T02:00:00Z"));
    }

    #[test]
    fn a_schedule_may_begin_and_end() {
        let mut sale = schedule("", 0, 0, 0);
        sale.starts_at_s = at("2026-11-27T00:00:00Z").timestamp();
        sale.ends_at_s = at("2026-11-30T00:00:00Z").timestamp();
        assert!(!on(&sale, "2026-11-26T23:59:59Z"));
        assert!(on(&sale, "2026-11-27T00:00:00Z"));
        assert!(on(&sale, "2026-11-29T23:59:59Z"));
        assert!(!on(&sale, "2026-11-30T00:00:00Z"));
    }

    fn split(weights: &[u32]) -> ActiveLink {
        link(|l| l.variants = weights.iter().map(|w| to("a", *w)).collect())
    }

    fn variants_of(link: &ActiveLink, visitors: u128) -> Vec<u32> {
        (0..visitors)
            .map(|visitor| choose(link, &Visit { visitor, ..visit() }).variant)
            .collect()
    }

    /// Pinned: another build must not send everybody elsewhere.
    #[test]
    fn visitors_stay_where_earlier_builds_sent_them() {
        let pinned = [1, 2, 2, 3, 1, 2, 2, 3, 3, 2, 3, 2];
        assert_eq!(variants_of(&split(&[1, 2, 3]), 12), pinned);
    }

    #[test]
    fn two_links_split_independently() {
        let other = link(|l| {
            l.link_id = 4;
            l.variants = vec![to("a", 1), to("b", 1)];
        });
        let (a, b) = (
            variants_of(&split(&[1, 1]), 10_000),
            variants_of(&other, 10_000),
        );
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!((4_800..5_200).contains(&same), "{same}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Within five standard deviations of a fair draw: one failure in two million.
        #[test]
        fn each_variant_gets_its_share(weights in prop::collection::vec(0..=1000_u32, 1..6), last in 1..=1_000_000_u32) {
            let visitors = 20_000;
            let weights = [weights, vec![last]].concat();
            let chosen = variants_of(&split(&weights), visitors);
            let total: u32 = weights.iter().sum();
            for (number, weight) in (1..).zip(&weights) {
                let got = chosen.iter().filter(|c| **c == number).count() as f64;
                let share = f64::from(*weight) / f64::from(total);
                let expected = visitors as f64 * share;
                let tolerance = 5.0 * (expected * (1.0 - share)).sqrt() + 1.0;
                prop_assert!((got - expected).abs() <= tolerance, "{number}: {got} of {expected}");
                prop_assert!(*weight > 0 || got == 0.0);
            }
        }

        /// Whoever moves goes to what grew, or comes from what shrank.
        #[test]
        fn a_changed_weight_moves_only_whom_it_must(
            weights in prop::collection::vec(1..100_u32, 2..6),
            changed in any::<prop::sample::Index>(),
            weight in 0..200_u32,
        ) {
            let changed = changed.index(weights.len());
            let mut after = weights.clone();
            after[changed] = weight;
            let number = u32::try_from(changed).unwrap() + 1;
            let before = variants_of(&split(&weights), 2_000);
            for (from, to) in before.into_iter().zip(variants_of(&split(&after), 2_000)) {
                let moved_rightly = if weight > weights[changed] { to == number } else { from == number };
                prop_assert!(from == to || moved_rightly);
            }
        }

        /// One more at the end takes from all; the others' visitors otherwise stay.
        #[test]
        fn an_added_variant_only_takes(weights in prop::collection::vec(1..100_u32, 1..6), more in 1..100_u32) {
            let after = [weights.clone(), vec![more]].concat();
            let last = u32::try_from(after.len()).unwrap();
            let before = variants_of(&split(&weights), 2_000);
            for (from, to) in before.into_iter().zip(variants_of(&split(&after), 2_000)) {
                prop_assert!(from == to || to == last);
            }
        }

        #[test]
        fn no_header_fails(header in "[a-z,;=.q0-9* é-]{0,60}") {
            let _ = preferred(&header).map(|tag| speaks(tag, "de"));
        }
    }
}
