//! One typed question: measures × dimensions × filters × granularity, compared with an earlier period,
//! the leading combinations apart and the others together. The named reports are such questions, too.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tributary_shared::ids::TenantId;
use utoipa::ToSchema;

use super::figures::{ByPlace, Leader, Places, Rank, Shape, Wanted};
use super::{About, Facts, Figures};
use crate::amounts::Amount;
use crate::error::Problem;
use crate::period::{Before, Period};

/// Limits of one question.
pub(crate) const MAX_DIMENSIONS: usize = 3;
const MAX_FILTERS: usize = 10;
const MAX_FILTER_VALUES: usize = 200;
const MAX_VALUE_BYTES: usize = 512;
const MAX_VALUES_BYTES: usize = 16 * 1024;
pub(crate) const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 10;
const MAX_ROWS: usize = 10_000;

/// Digits after the point of a rate, and of an amount for each click or order.
const RATE_DIGITS: u32 = 6;
const AVERAGE_DIGITS: u32 = 4;

/// What is counted. Rates are fractions of 1 as decimal strings, null where nothing was clicked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    Clicks,
    BotClicks,
    UniqueVisitors,
    /// Clicks by bots among all.
    BotRate,
    Conversions,
    Revenue,
    Commission,
    /// Conversions for each click by a person.
    ConversionRate,
    /// Commission for each click by a person.
    EarningsPerClick,
    /// Revenue for each conversion.
    AverageOrderValue,
}

impl Measure {
    pub(crate) const ALL: [Self; 10] = [
        Self::Clicks,
        Self::BotClicks,
        Self::UniqueVisitors,
        Self::BotRate,
        Self::Conversions,
        Self::Revenue,
        Self::Commission,
        Self::ConversionRate,
        Self::EarningsPerClick,
        Self::AverageOrderValue,
    ];

    /// The measures that can be told by `dimension`.
    pub(crate) fn known_by(dimension: Dimension) -> Vec<Self> {
        let of_money = |m: &Self| m.wanted().conversions || m.wanted().commissions;
        let known = Self::ALL.into_iter();
        known
            .filter(|m| dimension.of_money() || !of_money(m))
            .collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Clicks => "clicks",
            Self::BotClicks => "bot_clicks",
            Self::UniqueVisitors => "unique_visitors",
            Self::BotRate => "bot_rate",
            Self::Conversions => "conversions",
            Self::Revenue => "revenue",
            Self::Commission => "commission",
            Self::ConversionRate => "conversion_rate",
            Self::EarningsPerClick => "earnings_per_click",
            Self::AverageOrderValue => "average_order_value",
        }
    }

    fn wanted(self) -> Wanted {
        let [clicks, visitors, conversions, commissions] = match self {
            Self::Clicks | Self::BotClicks | Self::BotRate => [true, false, false, false],
            Self::UniqueVisitors => [true, true, false, false],
            Self::Conversions | Self::Revenue | Self::AverageOrderValue => {
                [false, false, true, false]
            }
            Self::Commission => [false, false, false, true],
            Self::ConversionRate => [true, false, true, false],
            Self::EarningsPerClick => [true, false, false, true],
        };
        Wanted {
            clicks,
            visitors,
            conversions,
            commissions,
        }
    }

    /// Whether rows can be ordered by it.
    fn orders(self) -> bool {
        matches!(
            self,
            Self::Clicks
                | Self::BotClicks
                | Self::UniqueVisitors
                | Self::Conversions
                | Self::Revenue
                | Self::Commission
        )
    }

    pub(super) fn ranks_by(self) -> Rank {
        match self {
            Self::BotClicks => Rank::Clicks("sumIf(number, is_bot = 1)"),
            Self::UniqueVisitors => Rank::Clicks("sumIf(visitors, is_bot = 0)"),
            Self::Conversions => Rank::Conversions,
            Self::Revenue => Rank::Revenue,
            Self::Commission => Rank::Commission,
            // No other orders rows: see orders().
            _ => Rank::Clicks("sumIf(number, is_bot = 0)"),
        }
    }

    fn of(self, figures: &Figures) -> Value {
        match self {
            Self::Clicks => figures.clicks.into(),
            Self::BotClicks => figures.bot_clicks.into(),
            Self::UniqueVisitors => figures.unique_visitors.into(),
            Self::BotRate => {
                let all = figures.clicks.saturating_add(figures.bot_clicks);
                rate(figures.bot_clicks, all).map_or(Value::Null, Value::String)
            }
            Self::Conversions => figures.conversions.into(),
            Self::Revenue => amounts(&figures.revenue, 1),
            Self::Commission => amounts(&figures.commission, 1),
            Self::ConversionRate => {
                rate(figures.conversions, figures.clicks).map_or(Value::Null, Value::String)
            }
            Self::EarningsPerClick => amounts(&figures.commission, figures.clicks),
            Self::AverageOrderValue => amounts(&figures.revenue, figures.conversions),
        }
    }
}

