//! Topic `ledger` → tables `conversions` and `commissions`.
//!
//! An event may be stored twice, after a crash or when it was published twice: both tables replace rows
//! of the same id by the highest version and are read with `FINAL`, so it counts once.
//!
//! A customer may have been erased since the ledger recorded his order: he is left out here as well,
//! whether an event comes late or is delivered again.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use prost::Message as _;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::event_time;
use tributary_shared::customers::{CUSTOMER_HASH_BYTES, CustomerHash};
use tributary_shared::events::{CommissionRecorded, ConversionRecorded, LedgerEvent, ledger_event};
use uuid::Uuid;

use crate::consume::Stage;
use crate::dead_letter::Unreadable;
use crate::retry::{Stopped, until_done};
use crate::sink::{AsTheyAre, Fact, Prepare, Repeatable, Sink};

/// Decimal(20, 4), as the columns are: a whole number of ten-thousandths.
const AMOUNT_SCALE: u32 = 4;
/// Roughly what a row takes in memory.
const ROW_BYTES: usize = 512;

/// A row of `conversions`: shared/migrations/clickhouse/0006_conversions_next.sql.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub(crate) struct ConversionRow {
    #[serde(with = "clickhouse::serde::uuid")]
    conversion_id: Uuid,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    accepted_at: DateTime<Utc>,
    tenant_id: u64,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    click_id: String,
    /// Zeros: none.
    customer_id: CustomerHash,
    is_new: Option<bool>,
    order_id: String,
    event: String,
    amount: i128,
    currency: String,
    attribution: String,
    status: String,
    refunded: i128,
    version: u64,
}

/// A row of `commissions`.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub(crate) struct CommissionRow {
    #[serde(with = "clickhouse::serde::uuid")]
    commission_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    conversion_id: Uuid,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    created_at: DateTime<Utc>,
    tenant_id: u64,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    amount: i128,
    currency: String,
    state: String,
    rule_id: u64,
    rule_version: u32,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    hold_until: DateTime<Utc>,
    version: u64,
}

impl Fact for ConversionRow {
    const TABLE: &'static str = "conversions";

    fn table_partition(&self) -> i32 {
        0 // the table has one
    }

    fn bytes(&self) -> usize {
        ROW_BYTES
    }
}

impl Fact for CommissionRow {
    const TABLE: &'static str = "commissions";

    fn table_partition(&self) -> i32 {
        0 // the table has one
    }

    fn bytes(&self) -> usize {
        ROW_BYTES
    }
}

/// Why a message is not a ledger event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEvent {
    #[error("not a LedgerEvent: {0}")]
    Encoding(String),
    #[error("an event of a kind that this processor does not know")]
    UnknownKind,
    #[error("{0} is missing or out of bounds")]
    Field(&'static str),
}

/// Stores what the ledger recorded.
pub(crate) struct LedgerFacts {
    pub(crate) conversions: Sink<ConversionRow, Repeatable>,
    pub(crate) commissions: Sink<CommissionRow, Repeatable>,
    pub(crate) erased: ErasedCustomers,
}

/// Leaves erased customers out.
pub(crate) struct ErasedCustomers {
    pub(crate) pool: PgPool,
    pub(crate) shutdown: CancellationToken,
}

const NO_CUSTOMER: CustomerHash = [0; CUSTOMER_HASH_BYTES];

impl Prepare<ConversionRow> for ErasedCustomers {
    async fn prepare(&mut self, rows: &mut [ConversionRow]) -> Result<(), Stopped> {
        let known = rows.iter().filter(|row| row.customer_id != NO_CUSTOMER);
        let (tenants, customers): (Vec<i64>, Vec<CustomerHash>) = known
            .map(|row| (row.tenant_id.cast_signed(), row.customer_id))
            .unzip();
        if customers.is_empty() {
            return Ok(());
        }
        let ask = || {
            sqlx::query_as::<_, (i64, CustomerHash)>(
                "SELECT tenant_id, customer_id FROM erasures
                 WHERE (tenant_id, customer_id) IN (SELECT * FROM unnest($1::bigint[], $2::bytea[]))",
            )
            .bind(&tenants)
            .bind(&customers)
            .fetch_all(&self.pool)
        };
        let erased = until_done("postgres", &self.shutdown, ask).await?;
        let erased: BTreeSet<_> = erased.into_iter().collect();
        for row in rows {
            if erased.contains(&(row.tenant_id.cast_signed(), row.customer_id)) {
                row.customer_id = NO_CUSTOMER;
            }
        }
        Ok(())
    }
}

