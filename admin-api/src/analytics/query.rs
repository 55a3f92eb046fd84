//! One typed question: measures × dimensions × filters × granularity, compared with an earlier period,
//! the leading combinations apart and the others together. The named reports are such questions, too.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tributary_shared::ids::TenantId;
use utoipa::ToSchema;

use super::buckets::{buckets, with_found, written};
use super::figures::{ByPlace, Leader, Places, Rank, Shape, Wanted};
use super::terms::{Compare, Condition, Dimension, Filter, Granularity, Measure, conditions};
use super::{About, Facts, Figures};
use crate::amounts::Amount;
use crate::error::Problem;
use crate::period::{Before, Period};

/// Limits of one question.
const MAX_DIMENSIONS: usize = 3;
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 10;
const MAX_ROWS: usize = 10_000;

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

    /// Whether the question who leads counts all clicks that the answer names.
    fn leaders_are_counted(&self) -> bool {
        let by_clicks = matches!(self.order_by.ranks_by(), Rank::Clicks(_));
        let whole = self.granularity == Granularity::None && !self.dimensions.is_empty();
        by_clicks && whole && !self.wanted.visitors
    }

    fn without_clicks(&self) -> Shape<'_> {
        Shape {
            wanted: Wanted {
                clicks: false,
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
        let counted = plan.leaders_are_counted();
        let shape = if counted {
            plan.without_clicks()
        } else {
            plan.shape()
        };
        let now = async {
            let mut cells = self.figures(about, shape, places).await?;
            if counted {
                Leader::add_clicks(&leaders, plan.other, &mut cells);
            }
            Ok(cells)
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
        let (now, earlier) = tokio::try_join!(now, earlier)?;
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
