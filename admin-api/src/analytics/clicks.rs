//! Single clicks: a list, newest first, and one by its id.
//!
//! Addresses and fingerprints stay inside: a click can be judged without them. Only who decides about an order is shown the
//! address of its click (routes/evidence.rs). `visitor_id` tells
//! visitors apart, and can't be turned into a visitor's cookie.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use clickhouse::{Row, RowOwned, RowRead};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::{click_token, signals};
use utoipa::ToSchema;

use super::figures::{and_conditions, with_values};
use super::terms::{Condition, Filter, conditions, outcome};
use super::{About, Facts, all, time};
use crate::error::Problem;
use crate::pages::Cursor;
use crate::period::Period;

/// Hours come first in the table's order, so that only as many are read as the answer needs.
const CLICKS: &str = "
    SELECT $FIELDS FROM $CLICKS WHERE 1$AND
    ORDER BY toStartOfHour(received_at) DESC, received_at DESC, click_tag DESC LIMIT {limit:UInt64}";
const ONE: &str = "SELECT $FIELDS FROM $CLICKS WHERE click_id = {id:String} LIMIT 1";
const FIELDS: &str = "
    toUnixTimestamp64Milli(received_at) AS at, hex(click_tag) AS tag, click_id AS id, program_id, affiliate_id,
    link_id, visitor_id, country, region, city, network, device, os, browser, user_agent, referrer, referrer_domain,
    channel, sub1, sub2, sub3, sub4, sub5, utm_source, utm_medium, utm_campaign, utm_term, utm_content, is_bot,
    bot_reason, signals, privacy_opt_out, outcome, variant";
const BEFORE: &str = " AND (received_at, click_tag) <
    (fromUnixTimestamp64Milli({before:Int64}), toFixedString(unhex({tag:String}), 11))";
const IS_BOT: &str = " AND is_bot = {is_bot:UInt8}";
const OF_VISITOR: &str = " AND visitor_id = {visitor:UInt64}";
const HAS_SIGNAL: &str = " AND bitAnd(signals, {signal:UInt16}) != 0";

/// Bytes of a click id, and where its parts are: see `tributary_shared::click_token`.
const ID_BYTES: usize = 36;

/// One click.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Click {
    pub id: String,
    pub received_at: DateTime<Utc>,
    pub program_id: u64,
    pub affiliate_id: u64,
    pub link_id: u64,
    /// 16 hexadecimal digits, the same for the same visitor; null for one without a cookie.
    #[schema(examples("9f86d081884c7d65"))]
    pub visitor_id: Option<String>,
    pub country: String,
    pub region: String,
    pub city: String,
    pub network: String,
    pub device: String,
    pub os: String,
    pub browser: String,
    pub user_agent: String,
    pub referrer: String,
    pub referrer_domain: String,
    pub channel: String,
    pub sub1: String,
    pub sub2: String,
    pub sub3: String,
    pub sub4: String,
    pub sub5: String,
    pub utm_source: String,
    pub utm_medium: String,
    pub utm_campaign: String,
    pub utm_term: String,
    pub utm_content: String,
    pub is_bot: bool,
    pub bot_reason: String,
    /// What speaks against it.
    #[schema(examples(json!(["duplicate"])))]
    pub signals: Vec<&'static str>,
    /// How much speaks against it, from 0 to 100.
    pub score: u8,
    /// Whether the visitor asked not to be tracked.
    pub privacy_opt_out: bool,
    /// Where it was sent: `destination`, `expired`, `capped` or `cap_unknown`.
    pub outcome: String,
    /// The place in the link's split, from 1; 0: it has none.
    pub variant: u32,
}

#[derive(Debug, Row, Deserialize)]
struct AddressRow {
    address: String,
}

const ADDRESS: &str =
    "if(address = toIPv6('::'), '', replaceOne(toString(address), '::ffff:', '')) AS address";

#[derive(Debug, Row, Deserialize)]
pub(crate) struct ClickRow {
    at: i64,
    tag: String,
    id: String,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    visitor_id: u64,
    country: String,
    region: String,
    city: String,
    network: String,
    device: String,
    os: String,
    browser: String,
    user_agent: String,
    referrer: String,
    referrer_domain: String,
    channel: String,
    sub1: String,
    sub2: String,
    sub3: String,
    sub4: String,
    sub5: String,
    utm_source: String,
    utm_medium: String,
    utm_campaign: String,
    utm_term: String,
    utm_content: String,
    is_bot: u8,
    bot_reason: String,
    signals: u16,
    privacy_opt_out: u8,
    outcome: u8,
    variant: u32,
}

