//! What the engines themselves hold: facts in ClickHouse, money in PostgreSQL. Read only.

use chrono::{DateTime, Utc};
use reqwest::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::Error;
use crate::run_file::RunFile;

/// Click ids that one question names: some 100 KB, below ClickHouse's limit for a query.
const IDS_PER_QUERY: usize = 2_000;

/// How finely [`ClickHouse::by_moment`] tells moments apart.
pub(crate) const BUCKET_MS: i64 = 10;

/// A row of `clicks`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoredClick {
    pub(crate) click_id: String,
    pub(crate) link_id: i64,
    pub(crate) program_id: i64,
    pub(crate) affiliate_id: i64,
    pub(crate) visitor_id: String,
    pub(crate) address: String,
    pub(crate) user_agent: String,
    pub(crate) referrer: String,
    pub(crate) sub2: String,
    pub(crate) is_bot: u8,
}

/// A conversion as ClickHouse, PostgreSQL or the API has it.
#[derive(Debug, Clone, Deserialize, sqlx::FromRow)]
pub(crate) struct Conversion {
    #[serde(alias = "conversion_id")]
    pub(crate) id: String,
    pub(crate) order_id: String,
    pub(crate) link_id: Option<i64>,
    pub(crate) affiliate_id: Option<i64>,
    pub(crate) amount: String,
    pub(crate) currency: String,
}

/// A commission as ClickHouse, PostgreSQL or the API has it.
#[derive(Debug, Clone, Deserialize, sqlx::FromRow)]
pub(crate) struct Commission {
    pub(crate) conversion_id: String,
    pub(crate) link_id: i64,
    pub(crate) affiliate_id: i64,
    pub(crate) amount: String,
    pub(crate) currency: String,
}

/// What one store knows of orders.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) conversions: Vec<Conversion>,
    pub(crate) commissions: Vec<Commission>,
}

/// Has ClickHouse count rows, whatever is kept beside them.
const ROWS_THEMSELVES: &str = "SETTINGS optimize_use_projections = 0";

/// A click id, and in how many rows of one link it stands.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TimesStored {
    pub(crate) click_id: String,
    pub(crate) link_id: i64,
    pub(crate) n: usize,
}

/// How many clicks of one link were received in one minute, counted from 1970 on.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LinkMinute {
    pub(crate) link_id: i64,
    pub(crate) minute: i64,
    pub(crate) n: usize,
}

/// A rollup: a projection that counts clicks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Rollup {
    pub(crate) name: String,
    /// `SELECT keys, measures GROUP BY keys`.
    query: String,
}

/// One row of a rollup: its keys and measures by name.
pub(crate) type Figures = serde_json::Map<String, serde_json::Value>;

impl Rollup {
    /// Its query as one asks it of the clicks.
    fn question(&self) -> Result<String, Error> {
        let (select, keys) =
            self.query
                .rsplit_once(" GROUP BY ")
                .ok_or_else(|| Error::Unreadable {
                    doing: format!("read the rollup {}", self.name),
                    why: format!("it does not group: {}", self.query),
                })?;
        Ok(format!("{select} FROM clicks GROUP BY {keys}"))
    }
}

pub(crate) struct ClickHouse {
    client: Client,
    url: String,
}

/// The clicks of a run.
#[derive(Debug)]
pub(crate) struct StoredClicks {
    /// Rows whose click id was asked for.
    pub(crate) asked: Vec<StoredClick>,
    /// Rows that carry the run's mark, whether their id was asked for or not.
    pub(crate) marked: Vec<StoredClick>,
}

impl ClickHouse {
    pub(crate) fn new(system: &RunFile) -> Result<Self, Error> {
        let engine = &system.engines.clickhouse;
        Ok(Self {
            client: Client::builder()
                .no_proxy()
                .build()
                .map_err(Error::http("make a client"))?,
            url: format!(
                "{}/?database={}&output_format_json_quote_64bit_integers=0&output_format_json_quote_decimals=1",
                engine.url.trim_end_matches('/'),
                engine.database
            ),
        })
    }

    /// How many rows have one of these click ids.
    pub(crate) async fn count(&self, ids: &[&str], since: DateTime<Utc>) -> Result<usize, Error> {
        let mut sum = 0;
        for ids in ids.chunks(IDS_PER_QUERY) {
            sum += self
                .number(&format!(
                    "SELECT count() AS n FROM clicks WHERE {}",
                    among(ids, since)
                ))
                .await?;
        }
        Ok(sum)
    }

