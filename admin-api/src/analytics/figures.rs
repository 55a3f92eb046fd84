//! Numbers by bucket of time and by place: most answers are made of them.
//!
//! A question over dimensions is asked in two steps. The first finds the combinations of values that
//! lead by one measure ([`Facts::top`]); the second counts everything, each of them apart and all
//! others together ([`Facts::figures`]). So clicks, conversions and commissions, which stand in tables of
//! their own, answer for the same rows, and a visitor of two of the others counts once. Where clicks lead, the
//! first step has counted them already, and the second does not ask for them again ([`Leader::add_clicks`]).

use std::collections::HashMap;

use clickhouse::Row;
use clickhouse::query::Query;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::terms::{Condition, Dimension, Granularity, Measure, Values};
use super::{About, Facts, all, amount, sql};
use crate::amounts::Amount;
use crate::error::Problem;

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Figures {
    /// Clicks by people.
    pub clicks: u64,
    /// Clicks by known bots.
    pub bot_clicks: u64,
    /// Different people who clicked: exact for a few hundred, estimated to a few per cent beyond.
    pub unique_visitors: u64,
    pub conversions: u64,
    /// What the conversions were worth, one amount a currency.
    pub revenue: Vec<Amount>,
    /// What they earned affiliates, one amount a currency. Rejected commissions are left out.
    pub commission: Vec<Amount>,
}

impl Figures {
    /// Currencies in the order of the alphabet, so that answers can be compared.
    fn sort(&mut self) {
        self.revenue.sort_by(|a, b| a.currency.cmp(&b.currency));
        self.commission.sort_by(|a, b| a.currency.cmp(&b.currency));
    }
}

/// Which tables are asked, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub clicks: bool,
    pub visitors: bool,
    pub conversions: bool,
    pub commissions: bool,
}

impl Wanted {
    pub(super) const ALL: Self = Self {
        clicks: true,
        visitors: true,
        conversions: true,
        commissions: true,
    };
}

/// Which combinations of the dimensions' values stand apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places<'a> {
    /// No dimensions: everything is in place 0.
    One,
    /// These, each in the place of its key; what is none of them is in place 0, or left out.
    Keys { keys: &'a [u64], others: bool },
}

/// What is asked besides the period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    pub granularity: Granularity,
    pub dimensions: &'a [Dimension],
    pub filters: &'a [Condition],
    pub wanted: Wanted,
}

/// By bucket and place.
pub(super) type ByPlace = HashMap<(i64, u64), Figures>;

/// One combination of values that leads.
#[derive(Debug, Clone, Row, Deserialize)]
pub(super) struct Leader {
    pub key: u64,
    pub values: Vec<String>,
    /// 0 where money leads, as the others.
    clicks: u64,
    bot_clicks: u64,
    /// Of every combination, whether it leads or not.
    all_clicks: u64,
    all_bot_clicks: u64,
}

impl Leader {
    /// Adds the clicks of `leaders` to what was counted of them in one stretch of time; with `others`, those of
    /// all other combinations as well.
    pub(super) fn add_clicks(leaders: &[Self], others: bool, cells: &mut ByPlace) {
        let mut rest = leaders
            .first()
            .map_or((0, 0), |leader| (leader.all_clicks, leader.all_bot_clicks));
        for leader in leaders {
            let figures = cells.entry((0, leader.key)).or_default();
            figures.clicks = leader.clicks;
            figures.bot_clicks = leader.bot_clicks;
            rest.0 = rest.0.saturating_sub(leader.clicks);
            rest.1 = rest.1.saturating_sub(leader.bot_clicks);
        }
        if others && rest != (0, 0) {
            let figures = cells.entry((0, 0)).or_default();
            (figures.clicks, figures.bot_clicks) = rest;
        }
    }
}

#[derive(Debug, Row, Deserialize)]
struct ClickCell {
    bucket: i64,
    place: u64,
    clicks: u64,
    bot_clicks: u64,
    unique_visitors: u64,
}

#[derive(Debug, Row, Deserialize)]
struct MoneyCell {
    bucket: i64,
    place: u64,
    currency: String,
    number: u64,
    amount: String,
}

const CLICKS_PART: &str = "
    SELECT $BUCKET AS bucket, $PLACE AS place, is_bot, count() AS number, $VISITORS AS visitors
    FROM $SOURCE WHERE $WHERE GROUP BY bucket, place, is_bot";
const CLICKS: &str = "
    SELECT bucket, place, sumIf(number, is_bot = 0) AS clicks, sumIf(number, is_bot = 1) AS bot_clicks,
           sumIf(visitors, is_bot = 0) AS unique_visitors
    FROM ($PARTS) GROUP BY bucket, place";
