//! The words that questions are made of: measures, dimensions, filters, granularity.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Figures;
use super::figures::{Rank, Wanted};
use crate::amounts::Amount;
use crate::error::Problem;

/// Limits of a question's filters.
const MAX_FILTERS: usize = 10;
const MAX_FILTER_VALUES: usize = 200;
const MAX_VALUE_BYTES: usize = 512;
const MAX_VALUES_BYTES: usize = 16 * 1024;

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

    /// The measures that the rollups tell by `dimension`. Visitors have to be counted click by click, which
    /// takes the longer the more clicks there are.
    pub(crate) fn told_by(dimension: Dimension) -> Vec<Self> {
        let of_money = |m: &Self| m.wanted().conversions || m.wanted().commissions;
        let told = Self::ALL.into_iter();
        told.filter(|m| !m.wanted().visitors)
            .filter(|m| dimension.of_money() || !of_money(m))
            .collect()
    }

    pub(super) fn name(self) -> &'static str {
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

    pub(super) fn wanted(self) -> Wanted {
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
    pub(super) fn orders(self) -> bool {
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

    pub(super) fn of(self, figures: &Figures) -> Value {
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
pub(super) fn each(amounts: &[Amount], number: u64) -> Vec<Amount> {
    let divided = amounts.iter().filter_map(|amount| {
        if number == 1 {
            return Some(amount.clone());
        }
        let all: Decimal = amount.amount.parse().ok()?;
        let each = all.checked_div(Decimal::from(number))?;
        Some(Amount::new(each.round_dp(AVERAGE_DIGITS), &amount.currency))
    });
    divided.collect()
}

fn amounts(amounts: &[Amount], number: u64) -> Value {
    let written = each(amounts, number).into_iter().map(|amount| {
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

    pub(super) fn name(self) -> &'static str {
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
    pub(super) fn of_money(self) -> bool {
        matches!(self, Self::Program | Self::Affiliate | Self::Link)
    }

    /// A value as it is answered; no id is null.
    pub(super) fn value(self, text: &str) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

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