    pub(crate) async fn clicks(
        &self,
        ids: &[&str],
        run: &str,
        since: DateTime<Utc>,
    ) -> Result<StoredClicks, Error> {
        const COLUMNS: &str = "SELECT click_id, link_id, program_id, affiliate_id, toString(visitor_id) AS visitor_id, address, \
             user_agent, referrer, sub2, is_bot FROM clicks WHERE";
        let mut asked = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_QUERY) {
            asked.extend(
                self.rows::<StoredClick>(&format!("{COLUMNS} {}", among(ids, since)))
                    .await?,
            );
        }
        let marked = self
            .rows(&format!("{COLUMNS} {} AND sub1 = '{run}'", received(since)))
            .await?;
        Ok(StoredClicks { asked, marked })
    }

    /// How many rows carry a run's mark.
    pub(crate) async fn count_marked(
        &self,
        run: &str,
        since: DateTime<Utc>,
    ) -> Result<usize, Error> {
        self.number(&format!(
            "SELECT count() AS n FROM clicks WHERE {} AND sub1 = '{run}'",
            received(since)
        ))
        .await
    }

    /// How many rows carry a run's mark, by the moment of the click: [`BUCKET_MS`] since 1970.
    pub(crate) async fn by_moment(
        &self,
        run: &str,
        since: DateTime<Utc>,
    ) -> Result<Vec<(i64, u64)>, Error> {
        #[derive(Deserialize)]
        struct Moment {
            bucket: i64,
            n: u64,
        }
        let moments: Vec<Moment> = self
            .rows(&format!(
                "SELECT intDiv(toUnixTimestamp64Milli(received_at), {BUCKET_MS}) AS bucket, count() AS n FROM clicks \
                 WHERE {} AND sub1 = '{run}' GROUP BY bucket",
                received(since)
            ))
            .await?;
        Ok(moments.into_iter().map(|row| (row.bucket, row.n)).collect())
    }

    /// All clicks.
    pub(crate) async fn all_clicks(&self) -> Result<usize, Error> {
        self.number("SELECT count() AS n FROM clicks").await
    }

    /// All clicks of a tenant.
    pub(crate) async fn clicks_of(&self, tenant: u64) -> Result<usize, Error> {
        self.number(&format!(
            "SELECT count() AS n FROM clicks WHERE tenant_id = {tenant}"
        ))
        .await
    }

    /// Of all parts, with their rollups.
    pub(crate) async fn bytes_per_click(&self) -> Result<usize, Error> {
        self.number(
            "SELECT intDiv(sum(bytes_on_disk), sum(rows)) AS n FROM system.parts \
             WHERE active AND database = currentDatabase() AND table = 'clicks'",
        )
        .await
    }

    /// Merges that are under way.
    pub(crate) async fn merges(&self) -> Result<usize, Error> {
        self.number("SELECT count() AS n FROM system.merges WHERE database = currentDatabase()")
            .await
    }

    async fn number(&self, query: &str) -> Result<usize, Error> {
        #[derive(Deserialize)]
        struct Number {
            n: usize,
        }
        let numbers: Vec<Number> = self.rows(query).await?;
        Ok(numbers.iter().map(|row| row.n).sum())
    }

    /// Each click id that carries a run's mark: under which link it stands, and in how many rows.
    pub(crate) async fn times_stored(
        &self,
        run: &str,
        since: DateTime<Utc>,
    ) -> Result<Vec<TimesStored>, Error> {
        self.rows(&format!(
            "SELECT click_id, link_id, count() AS n FROM clicks WHERE {} AND sub1 = '{run}' \
             GROUP BY click_id, link_id {ROWS_THEMSELVES}",
            received(since)
        ))
        .await
    }

    /// How many clicks that carry a run's mark ClickHouse counts, by link and minute.
    pub(crate) async fn by_link_and_minute(
        &self,
        run: &str,
        since: DateTime<Utc>,
    ) -> Result<Vec<LinkMinute>, Error> {
        self.rows(&format!(
            "SELECT link_id, intDiv(toUnixTimestamp(received_at), 60) AS minute, count() AS n FROM clicks \
             WHERE {} AND sub1 = '{run}' GROUP BY link_id, minute {ROWS_THEMSELVES}",
            received(since)
        ))
        .await
    }

    /// The rollups that stand beside the clicks, as the table itself describes them.
    pub(crate) async fn rollups(&self) -> Result<Vec<Rollup>, Error> {
        self.rows(
            "SELECT name, query FROM system.projections \
             WHERE database = currentDatabase() AND table = 'clicks' AND type = 'Aggregate' \
             AND query LIKE '%count()%' ORDER BY name",
        )
        .await
    }

    /// A rollup's own question, answered from its figures: an error if ClickHouse would not use them.
    pub(crate) async fn rolled_up(&self, rollup: &Rollup) -> Result<Vec<Figures>, Error> {
        let question = rollup.question()?;
        let name = &rollup.name;
        self.rows(&format!(
            "{question} SETTINGS optimize_use_projections = 1, force_optimize_projection = 1, \
             force_optimize_projection_name = '{name}'"
        ))
        .await
    }

    /// The same, counted from the clicks.
    pub(crate) async fn counted(&self, rollup: &Rollup) -> Result<Vec<Figures>, Error> {
        let question = rollup.question()?;
        self.rows(&format!("{question} {ROWS_THEMSELVES}")).await
    }

    /// How many conversions and commissions of the run there are.
    pub(crate) async fn count_orders(&self, run: &str) -> Result<(usize, usize), Error> {
        let facts = self.orders(run).await?;
        Ok((facts.conversions.len(), facts.commissions.len()))
    }

    pub(crate) async fn orders(&self, run: &str) -> Result<Facts, Error> {
        let of_run = format!("startsWith(order_id, '{run}-')");
        Ok(Facts {
            conversions: self
                .rows(&format!(
                    "SELECT conversion_id, order_id, link_id, affiliate_id, amount, currency FROM conversions FINAL WHERE {of_run}"
                ))
                .await?,
            commissions: self
                .rows(&format!(
                    "SELECT conversion_id, link_id, affiliate_id, amount, currency FROM commissions FINAL \
                     WHERE conversion_id IN (SELECT conversion_id FROM conversions FINAL WHERE {of_run})"
                ))
                .await?,
        })
    }

    async fn rows<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<T>, Error> {
        let body = self.execute(&format!("{query} FORMAT JSONEachRow")).await?;
        body.lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|error| Error::Unreadable {
                    doing: "read ClickHouse's answer".to_owned(),
                    why: format!("{error}: {line}"),
                })
            })
            .collect()
    }

    pub(crate) async fn execute(&self, query: &str) -> Result<String, Error> {
        let doing = || "ask ClickHouse".to_owned();
        let answer = self
            .client
            .post(&self.url)
            .body(query.to_owned())
            .send()
            .await
            .map_err(Error::http(doing()))?;
        let status = answer.status();
        let body = answer.text().await.map_err(Error::http(doing()))?;
        if !status.is_success() {
            return Err(Error::Answer {
                doing: doing(),
                status: status.as_u16(),
                body,
            });
        }
        Ok(body)
    }
}