/// `part` of `whole` as a fraction of 1; none of nothing.
pub(crate) fn rate(part: u64, whole: u64) -> Option<String> {
    let rate = Decimal::from(part).checked_div(Decimal::from(whole))?;
    Some(rate.round_dp(RATE_DIGITS).normalize().to_string())
}

/// `amounts`, each divided by `number`; nothing where that is none.
fn amounts(amounts: &[Amount], number: u64) -> Value {
    let divided = amounts.iter().filter_map(|amount| {
        if number == 1 {
            return Some(amount.clone());
        }
        let all: Decimal = amount.amount.parse().ok()?;
        let each = all.checked_div(Decimal::from(number))?;
        Some(Amount::new(each.round_dp(AVERAGE_DIGITS), &amount.currency))
    });
    let written = divided.map(|amount| {
        let mut object = Map::new();
        object.insert("amount".to_owned(), amount.amount.into());
        object.insert("currency".to_owned(), amount.currency.into());
        Value::Object(object)
    });
    Value::Array(written.collect())
}

/// What it is counted by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dimension {
    Program,
    Affiliate,
    Link,
    /// ISO 3166: `DE`.
    Country,
    Region,
    City,
    /// Who runs the address's network: `AS64496 Example Net`.
    Network,
    /// `desktop`, `mobile` or `tablet`.
    Device,
    Os,
    Browser,
    /// `direct`, `search`, `social`, `email`, `paid`, `assistant` or `referral`.
    Channel,
    ReferrerDomain,
    UtmSource,
    UtmMedium,
    UtmCampaign,
    Sub1,
    Sub2,
    Sub3,
    Sub4,
    Sub5,
    /// Why a click is a bot's; empty: it is not.
    BotReason,
    /// Where the click was sent: `destination`, `expired`, `capped` or `cap_unknown`.
    Outcome,
    /// The place in the link's split, from 1; 0: it has none.
    Variant,
}

/// The names of `outcome`, by its number. Clicks of outcome 4 never count.
const OUTCOMES: [&str; 4] = ["destination", "expired", "capped", "cap_unknown"];

