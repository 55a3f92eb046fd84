//! Paid and cancelled payouts → ledger. The admin API says what became of a payout; the money follows here, once: in the
//! transaction that marks the payout as booked.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};
use tributary_shared::clock::Clock;
use tributary_shared::ids::{AffiliateId, TenantId};
use uuid::Uuid;

use super::carry::{self, Carry, Of};
use super::is_permanent;
use crate::ledger::{self, Posting, Subject};

/// Payouts that are looked for together.
const AT_ONCE: i64 = 100;

/// Books payouts.
#[derive(Debug)]
pub(super) struct Booker {
    pub(super) pool: PgPool,
    pub(super) clock: Clock,
}

#[derive(Debug, sqlx::FromRow)]
struct Closed {
    id: Uuid,
    tenant_id: TenantId,
    affiliate_id: AffiliateId,
    currency: String,
    state: String,
    amount: Decimal,
    fee: Decimal,
    withheld: Decimal,
    net: Decimal,
}

impl Booker {
    /// Books what is to be booked; whether there may be more.
    pub(super) async fn turn(&self) -> Result<bool, sqlx::Error> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM payouts WHERE closed_at IS NOT NULL AND NOT booked ORDER BY id LIMIT $1",
        )
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        for id in &ids {
            match self.book(*id).await {
                Err(error) if is_permanent(&error) => {
                    tracing::error!(%error, payout = %id, "a payout can't be booked; it is tried again, and others go on");
                }
                done => done?,
            }
        }
        Ok(i64::try_from(ids.len()) == Ok(AT_ONCE))
    }

    /// Books one, unless somebody else does.
    async fn book(&self, id: Uuid) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let closed: Option<Closed> = sqlx::query_as(
            "SELECT id, tenant_id, affiliate_id, currency, state, amount, fee, withheld, net FROM payouts
             WHERE id = $1 AND closed_at IS NOT NULL AND NOT booked FOR UPDATE SKIP LOCKED",
        )
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(closed) = closed {
            book(&mut transaction, &closed, self.clock.now()).await?;
        }
        transaction.commit().await
    }
}

async fn book(
    connection: &mut PgConnection,
    closed: &Closed,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let currency =
        (closed.currency.parse()).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let of = Of {
        id: closed.id,
        tenant: closed.tenant_id,
        affiliate: closed.affiliate_id,
        currency,
    };
    let conversions = carry::lock_conversions(connection, of.id).await?;
    if closed.state == "paid" {
        carry::carry(connection, &of, Carry::Paid, now).await?;
        let moves = [
            ("payouts", -closed.amount),
            ("payouts_sent", closed.net),
            ("payout_fees", closed.fee),
            ("tax_withheld", closed.withheld),
        ];
        let discharged = Posting {
            tenant_id: of.tenant,
            affiliate_id: of.affiliate,
            subject: Subject::Paid(of.id),
            reason: "paid",
            currency: currency.code(),
            moves: Vec::from_iter(moves.into_iter().filter(|(_, amount)| !amount.is_zero())),
        };
        ledger::post(connection, &[discharged], now).await?;
    } else {
        carry::carry(connection, &of, Carry::Returned, now).await?;
        // What was said of these orders meanwhile decides where the money stands now.
        sqlx::query("UPDATE conversions SET settle_at = $2 WHERE id = ANY($1)")
            .bind(&conversions)
            .bind(now)
            .execute(&mut *connection)
            .await?;
        sqlx::query("NOTIFY conversions_to_settle")
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("UPDATE payouts SET booked = true WHERE id = $1")
        .bind(of.id)
        .execute(connection)
        .await?;
    Ok(())
}