/// Ids are 48 characters of base64url, checked when they were received: nothing to escape.
fn among(ids: &[&str], since: DateTime<Utc>) -> String {
    format!(
        "{} AND click_id IN ('{}')",
        received(since),
        ids.join("','")
    )
}

fn received(since: DateTime<Utc>) -> String {
    format!(
        "received_at >= fromUnixTimestamp64Milli({}, 'UTC')",
        since.timestamp_millis()
    )
}

pub(crate) struct Ledger(PgPool);

/// The ledger's view of a run's orders.
#[derive(Debug)]
pub(crate) struct LedgerOrders {
    pub(crate) facts: Facts,
    pub(crate) entries: Vec<Entry>,
}

/// A row of `ledger_explained`.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Entry {
    pub(crate) commission_id: String,
    pub(crate) conversion_id: String,
    pub(crate) account: String,
    pub(crate) affiliate_id: Option<i64>,
    pub(crate) amount: String,
    pub(crate) currency: String,
}

impl Ledger {
    pub(crate) async fn connect(system: &RunFile) -> Result<Self, Error> {
        PgPoolOptions::new()
            .max_connections(2)
            .connect(&system.engines.postgres.url)
            .await
            .map(Self)
            .map_err(Error::postgres("connecting"))
    }

    /// How many conversions and commissions of the run there are.
    pub(crate) async fn count_orders(&self, run: &str) -> Result<(usize, usize), Error> {
        let (conversions, commissions): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(m.id) FROM conversions c LEFT JOIN commissions m ON m.conversion_id = c.id \
             WHERE starts_with(c.order_id, $1)",
        )
        .bind(prefix(run))
        .fetch_one(&self.0)
        .await
        .map_err(Error::postgres("counting the run's orders"))?;
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        Ok((count(conversions), count(commissions)))
    }

    pub(crate) async fn orders(&self, run: &str) -> Result<LedgerOrders, Error> {
        let conversions = sqlx::query_as(
            "SELECT id::text, order_id, link_id, affiliate_id, amount::text, currency \
             FROM conversions WHERE starts_with(order_id, $1)",
        )
        .bind(prefix(run))
        .fetch_all(&self.0)
        .await
        .map_err(Error::postgres("reading conversions"))?;
        let commissions = sqlx::query_as(
            "SELECT m.conversion_id::text, m.link_id, m.affiliate_id, m.amount::text, m.currency \
             FROM commissions m JOIN conversions c ON c.id = m.conversion_id WHERE starts_with(c.order_id, $1)",
        )
        .bind(prefix(run))
        .fetch_all(&self.0)
        .await
        .map_err(Error::postgres("reading commissions"))?;
        let entries = sqlx::query_as(
            "SELECT commission_id::text, conversion_id::text, account, affiliate_id, amount::text, currency \
             FROM ledger_explained WHERE starts_with(order_id, $1)",
        )
        .bind(prefix(run))
        .fetch_all(&self.0)
        .await
        .map_err(Error::postgres("reading ledger entries"))?;
        Ok(LedgerOrders {
            facts: Facts {
                conversions,
                commissions,
            },
            entries,
        })
    }
}

fn prefix(run: &str) -> String {
    format!("{run}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_asked_of_the_clicks() {
        let rollup = |query: &str| Rollup {
            name: "by_link".to_owned(),
            query: query.to_owned(),
        };
        let question = rollup("SELECT link_id, count() GROUP BY link_id").question();
        assert_eq!(
            question.unwrap(),
            "SELECT link_id, count() FROM clicks GROUP BY link_id"
        );
        assert!(rollup("SELECT a ORDER BY a").question().is_err());
    }
}