impl Dimension {
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Program => "program_id",
            Self::Affiliate => "affiliate_id",
            Self::Link => "link_id",
            other => other.name(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Affiliate => "affiliate",
            Self::Link => "link",
            Self::Country => "country",
            Self::Region => "region",
            Self::City => "city",
            Self::Network => "network",
            Self::Device => "device",
            Self::Os => "os",
            Self::Browser => "browser",
            Self::Channel => "channel",
            Self::ReferrerDomain => "referrer_domain",
            Self::UtmSource => "utm_source",
            Self::UtmMedium => "utm_medium",
            Self::UtmCampaign => "utm_campaign",
            Self::Sub1 => "sub1",
            Self::Sub2 => "sub2",
            Self::Sub3 => "sub3",
            Self::Sub4 => "sub4",
            Self::Sub5 => "sub5",
            Self::BotReason => "bot_reason",
            Self::Outcome => "outcome",
            Self::Variant => "variant",
        }
    }

    /// ClickHouse's type of a filter's values.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Program | Self::Affiliate | Self::Link => "UInt64",
            Self::Outcome => "UInt8",
            Self::Variant => "UInt32",
            _ => "String",
        }
    }

    /// Whether conversions and commissions know it.
    fn of_money(self) -> bool {
        matches!(self, Self::Program | Self::Affiliate | Self::Link)
    }

    /// A value as it is answered; no id is null.
    fn value(self, text: &str) -> Value {
        match self {
            Self::Program | Self::Affiliate | Self::Link => text
                .parse()
                .ok()
                .filter(|id: &u64| *id != 0)
                .map_or(Value::Null, Value::from),
            Self::Variant => text.parse::<u64>().map_or(Value::Null, Value::from),
            Self::Outcome => outcome(text.parse().unwrap_or(u8::MAX)).into(),
            _ => text.into(),
        }
    }

    fn read(self, values: &[FilterValue]) -> Option<Values> {
        let number = |value: &FilterValue| match value {
            FilterValue::Number(number) => Some(*number),
            FilterValue::Text(text) => text.parse().ok(),
        };
        match self.kind() {
            "String" => {
                let text = |value: &FilterValue| match value {
                    FilterValue::Text(text) if text.len() <= MAX_VALUE_BYTES => Some(text.clone()),
                    _ => None,
                };
                values
                    .iter()
                    .map(text)
                    .collect::<Option<_>>()
                    .map(Values::Texts)
            }
            "UInt8" => {
                let place = |value: &FilterValue| match value {
                    FilterValue::Text(text) => OUTCOMES.iter().position(|name| name == text),
                    FilterValue::Number(_) => None,
                };
                let places = values.iter().map(|v| u64::try_from(place(v)?).ok());
                places.collect::<Option<_>>().map(Values::Numbers)
            }
            "UInt32" => {
                let fits = |value| number(value).filter(|n| *n <= u64::from(u32::MAX));
                values
                    .iter()
                    .map(fits)
                    .collect::<Option<_>>()
                    .map(Values::Numbers)
            }
            _ => values
                .iter()
                .map(number)
                .collect::<Option<_>>()
                .map(Values::Numbers),
        }
    }
}

/// An outcome's name.
pub(super) fn outcome(number: u8) -> String {
    OUTCOMES
        .get(usize::from(number))
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// One value of a filter: a text; a number for ids and variants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FilterValue {
    Number(u64),
    Text(String),
}

/// Only clicks whose `dimension` is (`in`), or is not (`not_in`), one of these values.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    dimension: Dimension,
    /// At most 200 values in all filters together, of at most 512 bytes each and 16 KiB together.
    #[serde(rename = "in")]
    one_of: Option<Vec<FilterValue>>,
    not_in: Option<Vec<FilterValue>>,
}

impl Filter {
    /// `dimension` is one of `values`.
    pub(crate) fn only(dimension: Dimension, values: Vec<FilterValue>) -> Self {
        Self {
            dimension,
            one_of: Some(values),
            not_in: None,
        }
    }
}

/// A filter that was understood.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub dimension: Dimension,
    pub not: bool,
    pub values: Values,
}

#[derive(Debug, Clone)]
pub(super) enum Values {
    Numbers(Vec<u64>),
    Texts(Vec<String>),
}

pub(super) fn conditions(filters: &[Filter]) -> Result<Vec<Condition>, Problem> {
    let values = || {
        let lists = filters.iter().flat_map(|f| [&f.one_of, &f.not_in]);
        lists.flatten().flatten()
    };
    let bytes = values().map(|value| match value {
        FilterValue::Number(_) => 0,
        FilterValue::Text(text) => text.len(),
    });
    if filters.len() > MAX_FILTERS
        || values().count() > MAX_FILTER_VALUES
        || bytes.sum::<usize>() > MAX_VALUES_BYTES
    {
        return Err(Problem::bad_request(format!(
            "filters: at most {MAX_FILTERS}, with at most {MAX_FILTER_VALUES} values of {} KiB together",
            MAX_VALUES_BYTES / 1024
        )));
    }
    filters.iter().map(condition).collect()
}

fn condition(filter: &Filter) -> Result<Condition, Problem> {
    let name = filter.dimension.name();
    let (not, values) = match (&filter.one_of, &filter.not_in) {
        (Some(values), None) if !values.is_empty() => (false, values),
        (None, Some(values)) if !values.is_empty() => (true, values),
        _ => {
            return Err(Problem::bad_request(format!(
                "the filter on {name} has either in or not_in, with at least one value"
            )));
        }
    };
    let values = filter.dimension.read(values).ok_or_else(|| {
        let kind = match filter.dimension.kind() {
            "String" => format!("texts of at most {MAX_VALUE_BYTES} bytes"),
            "UInt8" => OUTCOMES.join(", "),
            _ => "whole numbers".to_owned(),
        };
        Problem::bad_request(format!("values of the filter on {name} are {kind}"))
    })?;
    Ok(Condition {
        dimension: filter.dimension,
        not,
        values,
    })
}