const MONEY: &str = "
    SELECT $BUCKET AS bucket, $PLACE AS place, currency, count() AS number, toString(sum(amount)) AS amount
    FROM $SOURCE WHERE $WHERE GROUP BY bucket, place, currency";

const TOP_CLICKS_PART: &str = "
    SELECT $COLUMNS, is_bot, count() AS number, $VISITORS AS visitors
    FROM $SOURCE WHERE $WHERE GROUP BY $COLUMNS, is_bot";
// Texts and keys are made of what stands apart only, not of each row.
const TOP_CLICKS: &str = "
    SELECT $KEY AS key, $TEXTS AS values, sumIf(number, is_bot = 0) AS clicks, sumIf(number, is_bot = 1) AS bot_clicks,
           sum(clicks) OVER () AS all_clicks, sum(bot_clicks) OVER () AS all_bot_clicks
    FROM ($PARTS) GROUP BY $COLUMNS
    ORDER BY $MEASURE DESC, values LIMIT {limit:UInt64}";
const TOP_MONEY: &str = "
    SELECT $KEY AS key, $TEXTS AS values, toUInt64(0) AS clicks, toUInt64(0) AS bot_clicks,
           toUInt64(0) AS all_clicks, toUInt64(0) AS all_bot_clicks FROM $SOURCE WHERE $WHERE GROUP BY $COLUMNS
    ORDER BY $MEASURE DESC, values LIMIT {limit:UInt64}";

const VISITORS: &str = "uniqCombined64If(12)(visitor_id, visitor_id != 0 AND is_bot = 0)";
const NO_VISITORS: &str = "toUInt64(0)";

/// Conversions and commissions, each with its time.
const CONVERSIONS: (&str, &str) = ("$CONVERSIONS", "toStartOfFifteenMinutes(accepted_at)");
const COMMISSIONS: (&str, &str) = ("$COMMISSIONS", "toStartOfFifteenMinutes(created_at)");

