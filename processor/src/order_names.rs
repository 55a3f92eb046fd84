//! By which names an order is known beside the merchant's own: a payment system tells of a refund by the payment, a
//! subscription's next invoice names the subscription (`names` and `renews` of shared/proto/conversions.proto).
//!
//! - Of one tenant a name is one order's, the first one's that had it, and stays so.
//! - A report without an order id is of the order that has one of its names. Until there is one it waits, in
//!   PostgreSQL; whoever brings the name later finds it. So it does not matter which comes first.
//! - A report whose name is another order's already is of that order, whatever id it gives: two of a merchant's systems may
//!   call one order differently, and it counts once.
//!
//! Whoever works on names of a tenant waits for the one before him, so that none misses what another is just writing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;
use uuid::Uuid;

use crate::reports::{self, Report};

/// How long a report waits for its order. One that is older is of an order that was never reported.
const MAX_WAIT: TimeDelta = TimeDelta::days(90);

/// Whose each name is.
type Names = BTreeMap<(TenantId, String), Uuid>;

/// Keeps reports, each with the conversion that it is of, and those that were waiting for them. Returns the conversions of
/// which something new is known.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    reports: &[Report],
) -> Result<Vec<Uuid>, sqlx::Error> {
    if reports.iter().all(|report| report.names.is_empty()) {
        return reports::insert(connection, reports).await;
    }
    take_turns(connection, reports).await?;
    let mut changed = Vec::new();
    let mut new = reports.to_vec();
    while !new.is_empty() {
        let known = names(connection, &new).await?;
        let sorted = sort(new, known);
        changed.extend(reports::insert(connection, &sorted.told).await?);
        learn(connection, &sorted.learned).await?;
        wait(connection, &sorted.waiting).await?;
        new = woken(connection, &sorted.learned).await?;
    }
    Ok(changed)
}

/// Reports, by what is to be done with them.
#[derive(Debug, Default)]
struct Sorted {
    /// Each of a conversion.
    told: Vec<Report>,
    waiting: Vec<Report>,
    learned: Names,
}

fn sort(reports: Vec<Report>, mut known: Names) -> Sorted {
    let mut sorted = Sorted {
        waiting: reports,
        ..Sorted::default()
    };
    // A report may bring the name that one before it waits for.
    loop {
        let left = std::mem::take(&mut sorted.waiting);
        let before = left.len();
        for mut report in left {
            let key = |name: &String| (report.tenant_id, name.clone());
            let named = report.names.iter().find_map(|name| known.get(&key(name)));
            let conversion = match named.copied() {
                Some(conversion) => conversion,
                None if report.names_its_order() => report.conversion_id,
                None => {
                    sorted.waiting.push(report);
                    continue;
                }
            };
            for name in report.names.iter().map(key) {
                if !known.contains_key(&name) {
                    known.insert(name.clone(), conversion);
                    sorted.learned.insert(name, conversion);
                }
            }
            if conversion != report.conversion_id {
                report.is_of(conversion);
            }
            if !report.says_names_only() {
                sorted.told.push(report);
            }
        }
        if sorted.waiting.len() == before || sorted.waiting.is_empty() {
            return sorted;
        }
    }
}

async fn take_turns(connection: &mut PgConnection, reports: &[Report]) -> Result<(), sqlx::Error> {
    let named = reports.iter().filter(|report| !report.names.is_empty());
    let tenants: BTreeSet<TenantId> = named.map(|report| report.tenant_id).collect();
    for tenant in tenants {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("order names {tenant}"))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What is known of the names of these.
async fn names(connection: &mut PgConnection, reports: &[Report]) -> Result<Names, sqlx::Error> {
    let named = |report: &Report| {
        let tenant = report.tenant_id;
        let names = report.names.clone().into_iter();
        names.map(move |name| (tenant, name))
    };
    let (tenants, names): (Vec<TenantId>, Vec<String>) = reports.iter().flat_map(named).unzip();
    let rows: Vec<(TenantId, String, Uuid)> = sqlx::query_as(
        "SELECT tenant_id, name, conversion_id FROM order_names
         WHERE (tenant_id, name) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))",
    )
    .bind(tenants)
    .bind(names)
    .fetch_all(connection)
    .await?;
    let entry = |(tenant, name, conversion)| ((tenant, name), conversion);
    Ok(rows.into_iter().map(entry).collect())
}