/// Into which stretches of time an answer is cut, in the question's time zone. A week begins on Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Granularity {
    #[default]
    None,
    QuarterHour,
    Hour,
    Day,
    Week,
    Month,
}

/// Which earlier period stands beside the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compare {
    #[default]
    None,
    /// As long a period, right before. Whole months are compared with as many whole months where
    /// granularity is month.
    PreviousPeriod,
    /// The same dates, one year earlier.
    PreviousYear,
}

/// A question.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "measures": ["clicks", "conversions", "revenue", "conversion_rate"], "dimensions": ["affiliate"],
    "filters": [{"dimension": "program", "in": [1]}], "granularity": "none",
    "from": "2026-01-01", "to": "2026-01-31", "compare": "previous_period", "limit": 5, "other": true, "order_by": "clicks"
}))]
pub(crate) struct Question {
    /// 1 to 10. Conversions, revenue, commission and what is reckoned from them know the dimensions program,
    /// affiliate and link only.
    pub measures: Vec<Measure>,
    /// At most 3.
    #[serde(default)]
    pub dimensions: Vec<Dimension>,
    /// At most 10.
    #[serde(default)]
    pub filters: Vec<Filter>,
    #[serde(default)]
    pub granularity: Granularity,
    /// Whose days these are (IANA, such as `Europe/Berlin`); the tenant's by default.
    pub time_zone: Option<String>,
    /// A date (from the start of that day) or an RFC 3339 time; 30 days ago by default.
    pub from: Option<String>,
    /// A date (to the end of that day) or an RFC 3339 time; the end of today by default. At most 400 days.
    pub to: Option<String>,
    #[serde(default)]
    pub compare: Compare,
    /// How many combinations of the dimensions' values stand apart, 1 to 1000; 10 by default. Rows (combinations
    /// × stretches of time) are at most 10,000.
    pub limit: Option<usize>,
    /// Whether all other combinations are counted together in a row of their own.
    #[serde(default)]
    pub other: bool,
    /// The measure by which combinations lead: one of clicks, bot_clicks, unique_visitors, conversions, revenue
    /// and commission, and one that is asked for. By default the first such but revenue and commission.
    pub order_by: Option<Measure>,
    /// The currency in which revenue or commission lead.
    #[schema(examples("EUR"))]
    pub order_currency: Option<String>,
}

impl Question {
    /// How much of `measures` there was in the last 30 days.
    pub(crate) fn of(measures: Vec<Measure>) -> Self {
        Self {
            measures,
            dimensions: Vec::new(),
            filters: Vec::new(),
            granularity: Granularity::None,
            time_zone: None,
            from: None,
            to: None,
            compare: Compare::None,
            limit: None,
            other: false,
            order_by: None,
            order_currency: None,
        }
    }
}

/// What was asked, answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer {
    /// The first instant that counts.
    pub from: DateTime<Utc>,
    /// The first instant that does not count any more.
    pub to: DateTime<Utc>,
    #[schema(examples("Europe/Berlin"))]
    pub time_zone: String,
    /// The period of `previous`.
    pub compared_with: Option<Stretch>,
    pub items: Vec<Row>,
}

/// From an instant up to, and without, another.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Stretch {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// One combination of values in one stretch of time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Row {
    /// When its stretch of time begins: a date for days, weeks and months, else a time. Null without granularity.
    #[schema(examples("2026-01-31", "2026-01-31T14:00:00+01:00"))]
    pub time: Option<String>,
    /// Whether it is all combinations that do not stand apart, together.
    pub other: bool,
    /// The value of each dimension. An id is null where there is none, and each value is null in `other`.
    #[schema(value_type = DimensionValues)]
    pub dimensions: Map<String, Value>,
    /// A link's code, an affiliate's and a program's name.
    #[schema(value_type = DimensionNames)]
    pub names: Map<String, Value>,
    #[schema(value_type = Measured)]
    pub measures: Map<String, Value>,
    /// The same of the period that it is compared with; null where that has no such stretch of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Measured>)]
    pub previous: Option<Map<String, Value>>,
}