impl Facts {
    /// The combinations of values that lead by `measure`, the first one first.
    pub(super) async fn top(
        &self,
        about: About<'_>,
        shape: Shape<'_>,
        measure: Measure,
        currency: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Leader>, Problem> {
        let sql = top_sql(about, shape, measure);
        let query = with_values(self.ask(about, &sql), shape.filters)
            .param("limit", limit)
            .param("currency", currency.unwrap_or_default());
        all::<Leader>(query).await
    }

    /// Everything by bucket and place.
    pub(super) async fn figures(
        &self,
        about: About<'_>,
        shape: Shape<'_>,
        places: Places<'_>,
    ) -> Result<ByPlace, Problem> {
        let keys = match places {
            Places::One => &[],
            Places::Keys { keys, .. } => keys,
        };
        let ask =
            |sql: String| with_values(self.ask(about, &sql), shape.filters).param("keys", keys);
        let money = async |wanted: bool, table: (&str, &str)| {
            if wanted {
                all::<MoneyCell>(ask(money_sql(shape, places, table))).await
            } else {
                Ok(Vec::new())
            }
        };
        let clicks = async {
            if shape.wanted.clicks || shape.wanted.visitors {
                all::<ClickCell>(ask(clicks_sql(about, shape, places))).await
            } else {
                Ok(Vec::new())
            }
        };
        let (clicks, conversions, commissions) = tokio::try_join!(
            clicks,
            money(shape.wanted.conversions, CONVERSIONS),
            money(shape.wanted.commissions, COMMISSIONS),
        )?;
        let mut cells = ByPlace::new();
        for cell in clicks {
            let figures = cells.entry((cell.bucket, cell.place)).or_default();
            figures.clicks = cell.clicks;
            figures.bot_clicks = cell.bot_clicks;
            // An estimate may be a little high; who came at least clicked.
            figures.unique_visitors = cell.unique_visitors.min(cell.clicks);
        }
        for cell in conversions {
            let figures = cells.entry((cell.bucket, cell.place)).or_default();
            figures.conversions += cell.number;
            figures.revenue.push(amount(&cell.amount, &cell.currency)?);
        }
        for cell in commissions {
            let figures = cells.entry((cell.bucket, cell.place)).or_default();
            figures
                .commission
                .push(amount(&cell.amount, &cell.currency)?);
        }
        cells.values_mut().for_each(Figures::sort);
        Ok(cells)
    }
}

/// Every dimension that decides which rows are read, or how they are grouped.
fn touched(shape: Shape<'_>) -> Vec<Dimension> {
    let filtered = shape.filters.iter().map(|f| f.dimension);
    shape.dimensions.iter().copied().chain(filtered).collect()
}

fn clicks_sql(about: About<'_>, shape: Shape<'_>, places: Places<'_>) -> String {
    let condition = condition(shape, places);
    let parts = parts(about, shape, |(source, time)| {
        CLICKS_PART
            .replace("$BUCKET", &sql::bucket(shape.granularity, time))
            .replace("$PLACE", &place(shape, places))
            .replace("$SOURCE", source)
            .replace("$WHERE", &condition)
    });
    CLICKS.replace("$PARTS", &parts)
}

fn money_sql(shape: Shape<'_>, places: Places<'_>, (source, time): (&str, &str)) -> String {
    MONEY
        .replace("$BUCKET", &sql::bucket(shape.granularity, time))
        .replace("$PLACE", &place(shape, places))
        .replace("$SOURCE", source)
        .replace("$WHERE", &condition(shape, places))
}

fn top_sql(about: About<'_>, shape: Shape<'_>, measure: Measure) -> String {
    let condition = condition(shape, Places::One);
    let money = |(source, _): (&str, &str), measure| {
        TOP_MONEY
            .replace("$MEASURE", measure)
            .replace("$SOURCE", source)
    };
    let amount = "sumIf(amount, currency = {currency:String})";
    let sql = match measure.ranks_by() {
        Rank::Conversions => money(CONVERSIONS, "count()"),
        Rank::Revenue => money(CONVERSIONS, amount),
        Rank::Commission => money(COMMISSIONS, amount),
        Rank::Clicks(expression) => {
            let parts = parts(about, shape, |(source, _)| {
                TOP_CLICKS_PART.replace("$SOURCE", source)
            });
            TOP_CLICKS
                .replace("$MEASURE", expression)
                .replace("$PARTS", &parts)
        }
    };
    sql.replace("$KEY", &sql::key(shape.dimensions))
        .replace("$TEXTS", &sql::texts(shape.dimensions))
        .replace("$COLUMNS", &sql::columns(shape.dimensions))
        .replace("$WHERE", &condition)
}

/// What leaders lead by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rank {
    /// By this, over what the rows of clicks say.
    Clicks(&'static str),
    Conversions,
    Revenue,
    Commission,
}

/// One part for each source of clicks, put together.
fn parts(
    about: About<'_>,
    shape: Shape<'_>,
    part: impl Fn((&'static str, &'static str)) -> String,
) -> String {
    let visitors = shape.wanted.visitors;
    let form = sql::Form::of(about, &touched(shape), shape.granularity, visitors);
    let counted = if visitors { VISITORS } else { NO_VISITORS };
    let parts: Vec<_> = form
        .sources()
        .iter()
        .map(|source| part(*source).replace("$VISITORS", counted))
        .collect();
    parts.join(" UNION ALL ")
}

fn place(shape: Shape<'_>, places: Places<'_>) -> String {
    match places {
        Places::Keys { keys, .. } if !keys.is_empty() => format!(
            "transform({}, {{keys:Array(UInt64)}}, {{keys:Array(UInt64)}}, toUInt64(0))",
            sql::key(shape.dimensions)
        ),
        Places::One | Places::Keys { .. } => "toUInt64(0)".to_owned(),
    }
}

fn condition(shape: Shape<'_>, places: Places<'_>) -> String {
    let mut conditions: Vec<String> = Vec::new();
    if let Places::Keys { others: false, .. } = places {
        let key = sql::key(shape.dimensions);
        conditions.push(format!("{key} IN {{keys:Array(UInt64)}}"));
    }
    for (number, filter) in shape.filters.iter().enumerate() {
        let (column, kind) = (filter.dimension.column(), filter.dimension.kind());
        let not = if filter.not { "NOT " } else { "" };
        conditions.push(format!("{column} {not}IN {{filter{number}:Array({kind})}}"));
    }
    if conditions.is_empty() {
        return "1".to_owned();
    }
    conditions.join(" AND ")
}

/// `query` with the values that its filters name.
pub(super) fn with_values(query: Query, filters: &[Condition]) -> Query {
    filters
        .iter()
        .enumerate()
        .fold(query, |query, (number, filter)| {
            let name = format!("filter{number}");
            match &filter.values {
                Values::Numbers(numbers) => query.param(&name, numbers),
                Values::Texts(texts) => query.param(&name, texts),
            }
        })
}

/// The conditions of `filters` on single clicks, each with AND before it.
pub(super) fn and_conditions(filters: &[Condition]) -> String {
    let shape = Shape {
        granularity: Granularity::None,
        dimensions: &[],
        filters,
        wanted: Wanted::ALL,
    };
    format!(" AND {}", condition(shape, Places::One))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_question_names_a_table_itself() {
        for sql in [
            CLICKS_PART,
            CLICKS,
            MONEY,
            TOP_CLICKS_PART,
            TOP_CLICKS,
            TOP_MONEY,
        ] {
            assert!(sql::names_no_table(sql), "{sql}");
        }
    }
}
