//! Carries the money of a payout's commissions from account to account: into the payout when it is drafted, out of it when
//! it was paid or cancelled. Each commission has a posting of its own, which names the payout.
//!
//! Locks are taken in the order in which settling takes them: conversions by their ids, then balances. So nobody who pays
//! and nobody who settles sees a commission in between. Commissions are carried some thousands at a time, in the caller's
//! transaction.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use tributary_shared::events::{CommissionRecorded, ledger_event};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use tributary_shared::money::Currency;
use uuid::Uuid;

use crate::ledger::{self, Posting, Subject};
use crate::outbox;
use crate::settle::position::{Hold, Position};

/// Commissions that are carried with one statement.
const AT_ONCE: i64 = 2000;

/// A payout whose commissions are carried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of {
    pub(super) id: Uuid,
    pub(super) tenant: TenantId,
    pub(super) affiliate: AffiliateId,
    pub(super) currency: Currency,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carry {
    IntoPayout,
    Paid,
    Returned,
}

impl Carry {
    fn reason(self) -> &'static str {
        match self {
            Self::IntoPayout => "drafted",
            Self::Paid => "paid",
            Self::Returned => "cancelled",
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Commission {
    /// Its part of the payout.
    item: Decimal,
    id: Uuid,
    conversion_id: Uuid,
    program_id: ProgramId,
    link_id: Option<LinkId>,
    rule_id: i64,
    rule_version: i32,
    gross: Decimal,
    state: String,
    hold_until: DateTime<Utc>,
    created_at: DateTime<Utc>,
    pending: Decimal,
    available: Decimal,
    in_payout: Decimal,
    paid: Decimal,
    clawback: Decimal,
    postings: i32,
    version: i64,
}

/// Where a commission stands, and where it is carried.
struct Carried {
    commission: Commission,
    before: Position,
    target: Position,
    state: &'static str,
}

impl Carried {
    /// None: the commission does not stand where the payout's item says; nothing may be moved then.
    fn new(commission: Commission, carry: Carry) -> Option<Self> {
        let before = Position {
            pending: commission.pending,
            available: commission.available,
            in_payout: commission.in_payout,
            paid: commission.paid,
            clawback: commission.clawback,
        };
        let target = match carry {
            Carry::IntoPayout => {
                let (target, part) = before.drafted();
                (part == commission.item).then_some(target)?
            }
            _ if before.in_payout != commission.item => return None,
            Carry::Paid => before.paid_out(commission.item),
            Carry::Returned => before.returned(commission.item),
        };
        let was = commission.state.as_str();
        // What came back from a payout has not been paid, whatever was said of it meanwhile.
        let called = (carry != Carry::Returned || !target.paid.is_zero()).then_some(was);
        let hold = if was == "pending" {
            Hold::Held
        } else {
            Hold::Over
        };
        let rejected = matches!(was, "rejected" | "clawed_back");
        let state = target.state(commission.gross, rejected, hold, called);
        Some(Self {
            commission,
            before,
            target,
            state,
        })
    }

    fn is_called_otherwise(&self) -> bool {
        self.commission.state != self.state
    }

    fn version(&self) -> i64 {
        self.commission.version + i64::from(self.is_called_otherwise())
    }

    fn event(&self, of: &Of) -> ledger_event::Event {
        let m = &self.commission;
        ledger_event::Event::Commission(CommissionRecorded {
            commission_id: m.id.to_string(),
            version: self.version().unsigned_abs(),
            conversion_id: m.conversion_id.to_string(),
            created_at_us: m.created_at.timestamp_micros(),
            tenant_id: of.tenant.to_wire(),
            program_id: m.program_id.to_wire(),
            affiliate_id: of.affiliate.to_wire(),
            link_id: m.link_id.map_or(0, LinkId::to_wire),
            amount: self.target.total().to_string(),
            currency: of.currency.code().to_owned(),
            state: self.state.to_owned(),
            rule_id: m.rule_id.unsigned_abs(),
            rule_version: m.rule_version.unsigned_abs(),
            hold_until_us: m.hold_until.timestamp_micros(),
        })
    }
}

/// Locks the conversions of a payout's commissions, as settling does; which ones.
pub(super) async fn lock_conversions(
    connection: &mut PgConnection,
    payout: Uuid,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM conversions WHERE id IN (
             SELECT m.conversion_id FROM payout_items i JOIN commissions m ON m.id = i.commission_id WHERE i.payout_id = $1)
         ORDER BY id FOR UPDATE",
    )
    .bind(payout)
    .fetch_all(connection)
    .await
}

/// Carries all of a payout's commissions, whose conversions the caller has locked; the sum of their parts.
pub(super) async fn carry(
    connection: &mut PgConnection,
    of: &Of,
    carry: Carry,
    now: DateTime<Utc>,
) -> Result<Decimal, sqlx::Error> {
    lock_balances(connection, of).await?;
    let mut sum = Decimal::ZERO;
    let mut after = Uuid::nil();
    loop {
        let commissions: Vec<Commission> = sqlx::query_as(
            "SELECT i.amount AS item, m.id, m.conversion_id, m.program_id, m.link_id, m.rule_id, m.rule_version, m.gross, m.state,
                    m.hold_until, m.created_at, m.pending, m.available, m.in_payout, m.paid, m.clawback, m.postings, m.version
             FROM payout_items i JOIN commissions m ON m.id = i.commission_id
             WHERE i.payout_id = $1 AND i.commission_id > $2 ORDER BY i.commission_id LIMIT $3",
        )
        .bind(of.id)
        .bind(after)
        .bind(AT_ONCE)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = commissions.last() else {
            return Ok(sum);
        };
        after = last.id;
        sum += commissions.iter().map(|m| m.item).sum::<Decimal>();
        let carried: Option<Vec<Carried>> = commissions
            .into_iter()
            .map(|commission| Carried::new(commission, carry))
            .collect();
        let carried = carried.ok_or_else(|| {
            sqlx::Error::Protocol(format!(
                "a commission of payout {} does not stand where its item says; `processor ledger check` says which ledger rule is broken",
                of.id
            ))
        })?;
        write(connection, of, carry, &carried, now).await?;
    }
}

/// The balances that postings of this payout change, so that its statements wait for nobody one by one.
async fn lock_balances(connection: &mut PgConnection, of: &Of) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT 1 FROM ledger_balances b JOIN ledger_accounts a ON a.id = b.account_id
         WHERE a.tenant_id = $1 AND a.affiliate_id = $2 AND a.currency = $3 ORDER BY b.account_id FOR UPDATE OF b",
    )
    .bind(of.tenant)
    .bind(of.affiliate)
    .bind(of.currency.code())
    .execute(connection)
    .await?;
    Ok(())
}