impl ClickRow {
    /// Where it stands in the list.
    pub(crate) fn place(&self) -> BeforeClick {
        BeforeClick {
            millis: self.at,
            tag: self.tag.clone(),
        }
    }

    pub(crate) fn read(self) -> Result<Click, Problem> {
        Ok(Click {
            id: self.id,
            received_at: time(self.at)?,
            program_id: self.program_id,
            affiliate_id: self.affiliate_id,
            link_id: self.link_id,
            visitor_id: (self.visitor_id != 0).then(|| format!("{:016x}", self.visitor_id)),
            country: self.country,
            region: self.region,
            city: self.city,
            network: self.network,
            device: self.device,
            os: self.os,
            browser: self.browser,
            user_agent: self.user_agent,
            referrer: self.referrer,
            referrer_domain: self.referrer_domain,
            channel: self.channel,
            sub1: self.sub1,
            sub2: self.sub2,
            sub3: self.sub3,
            sub4: self.sub4,
            sub5: self.sub5,
            utm_source: self.utm_source,
            utm_medium: self.utm_medium,
            utm_campaign: self.utm_campaign,
            utm_term: self.utm_term,
            utm_content: self.utm_content,
            is_bot: self.is_bot != 0,
            bot_reason: self.bot_reason,
            signals: signals::of(self.signals).map(|s| s.name).collect(),
            score: signals::score(self.signals),
            privacy_opt_out: self.privacy_opt_out != 0,
            outcome: outcome(self.outcome),
            variant: self.variant,
        })
    }
}

/// Where the list of clicks goes on: their time, and their tokens' tags in hex where times are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BeforeClick {
    pub millis: i64,
    pub tag: String,
}

impl Cursor for BeforeClick {
    fn write(&self) -> String {
        format!("c{}.{}", self.millis, self.tag)
    }

    fn read(text: &str) -> Option<Self> {
        let (millis, tag) = text.strip_prefix('c')?.split_once('.')?;
        let is_tag = tag.len() == 22 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        let millis = millis.parse().ok()?;
        DateTime::from_timestamp_millis(millis)?;
        is_tag.then(|| Self {
            millis,
            tag: tag.to_owned(),
        })
    }
}

/// Which clicks.
#[derive(Debug, Default)]
pub(crate) struct Which {
    filters: Vec<Condition>,
    is_bot: Option<bool>,
    signal: Option<u16>,
    visitor: Option<u64>,
}

impl Which {
    pub(crate) fn new(
        filters: &[Filter],
        is_bot: Option<bool>,
        signal: Option<&str>,
        visitor: Option<&str>,
    ) -> Result<Self, Problem> {
        let visitor_id = |text: &str| {
            let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            let id = u64::from_str_radix(text, 16).ok();
            id.filter(|_| digits).ok_or_else(|| {
                Problem::bad_request("visitor_id is 16 hexadecimal digits, as a click has it")
            })
        };
        let known = |name| {
            let signal = signals::ALL.iter().find(|signal| signal.name == name);
            signal.map(|signal| signal.mask()).ok_or_else(|| {
                let names: Vec<_> = signals::ALL.iter().map(|signal| signal.name).collect();
                Problem::bad_request(format!("signal is one of {}", names.join(", ")))
            })
        };
        Ok(Self {
            filters: conditions(filters)?,
            is_bot,
            signal: signal.map(known).transpose()?,
            visitor: visitor.map(visitor_id).transpose()?,
        })
    }
}

