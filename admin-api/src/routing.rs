//! Where a link's clicks go besides its destination: a weighted split, and routes with conditions.
//!
//! The same form is taken by the API, kept in PostgreSQL (`links.routing`) and turned into what the
//! edge reads. [`Routing::check`] refuses what an edge could not compile, so an edge never meets it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::countries::is_country;
use tributary_shared::links;
use utoipa::ToSchema;

use crate::validate::Checks;

/// Most destinations of one split.
const MAX_VARIANTS: usize = 16;
/// Most routes of one link.
const MAX_ROUTES: usize = 32;
/// Most values of one condition.
const MAX_VALUES: usize = 50;
/// Highest weight of a variant.
const MAX_WEIGHT: u32 = 1_000_000;
/// Minutes of a day.
const DAY_MINUTES: u32 = 1440;
/// Longest language tag, in characters (RFC 5646 recommends room for 35).
const MAX_LANGUAGE_CHARS: usize = 35;

/// How a link's clicks are spread. Empty: all go to the link's destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Routing {
    /// A split in place of the link's destination, which each visitor stays in; 16 at most.
    #[serde(default)]
    variants: Vec<Variant>,
    /// Tried in their order; the first that matches replaces destination and variants. 32 at most.
    #[serde(default)]
    routes: Vec<Route>,
}

/// One destination of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variant {
    /// Like a link's destination, with macros such as {click_id}.
    #[schema(examples("https://shop.example/b?click_id={click_id}"))]
    destination: String,
    /// Its share of the sum of all weights: 1 to 1,000,000.
    #[serde(default = "one")]
    #[schema(examples(70), default = 1)]
    weight: u32,
}

fn one() -> u32 {
    1
}

/// Where clicks go that meet every condition that is given; within one, any of its values will do.
/// Without a condition it takes every click.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Two-letter codes of ISO 3166-1, upper case; 50 at most, as for each condition.
    #[serde(default)]
    #[schema(examples(json!(["DE", "AT"])))]
    countries: Vec<String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    systems: Vec<System>,
    /// Lower case language tags: de matches de-AT as well, pt-br only itself.
    #[serde(default)]
    #[schema(examples(json!(["de"])))]
    languages: Vec<String>,
    /// When the route applies; always without one.
    #[serde(default)]
    schedule: Option<Schedule>,
    /// Where to: 1 to 16; weights decide among several.
    variants: Vec<Variant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Device {
    Desktop,
    Mobile,
    Tablet,
}

/// An operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    Android,
    Ios,
    Windows,
    Macos,
    Linux,
    Chromeos,
}

/// Times at which a route applies: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    /// IANA time zone that days and minutes are of.
    #[serde(default = "utc")]
    #[schema(examples("Europe/Berlin"), default = "UTC")]
    time_zone: String,
    /// Every day when it is empty.
    #[serde(default)]
    days: Vec<Weekday>,
    /// First minute of the day, 0 to 1439.
    #[serde(default)]
    #[schema(examples(540), default = 0)]
    from_minute: u32,
    /// Minute of the day that is no longer part of it, 0 to 1440. Equal to `from_minute`: the whole
    /// day. Before it: over midnight, counted to the day on which it begins.
    #[serde(default)]
    #[schema(examples(1080), default = 0)]
    to_minute: u32,
    /// Not before this moment.
    #[serde(default)]
    starts_at: Option<DateTime<Utc>>,
    /// No longer at this moment.
    #[serde(default)]
    ends_at: Option<DateTime<Utc>>,
}