/// The measures that were asked for.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what Measure::of writes")]
pub(crate) struct Measured {
    clicks: Option<u64>,
    bot_clicks: Option<u64>,
    unique_visitors: Option<u64>,
    #[schema(examples("0.25"))]
    bot_rate: Option<String>,
    conversions: Option<u64>,
    revenue: Option<Vec<Amount>>,
    commission: Option<Vec<Amount>>,
    #[schema(examples("0.031"))]
    conversion_rate: Option<String>,
    earnings_per_click: Option<Vec<Amount>>,
    average_order_value: Option<Vec<Amount>>,
}

/// The dimensions that were asked for.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what Dimension::value writes")]
pub(crate) struct DimensionValues {
    program: Option<i64>,
    affiliate: Option<i64>,
    link: Option<i64>,
    country: Option<String>,
    region: Option<String>,
    city: Option<String>,
    network: Option<String>,
    device: Option<String>,
    os: Option<String>,
    browser: Option<String>,
    channel: Option<String>,
    referrer_domain: Option<String>,
    utm_source: Option<String>,
    utm_medium: Option<String>,
    utm_campaign: Option<String>,
    sub1: Option<String>,
    sub2: Option<String>,
    sub3: Option<String>,
    sub4: Option<String>,
    sub5: Option<String>,
    bot_reason: Option<String>,
    outcome: Option<String>,
    variant: Option<u32>,
}

/// The names of what the dimensions' ids name.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what Answer::named writes")]
pub(crate) struct DimensionNames {
    program: Option<String>,
    affiliate: Option<String>,
    link: Option<String>,
}

/// A question that can be asked.
#[derive(Debug)]
struct Plan {
    measures: Vec<Measure>,
    dimensions: Vec<Dimension>,
    filters: Vec<Condition>,
    granularity: Granularity,
    wanted: Wanted,
    limit: usize,
    other: bool,
    order_by: Measure,
    order_currency: Option<String>,
}

impl Plan {
    fn new(question: &Question, buckets: usize) -> Result<Self, Problem> {
        let measures = question.measures.clone();
        if measures.is_empty() || has_twice(&measures) {
            return Err(Problem::bad_request(
                "measures: name at least one, and each once",
            ));
        }
        let dimensions = question.dimensions.clone();
        if dimensions.len() > MAX_DIMENSIONS || has_twice(&dimensions) {
            return Err(Problem::bad_request(format!(
                "dimensions: at most {MAX_DIMENSIONS}, each once"
            )));
        }
        let filters = conditions(&question.filters)?;
        known_to_money(&measures, &dimensions, &filters)?;
        let order_by = match question.order_by {
            Some(measure) if measure.orders() && measures.contains(&measure) => measure,
            Some(_) => {
                return Err(Problem::bad_request(
                    "order_by: one of the measures asked for, and of clicks, bot_clicks, unique_visitors, \
                     conversions, revenue and commission",
                ));
            }
            None => {
                let first = measures.iter().copied().find(|measure| {
                    measure.orders() && !matches!(measure, Measure::Revenue | Measure::Commission)
                });
                // A rate's own rows lead by what it is a rate of.
                let clicks = !measures.iter().any(|m| !m.wanted().clicks);
                let fallback = if clicks {
                    Measure::Clicks
                } else {
                    Measure::Conversions
                };
                first.unwrap_or(fallback)
            }
        };
        let by_money = matches!(order_by, Measure::Revenue | Measure::Commission);
        let order_currency = question.order_currency.clone();
        let is_currency = |c: &String| c.len() == 3 && c.bytes().all(|b| b.is_ascii_uppercase());
        if by_money != order_currency.is_some() || !order_currency.iter().all(is_currency) {
            return Err(Problem::bad_request(
                "order_currency: with order_by revenue or commission, and only then, a currency such as EUR",
            ));
        }
        let limit = question.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::bad_request(format!(
                "limit must be 1 to {MAX_LIMIT}"
            )));
        }
        let places = if dimensions.is_empty() {
            1
        } else {
            limit + usize::from(question.other)
        };
        if buckets.saturating_mul(places) > MAX_ROWS {
            return Err(Problem::bad_request(format!(
                "this asks for {buckets} stretches of time × {places} combinations, and an answer has at most \
                 {MAX_ROWS} rows: ask for fewer days, a coarser granularity or a lower limit"
            )));
        }
        let wanted = measures.iter().map(|m| m.wanted());
        let wanted = wanted.fold(
            Wanted {
                clicks: false,
                visitors: false,
                conversions: false,
                commissions: false,
            },
            |a, b| Wanted {
                clicks: a.clicks || b.clicks,
                visitors: a.visitors || b.visitors,
                conversions: a.conversions || b.conversions,
                commissions: a.commissions || b.commissions,
            },
        );
        Ok(Self {
            measures,
            dimensions,
            filters,
            granularity: question.granularity,
            wanted,
            limit,
            other: question.other,
            order_by,
            order_currency,
        })
    }

    fn shape(&self) -> Shape<'_> {
        Shape {
            granularity: self.granularity,
            dimensions: &self.dimensions,
            filters: &self.filters,
            wanted: self.wanted,
        }
    }

    /// The shape of the question who leads.
    fn ranking(&self) -> Shape<'_> {
        Shape {
            granularity: Granularity::None,
            wanted: Wanted {
                visitors: self.order_by == Measure::UniqueVisitors,
                ..self.wanted
            },
            ..self.shape()
        }
    }

    fn measured(&self, figures: Option<&Figures>) -> Map<String, Value> {
        let nothing = Figures::default();
        let figures = figures.unwrap_or(&nothing);
        let measured = |m: &Measure| (m.name().to_owned(), m.of(figures));
        self.measures.iter().map(measured).collect()
    }

    /// What stands where there is nothing to compare with.
    fn unmeasured(&self) -> Map<String, Value> {
        let measured = |m: &Measure| (m.name().to_owned(), Value::Null);
        self.measures.iter().map(measured).collect()
    }
}