impl Facts {
    /// At most `limit` clicks of a period, the newest first, those before `before`.
    pub(crate) async fn clicks(
        &self,
        tenant: TenantId,
        period: &Period,
        which: &Which,
        before: Option<&BeforeClick>,
        limit: i64,
    ) -> Result<Vec<ClickRow>, Problem> {
        let mut period = period.clone();
        let mut conditions = and_conditions(&which.filters);
        if let Some(at) = before.and_then(|b| DateTime::from_timestamp_millis(b.millis)) {
            period.to = period.to.min(at + TimeDelta::milliseconds(1));
            conditions.push_str(BEFORE);
        }
        if which.is_bot.is_some() {
            conditions.push_str(IS_BOT);
        }
        if which.signal.is_some() {
            conditions.push_str(HAS_SIGNAL);
        }
        if which.visitor.is_some() {
            conditions.push_str(OF_VISITOR);
        }
        let about = About {
            tenant,
            period: &period,
            link: None,
        };
        let sql = CLICKS
            .replace("$FIELDS", FIELDS)
            .replace("$AND", &conditions);
        let query = with_values(self.ask(about, &sql), &which.filters)
            .param("limit", limit)
            .param("before", before.map_or(0, |before| before.millis))
            .param("tag", before.map_or("", |before| before.tag.as_str()))
            .param("is_bot", u8::from(which.is_bot.unwrap_or(false)))
            .param("signal", which.signal.unwrap_or(0))
            .param("visitor", which.visitor.unwrap_or(0));
        all::<ClickRow>(query).await
    }

    /// The click of that id. The id says when it was and on which link, so little is read.
    pub(crate) async fn click(&self, tenant: TenantId, id: &str) -> Result<Option<Click>, Problem> {
        let rows: Vec<ClickRow> = self.one(tenant, id, FIELDS).await?;
        rows.into_iter().next().map(ClickRow::read).transpose()
    }

    /// The address that is stored with the click of that id; none: there is no such click, or it is not kept.
    pub(crate) async fn click_address(
        &self,
        tenant: TenantId,
        id: &str,
    ) -> Result<Option<String>, Problem> {
        let rows: Vec<AddressRow> = self.one(tenant, id, ADDRESS).await?;
        let address = rows.into_iter().next().map(|row| row.address);
        Ok(address.filter(|address| !address.is_empty()))
    }

    async fn one<T: RowOwned + RowRead>(
        &self,
        tenant: TenantId,
        id: &str,
        fields: &str,
    ) -> Result<Vec<T>, Problem> {
        let Some((link, at)) = parts(id) else {
            return Ok(Vec::new());
        };
        let period = Period {
            from: at,
            to: at + TimeDelta::milliseconds(1),
            zone: Tz::UTC,
            days: Vec::new(),
        };
        let about = About {
            tenant,
            period: &period,
            link: Some(link),
        };
        let sql = ONE.replace("$FIELDS", fields);
        all::<T>(self.ask(about, &sql).param("id", id)).await
    }
}

/// What a click id says, whoever signed it: whether there is such a click is asked.
fn parts(id: &str) -> Option<(LinkId, DateTime<Utc>)> {
    if id.len() != click_token::CHARS {
        return None;
    }
    let bytes: [u8; ID_BYTES] = URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok()?;
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |n, byte| (n << 8) | u64::from(*byte))
    };
    let link = LinkId::from_wire(number(&bytes[16..24]))?;
    let at = DateTime::from_timestamp_millis(i64::try_from(number(&bytes[..6])).ok()?)?;
    // Beyond it no engine's calendar goes.
    let year = chrono::Datelike::year(&at);
    (1970..2200).contains(&year).then_some((link, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::sql::names_no_table;

    #[test]
    fn no_question_names_a_table_itself() {
        for sql in [CLICKS, ONE, FIELDS, BEFORE, IS_BOT, OF_VISITOR, HAS_SIGNAL] {
            assert!(names_no_table(sql), "{sql}");
        }
    }

    #[test]
    fn a_click_id_says_its_link_and_time() {
        let keys = format!("1:{}", "0f".repeat(32)).parse().unwrap();
        let at = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
        let token = click_token::ClickToken::mint(&keys, LinkId(77), at);
        assert_eq!(parts(token.as_str()), Some((LinkId(77), at)));
        for bad in [
            "",
            "1",
            "x",
            &"_".repeat(48),
            &"A".repeat(48),
            &"A".repeat(49),
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_place_is_read_back_and_others_are_refused() {
        let place = BeforeClick {
            millis: 1_700_000_000_123,
            tag: "00FF00".repeat(3) + "FFFF",
        };
        assert_eq!(BeforeClick::read(&place.write()), Some(place));
        for bad in [
            "",
            "c1",
            "c1.00",
            "c1.00112233445566778899",
            "cx.00112233445566778899aa",
            "c9999999999999999999.00112233445566778899aa",
        ] {
            assert_eq!(BeforeClick::read(bad), None, "{bad}");
        }
    }
}
