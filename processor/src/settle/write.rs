//! What was decided, written to PostgreSQL with one statement for many conversions: their rows, their commissions, the
//! postings that bring the ledger there, and what changed for the outbox. What did not change is not published.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use sqlx::types::Json;
use tributary_shared::customers::CustomerHash;
use tributary_shared::events::{CommissionRecorded, ConversionRecorded, ledger_event};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use tributary_shared::money::Currency;
use uuid::Uuid;

use super::attribute::Step;
use super::judge::Verdict;
use super::load::{self, Before};
use super::position::Position;
use super::price::Priced;
use crate::ledger::{self, Posting, Subject};
use crate::outbox;
use crate::reports::{Item, Status};

/// What stands in place of a currency until one is known.
const NO_CURRENCY: &str = "XXX";

/// A conversion as it is to stand.
#[derive(Debug)]
pub(super) struct Conversion<'k> {
    pub(super) before: &'k Before,
    pub(super) status: Status,
    pub(super) amount: Decimal,
    pub(super) refunded: Decimal,
    pub(super) currency: Option<Currency>,
    pub(super) converted_at: DateTime<Utc>,
    pub(super) attribution: &'static str,
    pub(super) model: Option<&'k str>,
    pub(super) path: &'k [Step],
    pub(super) click_id: Option<&'k str>,
    pub(super) link_id: Option<LinkId>,
    pub(super) affiliate_id: Option<AffiliateId>,
    pub(super) program_id: Option<ProgramId>,
    pub(super) customer_id: Option<CustomerHash>,
    pub(super) new_customer: Option<bool>,
    pub(super) coupon: Option<&'k str>,
    pub(super) items: &'k [Item],
    pub(super) note: Option<String>,
    pub(super) verdict: &'k Verdict,
    pub(super) settle_at: Option<DateTime<Utc>>,
    pub(super) looks: i16,
    pub(super) commissions: Vec<Commission>,
}

/// A commission as it is to stand.
#[derive(Debug)]
pub(super) struct Commission {
    pub(super) before: Option<load::Commission>,
    pub(super) priced: Priced,
    pub(super) state: &'static str,
    pub(super) reason: &'static str,
    pub(super) hold_until: DateTime<Utc>,
    pub(super) position: Position,
    pub(super) target: Position,
}

impl Conversion<'_> {
    fn currency(&self) -> &'static str {
        self.currency.map_or(NO_CURRENCY, Currency::code)
    }

    /// Whether what others read of it is another than before.
    fn changed(&self) -> bool {
        let b = self.before;
        b.version == 0
            || b.status != self.status.as_str()
            || b.amount != self.amount
            || b.refunded != self.refunded
            || b.currency != self.currency()
            || b.attribution != self.attribution
            || b.click_id.as_deref() != self.click_id
            || b.link_id != self.link_id
            || b.affiliate_id != self.affiliate_id
            || b.program_id != self.program_id
            || b.new_customer != self.new_customer
            || b.customer_id != self.customer_id
    }

    /// Whether it is credited to others than before, or in other parts.
    pub(super) fn is_shared_out_otherwise(&self) -> bool {
        self.before.version == 0 || self.before.steps() != self.path
    }

    /// Whether those after it may have to be settled again: it earns another amount than before, or stands elsewhere in time,
    /// because an earlier report came late.
    fn moves_others(&self) -> bool {
        let moved = self.before.version > 0 && self.before.converted_at != self.converted_at;
        let amounts = |c: &Commission| c.before.as_ref().map(|b| b.gross) != Some(c.priced.gross);
        let worth = |c: &Commission| c.position.total() != c.target.total();
        moved || self.commissions.iter().any(|c| amounts(c) || worth(c))
    }

    fn version(&self) -> i64 {
        self.before.version + i64::from(self.changed())
    }

    fn event(&self) -> ledger_event::Event {
        ledger_event::Event::Conversion(ConversionRecorded {
            conversion_id: self.before.id.to_string(),
            version: self.version().unsigned_abs(),
            accepted_at_us: self.before.accepted_at.timestamp_micros(),
            tenant_id: self.before.tenant_id.to_wire(),
            program_id: self.program_id.map_or(0, ProgramId::to_wire),
            affiliate_id: self.affiliate_id.map_or(0, AffiliateId::to_wire),
            link_id: self.link_id.map_or(0, LinkId::to_wire),
            click_id: self.click_id.unwrap_or_default().to_owned(),
            order_id: self.before.order_id.clone(),
            event: self.before.event.clone(),
            amount: self.amount.to_string(),
            currency: self.currency().to_owned(),
            attribution: self.attribution.to_owned(),
            customer_id: self.customer_id.map(Vec::from).unwrap_or_default(),
            new_customer: self.new_customer,
            status: self.status.as_str().to_owned(),
            refunded: self.refunded.to_string(),
        })
    }
}

