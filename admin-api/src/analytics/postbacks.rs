//! The log of reports: what became of each postback, pixel and event, newest first.

use std::net::Ipv6Addr;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use serde::{Deserialize, Serialize};
use tributary_shared::clock::from_micros;
use tributary_shared::ids::TenantId;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{About, Facts, all};
use crate::error::Problem;
use crate::pages::BeforeTime;
use crate::period::Period;

const POSTBACKS: &str = "
    SELECT $FIELDS FROM $POSTBACKS WHERE 1$AND
    ORDER BY received_at DESC, id DESC LIMIT {limit:UInt64}";
const FIELDS: &str = "
    toString(id) AS line, toUnixTimestamp64Micro(received_at) AS at, door, verdict, reason, message,
    toString(conversion_id) AS conversion, order_id, event, status, click_id, query, address, user_agent";
const BEFORE: &str = " AND (received_at, id) < (fromUnixTimestamp64Micro({before:Int64}), toUUID({before_id:String}))";
const VERDICT: &str = " AND verdict = {verdict:String}";
const DOOR: &str = " AND door = {door:String}";
const REASON: &str = " AND reason = {reason:String}";
const ORDER: &str = " AND order_id = {order:String}";
const CLICK: &str = " AND click_id = {click:String}";
const TEXT: &str = " AND positionCaseInsensitiveUTF8(
    concat(order_id, '\\n', query, '\\n', message, '\\n', user_agent), {text:String}) > 0";

/// The doors, and what may become of a report, as the table has them.
const DOORS: [&str; 4] = ["postback", "pixel", "event", "webhook"];
const VERDICTS: [&str; 3] = ["taken", "refused", "ignored"];
/// Longest value of a filter, in bytes.
const MAX_FILTER_BYTES: usize = 512;

/// What became of one report.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LoggedPostback {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    /// By which way it came: `postback`, `pixel`, `event` or `webhook`.
    pub door: String,
    /// `taken`, `refused`, or `ignored`: a webhook that says nothing of an order.
    pub verdict: String,
    /// Why it was not taken, as the `error` or `reason` of the answer; empty: it was taken.
    #[schema(examples("order_id_invalid"))]
    pub reason: String,
    /// The same in words.
    pub message: String,
    /// The conversion that it was about; null: it was not taken, or it names its order by a payment of it.
    pub conversion_id: Option<Uuid>,
    pub order_id: String,
    pub event: String,
    pub status: String,
    pub click_id: String,
    /// The parameters as they came, without secrets, cut at 2 KiB; what says who the customer is reads `*`.
    pub query: String,
    /// The server that sent it; null: a shopper's browser, whose address is not kept here.
    pub address: Option<String>,
    pub user_agent: String,
}

#[derive(Debug, Row, Deserialize)]
pub(crate) struct PostbackRow {
    line: String,
    at: i64,
    door: String,
    verdict: String,
    reason: String,
    message: String,
    conversion: String,
    order_id: String,
    event: String,
    status: String,
    click_id: String,
    query: String,
    address: Ipv6Addr,
    user_agent: String,
}

impl PostbackRow {
    pub(crate) fn read(self) -> Result<LoggedPostback, Problem> {
        let bad = |what| {
            tracing::error!(what, "ClickHouse gave a line of the log that is none");
            Problem::internal()
        };
        let conversion: Uuid = self.conversion.parse().map_err(|_| bad("conversion_id"))?;
        Ok(LoggedPostback {
            id: self.line.parse().map_err(|_| bad("id"))?,
            received_at: from_micros(self.at).ok_or_else(|| bad("received_at"))?,
            door: self.door,
            verdict: self.verdict,
            reason: self.reason,
            message: self.message,
            conversion_id: Some(conversion).filter(|id| !id.is_nil()),
            order_id: self.order_id,
            event: self.event,
            status: self.status,
            click_id: self.click_id,
            query: self.query,
            address: Some(self.address)
                .filter(|address| !address.is_unspecified())
                .map(|address| address.to_canonical().to_string()),
            user_agent: self.user_agent,
        })
    }
}