async fn learn(connection: &mut PgConnection, learned: &Names) -> Result<(), sqlx::Error> {
    if learned.is_empty() {
        return Ok(());
    }
    let (tenants, names) = columns(learned);
    sqlx::query(
        "INSERT INTO order_names (tenant_id, name, conversion_id)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::uuid[]) ON CONFLICT DO NOTHING",
    )
    .bind(tenants)
    .bind(names)
    .bind(learned.values().copied().collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn wait(connection: &mut PgConnection, waiting: &[Report]) -> Result<(), sqlx::Error> {
    for report in waiting {
        sqlx::query(
            "INSERT INTO waiting_reports (id, tenant_id, names, message, reported_at)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(report.id)
        .bind(report.tenant_id)
        .bind(&report.names)
        .bind(&report.message)
        .bind(report.reported_at)
        .execute(&mut *connection)
        .await?;
    }
    if let Some(latest) = waiting.iter().map(|report| report.reported_at).max() {
        sqlx::query("DELETE FROM waiting_reports WHERE reported_at < $1")
            .bind(latest - MAX_WAIT)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Takes what waited for one of these names.
async fn woken(connection: &mut PgConnection, learned: &Names) -> Result<Vec<Report>, sqlx::Error> {
    if learned.is_empty() {
        return Ok(Vec::new());
    }
    let (tenants, names) = columns(learned);
    let messages: Vec<Vec<u8>> = sqlx::query_scalar(
        "DELETE FROM waiting_reports w WHERE w.id IN (
             SELECT r.id FROM unnest($1::bigint[], $2::text[]) AS l (tenant_id, name)
             JOIN waiting_reports r ON r.tenant_id = l.tenant_id AND r.names @> ARRAY[l.name])
         RETURNING w.message",
    )
    .bind(tenants)
    .bind(names)
    .fetch_all(connection)
    .await?;
    // Each was read before it was kept.
    let read = messages.iter().map(|message| Report::decode(message));
    Ok(read.filter_map(Result::ok).collect())
}

fn columns(names: &Names) -> (Vec<TenantId>, Vec<String>) {
    names.keys().cloned().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use tributary_shared::events::{Conversion, OrderStatus};

    fn report(order_id: &str, names: &[&str], status: OrderStatus) -> Report {
        let event = Conversion {
            accepted_at_us: 1_763_000_000_000_000,
            tenant_id: 1,
            order_id: order_id.into(),
            event: if order_id.is_empty() { "" } else { "sale" }.into(),
            amount: if status == OrderStatus::Unsaid {
                ""
            } else {
                "1"
            }
            .into(),
            currency: if status == OrderStatus::Unsaid {
                ""
            } else {
                "USD"
            }
            .into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            status: status.into(),
            ..Conversion::default()
        };
        Report::decode(&event.encode_to_vec()).unwrap()
    }

    /// What was told of which conversion, how many wait, and which names were learned.
    fn sorted(reports: &[Report], known: Names) -> (Vec<Uuid>, usize, Vec<String>) {
        let sorted = sort(reports.to_vec(), known);
        let told = sorted.told.iter().map(|report| report.conversion_id);
        let learned = sorted.learned.into_keys().map(|(_, name)| name);
        (told.collect(), sorted.waiting.len(), learned.collect())
    }

    #[test]
    fn in_whatever_order_they_come_reports_find_their_order() {
        let sale = report("A", &["in_1"], OrderStatus::Pending);
        let paid = report("", &["in_1", "pi_1"], OrderStatus::Unsaid);
        let refund = report("", &["pi_1"], OrderStatus::Refunded);
        let other = report("", &["pi_2"], OrderStatus::Refunded);
        let order = sale.conversion_id;
        let all = [&sale, &paid, &refund];
        for turn in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut reports: Vec<Report> = turn.iter().map(|at| all[*at].clone()).collect();
            reports.push(other.clone());
            let names = vec!["in_1".to_owned(), "pi_1".to_owned()];
            assert_eq!(
                sorted(&reports, Names::new()),
                (vec![order; 2], 1, names),
                "{turn:?}"
            );
        }
        let alone = sorted(&[paid, refund], Names::new());
        assert_eq!(alone, (vec![], 2, vec![]));
    }

    #[test]
    fn one_order_with_two_ids_is_one_order() {
        let invoice = report("in_1", &["in_1", "sub_1"], OrderStatus::Pending);
        let checkout = report("A", &["in_1", "sub_1"], OrderStatus::Pending);
        let (told, ..) = sorted(&[invoice.clone(), checkout.clone()], Names::new());
        assert_eq!(told, [invoice.conversion_id; 2]);
        let first = Uuid::from_u128(7);
        let known = Names::from([((TenantId(1), "sub_1".to_owned()), first)]);
        let (told, _, learned) = sorted(&[checkout], known.clone());
        assert_eq!((told, learned), (vec![first], vec!["in_1".to_owned()]));
        let another = Names::from([((TenantId(2), "sub_1".to_owned()), first)]);
        let (told, ..) = sorted(std::slice::from_ref(&invoice), another);
        assert_eq!(
            told,
            [invoice.conversion_id],
            "another tenant's name is none"
        );
    }
}