fn has_twice<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<BTreeSet<_>>().len() != items.len()
}

/// Conversions and commissions have a program, an affiliate and a link, and nothing else of a click.
fn known_to_money(
    measures: &[Measure],
    dimensions: &[Dimension],
    filters: &[Condition],
) -> Result<(), Problem> {
    let names = |measures: Vec<&Measure>| {
        let names: Vec<_> = measures.into_iter().map(|m| m.name()).collect();
        names.join(", ")
    };
    let of_money: Vec<_> = measures
        .iter()
        .filter(|m| m.wanted().conversions || m.wanted().commissions)
        .collect();
    let filtered = filters.iter().map(|f| f.dimension);
    let unknown: Vec<_> = dimensions
        .iter()
        .copied()
        .chain(filtered)
        .filter(|d| !d.of_money())
        .map(Dimension::name)
        .collect();
    if of_money.is_empty() || unknown.is_empty() {
        return Ok(());
    }
    Err(Problem::bad_request(format!(
        "{} can't be told by {}: they know program, affiliate and link only; ask for them without, or for \
         clicks, bot_clicks, unique_visitors and bot_rate",
        names(of_money),
        unknown.join(", "),
    )))
}

impl Facts {
    /// Answers a question about one tenant. Names are added by [`Answer::named`].
    pub(crate) async fn answer(
        &self,
        tenant: TenantId,
        question: &Question,
        period: &Period,
    ) -> Result<Answer, Problem> {
        let buckets = buckets(period, question.granularity);
        let plan = Plan::new(question, buckets.len())?;
        let previous = match question.compare {
            Compare::None => None,
            Compare::PreviousPeriod if question.granularity == Granularity::Month => {
                Some(period.before(Before::Months)?)
            }
            Compare::PreviousPeriod => Some(period.before(Before::Days)?),
            Compare::PreviousYear => Some(period.before(Before::Year)?),
        };
        let about = About {
            tenant,
            period,
            link: None,
        };
        let leaders = if plan.dimensions.is_empty() {
            Vec::new()
        } else {
            let (by, currency) = (plan.order_by, plan.order_currency.as_deref());
            self.top(about, plan.ranking(), by, currency, plan.limit)
                .await?
        };
        let keys: Vec<u64> = leaders.iter().map(|leader| leader.key).collect();
        let places = match (plan.dimensions.is_empty(), plan.other) {
            (true, _) => Places::One,
            (false, others) => Places::Keys {
                keys: &keys,
                others,
            },
        };
        let earlier = async {
            match &previous {
                Some(period) => {
                    let about = About { period, ..about };
                    self.figures(about, plan.shape(), places).await.map(Some)
                }
                None => Ok(None),
            }
        };
        let (now, earlier) = tokio::try_join!(self.figures(about, plan.shape(), places), earlier)?;
        let earlier = previous.as_ref().zip(earlier.as_ref());
        Ok(Answer {
            from: period.from,
            to: period.to,
            time_zone: period.zone.name().to_owned(),
            compared_with: previous.as_ref().map(|period| Stretch {
                from: period.from,
                to: period.to,
            }),
            items: rows(&plan, &leaders, (period, &now), earlier),
        })
    }
}