impl Stage for LedgerFacts {
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped> {
        match self.hold(payload) {
            Ok(()) => Ok(Vec::new()),
            Err(bad) => Ok(vec![Unreadable::message(bad)]),
        }
    }

    fn is_full(&self) -> bool {
        self.conversions.is_full() || self.commissions.is_full()
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        self.conversions.write(&mut self.erased).await?;
        self.commissions.write(&mut AsTheyAre).await
    }

    fn forget(&mut self) {
        self.conversions.forget();
        self.commissions.forget();
    }
}

impl LedgerFacts {
    fn hold(&mut self, payload: &[u8]) -> Result<(), BadEvent> {
        match decode(payload)? {
            ledger_event::Event::Conversion(event) => {
                self.conversions.add(conversion_row(event)?);
            }
            ledger_event::Event::Commission(event) => {
                self.commissions.add(commission_row(event)?);
            }
        }
        Ok(())
    }
}

fn decode(payload: &[u8]) -> Result<ledger_event::Event, BadEvent> {
    LedgerEvent::decode(payload)
        .map_err(|e| BadEvent::Encoding(e.to_string()))?
        .event
        .ok_or(BadEvent::UnknownKind)
}

fn conversion_row(event: ConversionRecorded) -> Result<ConversionRow, BadEvent> {
    Ok(ConversionRow {
        conversion_id: uuid(&event.conversion_id, "conversion_id")?,
        accepted_at: time(event.accepted_at_us, "accepted_at_us")?,
        tenant_id: event.tenant_id,
        program_id: event.program_id,
        affiliate_id: event.affiliate_id,
        link_id: event.link_id,
        click_id: event.click_id,
        customer_id: match event.customer_id.as_slice() {
            [] => NO_CUSTOMER,
            hash => CustomerHash::try_from(hash).map_err(|_| BadEvent::Field("customer_id"))?,
        },
        is_new: event.new_customer,
        order_id: event.order_id,
        event: event.event,
        amount: amount(&event.amount)?,
        currency: event.currency,
        attribution: event.attribution,
        status: match event.status.as_str() {
            "" => "pending".to_owned(),
            _ => event.status,
        },
        refunded: match event.refunded.as_str() {
            "" => 0,
            refunded => amount(refunded)?,
        },
        version: event.version,
    })
}

fn commission_row(event: CommissionRecorded) -> Result<CommissionRow, BadEvent> {
    Ok(CommissionRow {
        commission_id: uuid(&event.commission_id, "commission_id")?,
        conversion_id: uuid(&event.conversion_id, "conversion_id")?,
        created_at: time(event.created_at_us, "created_at_us")?,
        tenant_id: event.tenant_id,
        program_id: event.program_id,
        affiliate_id: event.affiliate_id,
        link_id: event.link_id,
        amount: amount(&event.amount)?,
        currency: event.currency,
        state: event.state,
        rule_id: event.rule_id,
        rule_version: event.rule_version,
        hold_until: time(event.hold_until_us, "hold_until_us")?,
        version: event.version,
    })
}

fn uuid(text: &str, name: &'static str) -> Result<Uuid, BadEvent> {
    text.parse().map_err(|_| BadEvent::Field(name))
}

fn time(micros: i64, name: &'static str) -> Result<DateTime<Utc>, BadEvent> {
    event_time(micros).ok_or(BadEvent::Field(name))
}

fn amount(text: &str) -> Result<i128, BadEvent> {
    let bad = || BadEvent::Field("amount");
    let mut amount = Decimal::from_str_exact(text)
        .map_err(|_| bad())?
        .normalize();
    if amount.scale() > AMOUNT_SCALE {
        return Err(bad());
    }
    amount.rescale(AMOUNT_SCALE);
    (amount.scale() == AMOUNT_SCALE)
        .then(|| amount.mantissa())
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_every_digit() {
        assert_eq!(amount("49.90"), Ok(499_000));
        assert_eq!(amount("9999999999999"), Ok(99_999_999_999_990_000));
        assert_eq!(amount("0.00001"), Err(BadEvent::Field("amount")));
        assert_eq!(amount("x"), Err(BadEvent::Field("amount")));
    }

    #[test]
    fn an_event_of_an_unknown_kind_is_poison() {
        assert_eq!(decode(b""), Err(BadEvent::UnknownKind));
        assert!(matches!(decode(b"\xff"), Err(BadEvent::Encoding(_))));
    }
}