async fn write(
    connection: &mut PgConnection,
    of: &Of,
    carry: Carry,
    carried: &[Carried],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    fn column<T>(of: &[Carried], value: impl Fn(&Carried) -> T) -> Vec<T> {
        of.iter().map(value).collect()
    }
    sqlx::query(
        "UPDATE commissions m SET available = w.available, in_payout = w.in_payout, paid = w.paid, clawback = w.clawback,
             state = w.state, postings = m.postings + 1, version = w.version
         FROM unnest($1::uuid[], $2::numeric[], $3::numeric[], $4::numeric[], $5::numeric[], $6::text[], $7::bigint[])
              AS w (id, available, in_payout, paid, clawback, state, version)
         WHERE m.id = w.id",
    )
    .bind(column(carried, |c| c.commission.id))
    .bind(column(carried, |c| c.target.available))
    .bind(column(carried, |c| c.target.in_payout))
    .bind(column(carried, |c| c.target.paid))
    .bind(column(carried, |c| c.target.clawback))
    .bind(column(carried, |c| c.state))
    .bind(column(carried, Carried::version))
    .execute(&mut *connection)
    .await?;
    let postings = column(carried, |c| Posting {
        tenant_id: of.tenant,
        affiliate_id: of.affiliate,
        subject: Subject::Commission {
            id: c.commission.id,
            number: c.commission.postings + 1,
            payout: Some(of.id),
        },
        reason: carry.reason(),
        currency: of.currency.code(),
        moves: c.before.moves(&c.target),
    });
    ledger::post(connection, &postings, now).await?;
    let events = carried.iter().filter(|c| c.is_called_otherwise());
    let events = events.map(|c| (of.tenant, c.event(of))).collect();
    outbox::put(connection, events).await
}