impl Commission {
    fn id(&self, conversion: &Before) -> Uuid {
        match &self.before {
            Some(before) => before.id,
            None => self.priced.id(conversion.id),
        }
    }

    fn changed(&self) -> bool {
        self.before.as_ref().is_none_or(|before| {
            before.state != self.state
                || self.position != self.target
                || before.rule_id != self.priced.rule_id
                || before.hold_until != self.hold_until
                || before.gross != self.priced.gross
        })
    }

    fn moves(&self) -> Vec<(&'static str, Decimal)> {
        self.position.moves(&self.target)
    }

    fn postings(&self) -> i32 {
        let before = self.before.as_ref().map_or(0, |before| before.postings);
        before + i32::from(!self.moves().is_empty())
    }

    fn version(&self) -> i64 {
        let before = self.before.as_ref().map_or(0, |before| before.version);
        before + i64::from(self.changed())
    }

    fn event(&self, of: &Conversion<'_>) -> ledger_event::Event {
        ledger_event::Event::Commission(CommissionRecorded {
            commission_id: self.id(of.before).to_string(),
            version: self.version().unsigned_abs(),
            conversion_id: of.before.id.to_string(),
            created_at_us: of.before.accepted_at.timestamp_micros(),
            tenant_id: of.before.tenant_id.to_wire(),
            program_id: self.priced.program_id.to_wire(),
            affiliate_id: self.priced.affiliate_id.to_wire(),
            link_id: of.link_id.map_or(0, LinkId::to_wire),
            amount: self.target.total().to_string(),
            currency: self.priced.currency.code().to_owned(),
            state: self.state.to_owned(),
            rule_id: self.priced.rule_id.unsigned_abs(),
            rule_version: self.priced.rule_version.unsigned_abs(),
            hold_until_us: self.hold_until.timestamp_micros(),
        })
    }
}