fn utc() -> String {
    "UTC".to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Routing {
    /// Collects what is wrong with it, under the field `name`.
    pub(crate) fn check(&self, checks: &mut Checks, name: &str) {
        check_variants(checks, &format!("{name}.variants"), &self.variants, 0);
        if self.routes.len() > MAX_ROUTES {
            checks.wrong(
                &format!("{name}.routes"),
                format!("must be at most {MAX_ROUTES} routes"),
            );
            return;
        }
        for (number, route) in self.routes.iter().enumerate() {
            route.check(checks, &format!("{name}.routes[{number}]"));
        }
    }

    /// The split, as the edge reads it.
    pub(crate) fn variants(&self) -> Vec<links::Variant> {
        self.variants.iter().map(Variant::to_edge).collect()
    }

    /// The routes, as the edge reads them.
    pub(crate) fn routes(&self) -> Vec<links::Route> {
        self.routes.iter().map(Route::to_edge).collect()
    }
}

fn check_variants(checks: &mut Checks, name: &str, variants: &[Variant], fewest: usize) {
    if !(fewest..=MAX_VARIANTS).contains(&variants.len()) {
        checks.wrong(name, format!("must be {fewest} to {MAX_VARIANTS} variants"));
        return;
    }
    for (number, variant) in variants.iter().enumerate() {
        let name = format!("{name}[{number}]");
        checks.destination(&format!("{name}.destination"), &variant.destination);
        if !(1..=MAX_WEIGHT).contains(&variant.weight) {
            checks.wrong(
                &format!("{name}.weight"),
                format!("must be 1 to {MAX_WEIGHT}"),
            );
        }
    }
}

impl Variant {
    fn to_edge(&self) -> links::Variant {
        links::Variant {
            destination: self.destination.clone(),
            weight: self.weight,
        }
    }
}

impl Route {
    fn check(&self, checks: &mut Checks, name: &str) {
        let field = |part: &str| format!("{name}.{part}");
        check_values(
            checks,
            &field("countries"),
            &self.countries,
            |country| is_country(country),
            "a country of ISO 3166-1 as two upper case letters, such as DE",
        );
        check_values(checks, &field("devices"), &self.devices, |_| true, "");
        check_values(checks, &field("systems"), &self.systems, |_| true, "");
        check_values(
            checks,
            &field("languages"),
            &self.languages,
            |language| is_language(language),
            "a language tag in lower case, such as de or pt-br",
        );
        if let Some(schedule) = &self.schedule {
            schedule.check(checks, &field("schedule"));
        }
        check_variants(checks, &field("variants"), &self.variants, 1);
    }

    fn to_edge(&self) -> links::Route {
        links::Route {
            countries: self.countries.clone(),
            devices: self
                .devices
                .iter()
                .map(|device| device.to_edge().to_owned())
                .collect(),
            systems: self
                .systems
                .iter()
                .map(|system| system.to_edge().to_owned())
                .collect(),
            languages: self.languages.clone(),
            schedule: self.schedule.as_ref().map(Schedule::to_edge),
            variants: self.variants.iter().map(Variant::to_edge).collect(),
        }
    }
}

/// Tells the first value that is wrong; `form` says what each has to be.
fn check_values<T>(
    checks: &mut Checks,
    name: &str,
    values: &[T],
    is_right: impl Fn(&T) -> bool,
    form: &str,
) {
    if values.len() > MAX_VALUES {
        checks.wrong(name, format!("must be at most {MAX_VALUES} values"));
    } else if let Some(number) = values.iter().position(|value| !is_right(value)) {
        checks.wrong(&format!("{name}[{number}]"), format!("must be {form}"));
    }
}

/// As RFC 5646 builds tags, without looking the parts up.
fn is_language(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let language = parts.next().unwrap_or_default();
    tag.len() <= MAX_LANGUAGE_CHARS
        && (2..=3).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_lowercase())
        && parts.all(|part| {
            (2..=8).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

impl Device {
    fn to_edge(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
        }
    }
}

impl System {
    fn to_edge(self) -> &'static str {
        match self {
            Self::Android => "android",
            Self::Ios => "ios",
            Self::Windows => "windows",
            Self::Macos => "macos",
            Self::Linux => "linux",
            Self::Chromeos => "chromeos",
        }
    }
}

impl Schedule {
    fn check(&self, checks: &mut Checks, name: &str) {
        let field = |part: &str| format!("{name}.{part}");
        checks.time_zone(&field("time_zone"), &self.time_zone);
        if self.days.len() > Weekday::ALL {
            checks.wrong(&field("days"), "must be at most 7 days");
        }
        if self.from_minute >= DAY_MINUTES {
            checks.wrong(
                &field("from_minute"),
                format!("must be 0 to {}", DAY_MINUTES - 1),
            );
        }
        if self.to_minute > DAY_MINUTES {
            checks.wrong(&field("to_minute"), format!("must be 0 to {DAY_MINUTES}"));
        }
        for (part, moment) in [("starts_at", self.starts_at), ("ends_at", self.ends_at)] {
            if let Some(moment) = moment {
                checks.moment(&field(part), moment);
            }
        }
        let (starts, ends) = (seconds(self.starts_at), seconds(self.ends_at));
        if self.starts_at.is_some() && self.ends_at.is_some() && starts >= ends {
            checks.wrong(&field("ends_at"), "must be later than starts_at");
        }
    }

    fn to_edge(&self) -> links::Schedule {
        links::Schedule {
            time_zone: self.time_zone.clone(),
            days: self.days.iter().fold(0, |bits, day| bits | day.bit()),
            from_minute: self.from_minute,
            to_minute: self.to_minute,
            starts_at_s: seconds(self.starts_at),
            ends_at_s: seconds(self.ends_at),
        }
    }
}

/// Seconds since 1970, as the edge reads a moment; 0 for none.
pub(crate) fn seconds(moment: Option<DateTime<Utc>>) -> i64 {
    moment.map_or(0, |moment| moment.timestamp())
}

impl Weekday {
    /// How many there are.
    const ALL: usize = 7;

    /// Bit 0 is Monday, bit 6 Sunday.
    fn bit(self) -> u32 {
        match self {
            Self::Monday => 1,
            Self::Tuesday => 1 << 1,
            Self::Wednesday => 1 << 2,
            Self::Thursday => 1 << 3,
            Self::Friday => 1 << 4,
            Self::Saturday => 1 << 5,
            Self::Sunday => 1 << 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Tz;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tributary_shared::template::Template;

    const SHOP: &str = "https://shop.example/?c={click_id}";

    /// What is told of `routing`, field by field.
    fn told(routing: Value) -> Vec<String> {
        let routing: Routing = serde_json::from_value(routing).unwrap();
        let mut checks = Checks::default();
        routing.check(&mut checks, "routing");
        let Err(problem) = checks.finish() else {
            return Vec::new();
        };
        let problem = serde_json::to_value(problem).unwrap();
        problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["field"].as_str().unwrap().to_owned())
            .collect()
    }

    fn route(part: &str, value: Value) -> Value {
        let mut route = json!({"variants": [{"destination": SHOP}]});
        route[part] = value;
        json!({"routes": [route]})
    }

    fn schedule(part: &str, value: Value) -> Value {
        route("schedule", json!({part: value}))
    }

    #[test]
    fn what_an_edge_can_compile_is_taken() {
        for good in [
            json!({}),
            json!({"variants": vec![json!({"destination": SHOP, "weight": 1_000_000}); 16]}),
            json!({"routes": vec![json!({"variants": [{"destination": SHOP}]}); 32]}),
            route("countries", json!(vec!["DE"; 50])),
            route("devices", json!(["desktop", "mobile", "tablet"])),
            route(
                "systems",
                json!(["android", "ios", "windows", "macos", "linux", "chromeos"]),
            ),
            route("languages", json!(["de", "pt-br", "zh-hant-tw", "gsw"])),
            route("schedule", json!({})),
            schedule("time_zone", json!("America/St_Johns")),
            route("schedule", json!({"from_minute": 1439, "to_minute": 1440})),
            route("schedule", json!({"from_minute": 1320, "to_minute": 360})),
            route(
                "schedule",
                json!({"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-01T02:00:00+01:00"}),
            ),
        ] {
            assert_eq!(told(good.clone()), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn each_mistake_names_its_field() {
        let bad_variant = json!([{"destination": SHOP}, {"destination": "ftp://x", "weight": 0}]);
        for (bad, fields) in [
            (
                json!({"variants": bad_variant}),
                vec![
                    "routing.variants[1].destination",
                    "routing.variants[1].weight",
                ],
            ),
            (
                json!({"variants": [{"destination": SHOP, "weight": 1_000_001}]}),
                vec!["routing.variants[0].weight"],
            ),
            (
                json!({"variants": vec![json!({"destination": SHOP}); 17]}),
                vec!["routing.variants"],
            ),
            (
                json!({"routes": vec![json!({"variants": []}); 33]}),
                vec!["routing.routes"],
            ),
            (
                route("variants", json!([])),
                vec!["routing.routes[0].variants"],
            ),
            (
                route(
                    "variants",
                    json!([{"destination": "https://{sub1}.example/"}]),
                ),
                vec!["routing.routes[0].variants[0].destination"],
            ),
            (
                route("countries", json!(["DE", "UK", "de"])),
                vec!["routing.routes[0].countries[1]"],
            ),
            (
                route("countries", json!(vec!["DE"; 51])),
                vec!["routing.routes[0].countries"],
            ),
            (
                route("devices", json!(vec!["mobile"; 51])),
                vec!["routing.routes[0].devices"],
            ),
            (
                route("languages", json!(["de-AT"])),
                vec!["routing.routes[0].languages[0]"],
            ),
            (
                schedule("time_zone", json!("")),
                vec!["routing.routes[0].schedule.time_zone"],
            ),
            (
                route("schedule", json!({"from_minute": 1440, "to_minute": 1441})),
                vec![
                    "routing.routes[0].schedule.from_minute",
                    "routing.routes[0].schedule.to_minute",
                ],
            ),
            (
                route(
                    "schedule",
                    json!({"starts_at": "2026-01-01T00:00:00.1Z", "ends_at": "2026-01-01T00:00:00.9Z"}),
                ),
                vec!["routing.routes[0].schedule.ends_at"],
            ),
            (
                schedule("starts_at", json!("1969-01-01T00:00:00Z")),
                vec!["routing.routes[0].schedule.starts_at"],
            ),
            (
                schedule("days", json!(vec!["monday"; 8])),
                vec!["routing.routes[0].schedule.days"],
            ),
        ] {
            assert_eq!(told(bad.clone()), fields, "{bad}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for bad in [
            route("devices", json!(["phone"])),
            route("systems", json!(["iOS"])),
            schedule("days", json!(["mon"])),
            json!({"variants": [{"destination": SHOP, "weight": -1}]}),
            json!({"variants": [{"destination": SHOP, "share": 1}]}),
            json!({"routes": [{}]}),
        ] {
            assert!(
                serde_json::from_value::<Routing>(bad.clone()).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_edge_reads_what_was_taken() {
        let routing: Routing = serde_json::from_value(json!({
            "variants": [{"destination": "https://a.example/", "weight": 3}, {"destination": "https://b.example/"}],
            "routes": [{
                "countries": ["DE"], "devices": ["mobile"], "systems": ["ios"], "languages": ["de"],
                "schedule": {"time_zone": "Europe/Berlin", "days": ["monday", "sunday"], "from_minute": 60,
                             "to_minute": 120, "starts_at": "1970-01-01T00:00:05Z"},
                "variants": [{"destination": "https://c.example/"}],
            }],
        }))
        .unwrap();
        let variant = |destination: &str, weight| links::Variant {
            destination: destination.to_owned(),
            weight,
        };
        assert_eq!(
            routing.variants(),
            [
                variant("https://a.example/", 3),
                variant("https://b.example/", 1)
            ]
        );
        assert_eq!(
            routing.routes(),
            [links::Route {
                countries: vec!["DE".to_owned()],
                devices: vec!["mobile".to_owned()],
                systems: vec!["ios".to_owned()],
                languages: vec!["de".to_owned()],
                schedule: Some(links::Schedule {
                    time_zone: "Europe/Berlin".to_owned(),
                    days: 0b100_0001,
                    from_minute: 60,
                    to_minute: 120,
                    starts_at_s: 5,
                    ends_at_s: 0,
                }),
                variants: vec![variant("https://c.example/", 1)],
            }]
        );
        // Devices and systems have one spelling for callers and for the edge.
        for device in [Device::Desktop, Device::Mobile, Device::Tablet] {
            assert_eq!(json!(device), device.to_edge());
        }
        for system in [
            System::Android,
            System::Ios,
            System::Windows,
            System::Macos,
            System::Linux,
            System::Chromeos,
        ] {
            assert_eq!(json!(system), system.to_edge());
        }
    }

    proptest! {
        /// Whatever the texts are, what passes can be compiled by an edge.
        #[test]
        fn what_passes_compiles(destination in "(https://[a-z{}/:@]{1,12}|.{0,20})", weight: u32,
                                zone in "(Europe/Berlin|UTC|[A-Z][a-z/]{0,8})", from: u32, to in 0_u32..3000) {
            let routing = json!({"routes": [{
                "schedule": {"time_zone": zone, "from_minute": from % 3000, "to_minute": to},
                "variants": [{"destination": destination, "weight": weight}],
            }]});
            if told(routing).is_empty() {
                prop_assert!(Template::parse(&destination).is_ok());
                prop_assert!(zone.parse::<Tz>().is_ok());
                prop_assert!((1..=1_000_000).contains(&weight));
                prop_assert!(from % 3000 < 1440 && to <= 1440);
            }
        }
    }
}