fn rows(
    plan: &Plan,
    leaders: &[Leader],
    (period, now): (&Period, &ByPlace),
    earlier: Option<(&Period, &ByPlace)>,
) -> Vec<Row> {
    let times = with_found(buckets(period, plan.granularity), now);
    let earlier = earlier.map(|(period, cells)| {
        let times = with_found(buckets(period, plan.granularity), cells);
        (times, cells)
    });
    let mut places: Vec<(u64, Option<&Leader>)> = leaders
        .iter()
        .map(|leader| (leader.key, Some(leader)))
        .collect();
    let rest = |cells: &ByPlace| cells.keys().any(|(_, place)| *place == 0);
    let has_rest = rest(now) || earlier.as_ref().is_some_and(|(_, cells)| rest(cells));
    if plan.dimensions.is_empty() || (plan.other && has_rest) {
        places.push((0, None));
    }
    let mut rows = Vec::with_capacity(times.len().saturating_mul(places.len()));
    for (number, time) in times.iter().enumerate() {
        for (place, leader) in &places {
            let value = |(number, dimension): (usize, &Dimension)| {
                let text = leader.and_then(|leader| leader.values.get(number));
                let value = text.map_or(Value::Null, |text| dimension.value(text));
                (dimension.name().to_owned(), value)
            };
            rows.push(Row {
                time: written(plan.granularity, *time, period.zone),
                other: leader.is_none() && !plan.dimensions.is_empty(),
                dimensions: plan.dimensions.iter().enumerate().map(value).collect(),
                names: Map::new(),
                measures: plan.measured(now.get(&(*time, *place))),
                previous: earlier
                    .as_ref()
                    .map(|(times, cells)| match times.get(number) {
                        Some(time) => plan.measured(cells.get(&(*time, *place))),
                        None => plan.unmeasured(),
                    }),
            });
        }
    }
    rows
}

/// The buckets of `period`, as `sql::bucket` numbers them.
fn buckets(period: &Period, granularity: Granularity) -> Vec<i64> {
    let step = |seconds: i64| {
        let local = period.from.with_timezone(&period.zone);
        let into = i64::from(local.minute() * 60 + local.second()).rem_euclid(seconds);
        let first = period.from.timestamp() - into;
        let end = period.to.timestamp() + i64::from(period.to.timestamp_subsec_nanos() > 0);
        let step = usize::try_from(seconds).unwrap_or(1);
        (first..end).step_by(step).collect()
    };
    let days = |start: fn(NaiveDate) -> NaiveDate| {
        let mut days: Vec<_> = period.days.iter().map(|d| day_number(start(*d))).collect();
        days.dedup();
        days
    };
    match granularity {
        Granularity::None => vec![0],
        Granularity::QuarterHour => step(15 * 60),
        Granularity::Hour => step(60 * 60),
        Granularity::Day => days(|day| day),
        Granularity::Week => days(|day| {
            let since_monday = i64::from(day.weekday().num_days_from_monday());
            day - TimeDelta::days(since_monday)
        }),
        Granularity::Month => days(|day| day.with_day(1).unwrap_or(day)),
    }
}

/// `buckets`, and any that only the facts know: no fact is ever left out.
fn with_found(buckets: Vec<i64>, cells: &ByPlace) -> Vec<i64> {
    let found = cells.keys().map(|(bucket, _)| *bucket);
    let all: BTreeSet<i64> = buckets.into_iter().chain(found).collect();
    all.into_iter().collect()
}

/// A day's number, from 1970 on.
pub(super) fn day_number(day: NaiveDate) -> i64 {
    day.signed_duration_since(NaiveDate::default()).num_days()
}