impl LoggedPostback {
    /// Where it stands in the list.
    pub(crate) fn place(&self) -> BeforeTime {
        BeforeTime(self.received_at, self.id)
    }
}

/// Which reports; none of a field: all.
#[derive(Debug, Default)]
pub(crate) struct Which {
    pub verdict: Option<String>,
    pub door: Option<String>,
    pub reason: Option<String>,
    pub order_id: Option<String>,
    pub click_id: Option<String>,
    pub text: Option<String>,
}

impl Which {
    fn check(&self) -> Result<(), Problem> {
        let one_of = |name, value: &Option<String>, known: &[&str]| match value {
            Some(value) if !known.contains(&value.as_str()) => Err(Problem::bad_request(format!(
                "{name} is one of {}",
                known.join(", ")
            ))),
            _ => Ok(()),
        };
        one_of("verdict", &self.verdict, &VERDICTS)?;
        one_of("door", &self.door, &DOORS)?;
        for (name, value) in [
            ("reason", &self.reason),
            ("order_id", &self.order_id),
            ("click_id", &self.click_id),
            ("text", &self.text),
        ] {
            if value.as_ref().is_some_and(|v| v.len() > MAX_FILTER_BYTES) {
                return Err(Problem::bad_request(format!(
                    "{name} must be at most {MAX_FILTER_BYTES} bytes"
                )));
            }
        }
        Ok(())
    }

    fn conditions(&self) -> String {
        let conditions = [
            (&self.verdict, VERDICT),
            (&self.door, DOOR),
            (&self.reason, REASON),
            (&self.order_id, ORDER),
            (&self.click_id, CLICK),
            (&self.text, TEXT),
        ];
        let given = conditions.iter().filter(|(value, _)| value.is_some());
        given.map(|(_, sql)| *sql).collect()
    }
}

impl Facts {
    /// At most `limit` reports of a period, the newest first, those before `before`.
    pub(crate) async fn postbacks(
        &self,
        tenant: TenantId,
        period: &Period,
        which: &Which,
        before: Option<&BeforeTime>,
        limit: i64,
    ) -> Result<Vec<LoggedPostback>, Problem> {
        which.check()?;
        let mut period = period.clone();
        let mut conditions = which.conditions();
        if let Some(BeforeTime(at, _)) = before {
            period.to = period.to.min(*at + TimeDelta::microseconds(1));
            conditions.push_str(BEFORE);
        }
        let about = About {
            tenant,
            period: &period,
            link: None,
        };
        let sql = POSTBACKS
            .replace("$FIELDS", FIELDS)
            .replace("$AND", &conditions);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let query = self
            .ask(about, &sql)
            .param("limit", limit)
            .param("before", before.map_or(0, |b| b.0.timestamp_micros()))
            .param("before_id", before.map_or(Uuid::nil(), |b| b.1).to_string())
            .param("verdict", text(&which.verdict))
            .param("door", text(&which.door))
            .param("reason", text(&which.reason))
            .param("order", text(&which.order_id))
            .param("click", text(&which.click_id))
            .param("text", text(&which.text));
        let rows = all::<PostbackRow>(query).await?;
        rows.into_iter().map(PostbackRow::read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::sql::names_no_table;

    #[test]
    fn no_question_names_a_table_itself() {
        for sql in [
            POSTBACKS, FIELDS, BEFORE, VERDICT, DOOR, REASON, ORDER, CLICK, TEXT,
        ] {
            assert!(names_no_table(sql), "{sql}");
        }
    }

    #[test]
    fn filters_are_known_words_and_short_texts() {
        let given = |change: fn(&mut Which)| {
            let mut which = Which::default();
            change(&mut which);
            which.check().is_ok()
        };
        assert!(given(|_| {}));
        assert!(given(|w| w.verdict = Some("refused".into())));
        assert!(!given(|w| w.verdict = Some("lost".into())));
        assert!(!given(|w| w.door = Some("window".into())));
        assert!(!given(|w| w.text = Some("x".repeat(513))));
    }
}