/// Writes all of it, in the caller's transaction.
pub(super) async fn write(
    connection: &mut PgConnection,
    conversions: &[Conversion<'_>],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    write_conversions(connection, conversions).await?;
    let commissions: Vec<(&Conversion<'_>, &Commission)> = conversions
        .iter()
        .flat_map(|of| {
            of.commissions
                .iter()
                .map(move |commission| (of, commission))
        })
        .filter(|(_, commission)| commission.changed())
        .collect();
    write_commissions(connection, &commissions).await?;
    let postings: Vec<Posting> = commissions
        .iter()
        .filter_map(|(of, commission)| {
            let moves = commission.moves();
            (!moves.is_empty()).then(|| Posting {
                tenant_id: of.before.tenant_id,
                affiliate_id: commission.priced.affiliate_id,
                subject: Subject::Commission {
                    id: commission.id(of.before),
                    number: commission.postings(),
                    payout: None,
                },
                reason: commission.reason,
                currency: commission.priced.currency.code(),
                moves,
            })
        })
        .collect();
    ledger::post(connection, &postings, now).await?;

    let mut events: Vec<(TenantId, ledger_event::Event)> = Vec::new();
    for of in conversions {
        let tenant = of.before.tenant_id;
        // Nobody is told of an order of which nobody has said yet what it is worth.
        let is_told = of.changed() && of.currency.is_some();
        events.extend(is_told.then(|| (tenant, of.event())));
        let changed = of
            .commissions
            .iter()
            .filter(|commission| commission.changed());
        events.extend(changed.map(|commission| (tenant, commission.event(of))));
    }
    outbox::put(connection, events).await
}

/// Settles again what may depend on these: later orders of the same affiliates or customer, where the program's rules look
/// back. Nearly always there are none, because orders come in the order of time.
pub(super) async fn later(
    connection: &mut PgConnection,
    of: &[&Conversion<'_>],
    settled: &[Uuid],
) -> Result<(), sqlx::Error> {
    let mut affiliates: Vec<(&Conversion<'_>, AffiliateId)> = Vec::new();
    for conversion in of.iter().filter(|conversion| conversion.moves_others()) {
        let whose = conversion.commissions.iter().map(|c| c.priced.affiliate_id);
        affiliates.extend(whose.map(|affiliate| (*conversion, affiliate)));
    }
    if affiliates.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE conversions c SET settle_at = now()
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::timestamptz[])
              AS w (id, tenant_id, program_id, affiliate_id, customer_id, at)
         WHERE c.tenant_id = w.tenant_id AND c.program_id = w.program_id AND c.accepted_at >= w.at
           AND (c.converted_at, c.id) > (w.at, w.id) AND c.version > 0 AND c.id <> ALL ($7)
           AND (c.customer_id = w.customer_id
                OR EXISTS (SELECT 1 FROM commissions m WHERE m.conversion_id = c.id AND m.affiliate_id = w.affiliate_id))",
    )
    .bind(affiliates.iter().map(|(c, _)| c.before.id).collect::<Vec<_>>())
    .bind(affiliates.iter().map(|(c, _)| c.before.tenant_id).collect::<Vec<_>>())
    .bind(affiliates.iter().map(|(c, _)| c.program_id).collect::<Vec<_>>())
    .bind(affiliates.iter().map(|(_, affiliate)| *affiliate).collect::<Vec<_>>())
    .bind(affiliates.iter().map(|(c, _)| c.customer_id.map(Vec::from)).collect::<Vec<_>>())
    .bind(affiliates.iter().map(|(c, _)| c.converted_at).collect::<Vec<_>>())
    .bind(settled)
    .execute(connection)
    .await?;
    Ok(())
}

/// Settles again what renews these, by name or as the customer's: orders that are credited otherwise than before.
pub(super) async fn renewals(
    connection: &mut PgConnection,
    of: &[(Uuid, TenantId, Option<CustomerHash>)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if of.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH w AS (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS w (id, tenant_id, customer_id))
         UPDATE conversions SET settle_at = $4 WHERE version > 0 AND id IN (
             SELECT r.conversion_id FROM w JOIN order_names n ON n.conversion_id = w.id
             JOIN conversion_reports r ON r.tenant_id = n.tenant_id AND r.renews = n.name
             UNION
             SELECT c.id FROM w JOIN conversions c ON c.tenant_id = w.tenant_id AND c.customer_id = w.customer_id
             WHERE c.event = 'renewal')",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.1).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2.map(Vec::from)).collect::<Vec<_>>())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whose orders these are, before anybody is asked whether a customer is new.
pub(super) async fn customers(
    connection: &mut PgConnection,
    of: &[(Uuid, TenantId, CustomerHash, DateTime<Utc>)],
) -> Result<(), sqlx::Error> {
    if of.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE conversions c SET customer_id = w.customer_id, converted_at = w.at
         FROM unnest($1::uuid[], $2::bytea[], $3::timestamptz[]) AS w (id, customer_id, at)
         WHERE c.id = w.id AND (c.customer_id, c.converted_at) IS DISTINCT FROM (w.customer_id, w.at)",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.3).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    // Who was new until now and is not any more: a late report of an earlier order came.
    sqlx::query(
        "UPDATE conversions c SET settle_at = now()
         FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[]) AS w (id, tenant_id, customer_id, at)
         WHERE c.tenant_id = w.tenant_id AND c.customer_id = w.customer_id AND c.new_customer
           AND (c.converted_at, c.id) > (w.at, w.id) AND c.version > 0 AND c.id <> ALL ($1::uuid[])",
    )
    .bind(of.iter().map(|o| o.0).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.1).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.2).collect::<Vec<_>>())
    .bind(of.iter().map(|o| o.3).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_conversions(
    connection: &mut PgConnection,
    conversions: &[Conversion<'_>],
) -> Result<(), sqlx::Error> {
    fn column<T>(of: &[Conversion<'_>], value: impl Fn(&Conversion<'_>) -> T) -> Vec<T> {
        of.iter().map(value).collect()
    }
    let of = conversions;
    sqlx::query(
        "UPDATE conversions c SET status = w.status, amount = w.amount, refunded = w.refunded, currency = w.currency,
             converted_at = w.converted_at, attribution = w.attribution, model = w.model, path = w.path, click_id = w.click_id,
             link_id = w.link_id, affiliate_id = w.affiliate_id, program_id = w.program_id, customer_id = w.customer_id,
             new_customer = w.new_customer, coupon = w.coupon, items = w.items, note = w.note, settle_at = w.settle_at,
             looks = w.looks, version = w.version, verdict = w.verdict, signals = w.signals
         FROM unnest($1::uuid[], $2::text[], $3::numeric[], $4::numeric[], $5::text[], $6::timestamptz[], $7::text[], $8::text[],
             $9::jsonb[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[], $15::boolean[], $16::text[],
             $17::jsonb[], $18::text[], $19::timestamptz[], $20::smallint[], $21::bigint[], $22::text[], $23::jsonb[])
             AS w (id, status, amount, refunded, currency, converted_at, attribution, model, path, click_id, link_id, affiliate_id,
                   program_id, customer_id, new_customer, coupon, items, note, settle_at, looks, version, verdict, signals)
         WHERE c.id = w.id",
    )
    .bind(column(of, |c| c.before.id))
    .bind(column(of, |c| c.status.as_str()))
    .bind(column(of, |c| c.amount))
    .bind(column(of, |c| c.refunded))
    .bind(column(of, |c| c.currency()))
    .bind(column(of, |c| c.converted_at))
    .bind(column(of, |c| c.attribution))
    .bind(column(of, |c| c.model.map(str::to_owned)))
    .bind(column(of, |c| Json(c.path.to_vec())))
    .bind(column(of, |c| c.click_id.map(str::to_owned)))
    .bind(column(of, |c| c.link_id))
    .bind(column(of, |c| c.affiliate_id))
    .bind(column(of, |c| c.program_id))
    .bind(column(of, |c| c.customer_id.map(Vec::from)))
    .bind(column(of, |c| c.new_customer))
    .bind(column(of, |c| c.coupon.map(str::to_owned)))
    .bind(column(of, |c| Json(c.items.to_vec())))
    .bind(column(of, |c| c.note.clone()))
    .bind(column(of, |c| c.settle_at))
    .bind(column(of, |c| c.looks))
    .bind(column(of, |c| c.version()))
    .bind(column(of, |c| c.verdict.as_str()))
    .bind(column(of, |c| Json(c.verdict.signals.clone())))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_commissions(
    connection: &mut PgConnection,
    commissions: &[(&Conversion<'_>, &Commission)],
) -> Result<(), sqlx::Error> {
    type Row<'r> = (&'r Conversion<'r>, &'r Commission);
    fn column<T>(of: &[Row<'_>], value: impl Fn(&Conversion<'_>, &Commission) -> T) -> Vec<T> {
        of.iter()
            .map(|(of, commission)| value(of, commission))
            .collect()
    }
    if commissions.is_empty() {
        return Ok(());
    }
    let of = commissions;
    sqlx::query(
        "INSERT INTO commissions (id, tenant_id, conversion_id, program_id, affiliate_id, link_id, part, rule_id, rule_version,
             basis, gross, amount, currency, state, hold_until, created_at, steps, pending, available, in_payout, paid, clawback,
             postings, version, parts, rate)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
             $8::bigint[], $9::integer[], $10::numeric[], $11::numeric[], $12::numeric[], $13::text[], $14::text[],
             $15::timestamptz[], $16::timestamptz[], $17::jsonb[], $18::numeric[], $19::numeric[], $20::numeric[],
             $21::numeric[], $22::numeric[], $23::integer[], $24::bigint[], $25::jsonb[], $26::jsonb[])
         ON CONFLICT (id) DO UPDATE SET rule_id = EXCLUDED.rule_id, rule_version = EXCLUDED.rule_version, basis = EXCLUDED.basis,
             program_id = EXCLUDED.program_id, link_id = EXCLUDED.link_id, gross = EXCLUDED.gross, amount = EXCLUDED.amount,
             state = EXCLUDED.state, hold_until = EXCLUDED.hold_until, steps = EXCLUDED.steps, pending = EXCLUDED.pending,
             available = EXCLUDED.available, in_payout = EXCLUDED.in_payout, paid = EXCLUDED.paid, clawback = EXCLUDED.clawback,
             postings = EXCLUDED.postings, version = EXCLUDED.version,
             parts = EXCLUDED.parts, rate = EXCLUDED.rate",
    )
    .bind(column(of, |of, c| c.id(of.before)))
    .bind(column(of, |of, _| of.before.tenant_id))
    .bind(column(of, |of, _| of.before.id))
    .bind(column(of, |_, c| c.priced.program_id))
    .bind(column(of, |_, c| c.priced.affiliate_id))
    .bind(column(of, |of, _| of.link_id))
    .bind(column(of, |_, c| c.priced.part.clone()))
    .bind(column(of, |_, c| c.priced.rule_id))
    .bind(column(of, |_, c| c.priced.rule_version))
    .bind(column(of, |_, c| c.priced.basis))
    .bind(column(of, |_, c| c.priced.gross))
    .bind(column(of, |_, c| c.target.total()))
    .bind(column(of, |_, c| c.priced.currency.code()))
    .bind(column(of, |_, c| c.state))
    .bind(column(of, |_, c| c.hold_until))
    .bind(column(of, |of, _| of.before.accepted_at))
    .bind(column(of, |_, c| Json(c.priced.steps.clone())))
    .bind(column(of, |_, c| c.target.pending))
    .bind(column(of, |_, c| c.target.available))
    .bind(column(of, |_, c| c.target.in_payout))
    .bind(column(of, |_, c| c.target.paid))
    .bind(column(of, |_, c| c.target.clawback))
    .bind(column(of, |_, c| c.postings()))
    .bind(column(of, |_, c| c.version()))
    .bind(column(of, |_, c| Json(c.priced.parts.clone())))
    .bind(column(of, |_, c| c.priced.rate.clone().map(Json)))
    .execute(connection)
    .await?;
    Ok(())
}