fn written(granularity: Granularity, bucket: i64, zone: Tz) -> Option<String> {
    match granularity {
        Granularity::None => None,
        Granularity::QuarterHour | Granularity::Hour => {
            let time = DateTime::from_timestamp(bucket, 0)?.with_timezone(&zone);
            Some(time.to_rfc3339())
        }
        Granularity::Day | Granularity::Week | Granularity::Month => {
            let day = NaiveDate::default() + TimeDelta::days(bucket);
            Some(day.to_string())
        }
    }
}

impl Answer {
    /// The ids that stand at `dimension`.
    pub(crate) fn ids(&self, dimension: Dimension) -> Vec<i64> {
        let id = |row: &Row| row.dimensions.get(dimension.name())?.as_i64();
        let ids: BTreeSet<i64> = self.items.iter().filter_map(id).collect();
        ids.into_iter().collect()
    }

    /// Adds the names of `dimension`'s ids. A column that is asked for stands in every row.
    pub(crate) fn named(&mut self, dimension: Dimension, names: &HashMap<i64, String>) {
        for row in &mut self.items {
            let Some(id) = row.dimensions.get(dimension.name()) else {
                continue;
            };
            let name = id.as_i64().and_then(|id| names.get(&id)).cloned();
            let name = name.map_or(Value::Null, Value::String);
            row.names.insert(dimension.name().to_owned(), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(from: &str, to: &str, zone: Tz) -> Period {
        let now = "2026-03-31T23:30:00Z".parse().unwrap();
        Period::read(Some(from), Some(to), zone, now).unwrap()
    }

    fn times(period: &Period, granularity: Granularity) -> Vec<String> {
        let write = |bucket| written(granularity, bucket, period.zone).unwrap();
        buckets(period, granularity)
            .into_iter()
            .map(write)
            .collect()
    }

    #[test]
    fn buckets_are_the_zones() {
        let spring = period("2026-03-29", "2026-03-29", Tz::Europe__Berlin);
        let hours = times(&spring, Granularity::Hour);
        assert_eq!(hours.len(), 23);
        assert_eq!(hours[1], "2026-03-29T01:00:00+01:00");
        assert_eq!(hours[2], "2026-03-29T03:00:00+02:00");
        assert_eq!(times(&spring, Granularity::QuarterHour).len(), 92);
        let kolkata = period("2026-01-01", "2026-01-01", Tz::Asia__Kolkata);
        assert_eq!(
            times(&kolkata, Granularity::Hour)[0],
            "2026-01-01T00:00:00+05:30"
        );
        let winter = period("2026-01-31", "2026-03-01", Tz::UTC);
        assert_eq!(
            times(&winter, Granularity::Month),
            ["2026-01-01", "2026-02-01", "2026-03-01"]
        );
        assert_eq!(
            times(&winter, Granularity::Week)[..2],
            ["2026-01-26", "2026-02-02"]
        );
        assert_eq!(times(&winter, Granularity::Day).len(), 30);
        let part = period("2026-01-01T10:20:00Z", "2026-01-01T11:00:01Z", Tz::UTC);
        assert_eq!(
            times(&part, Granularity::Hour),
            ["2026-01-01T10:00:00+00:00", "2026-01-01T11:00:00+00:00"]
        );
    }

    #[test]
    fn rates_are_exact_and_nothing_of_nothing() {
        assert_eq!(rate(1, 4).as_deref(), Some("0.25"));
        assert_eq!(rate(1, 3).as_deref(), Some("0.333333"));
        assert_eq!(rate(5, 0), None);
        let amount = Amount::new("10".parse().unwrap(), "USD");
        assert_eq!(
            amounts(std::slice::from_ref(&amount), 3)[0]["amount"],
            "3.3333"
        );
        assert_eq!(amounts(&[amount], 0), Value::Array(Vec::new()));
    }

    #[test]
    fn measures_and_dimensions_are_called_what_they_read_as() {
        for measure in Measure::ALL {
            assert_eq!(serde_json::to_value(measure).unwrap(), measure.name());
        }
        for name in ["program", "referrer_domain", "utm_source", "sub5", "os"] {
            let dimension: Dimension = serde_json::from_value(name.into()).unwrap();
            assert_eq!(dimension.name(), name);
        }
    }
}
