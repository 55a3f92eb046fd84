//! Programs of every kind that the auditor can add up, each with affiliates and links of its own; made straight in
//! PostgreSQL, as the admin API would.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::Error;
use crate::reckon::{Coin, EUR, JPY, USD};

/// What a program pays, and how orders are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 10 %, of orders of 500.00 and more 12 %, and uplines of 10, 3 and 1 %; a hold of a minute.
    Plain,
    /// In EUR: 5 % and 0.50 EUR, at most 20 EUR, paid in the order's currency.
    Euro,
    /// 7.5 %, paid in USD whatever the order is in.
    InDollars,
    /// 10 %, held for 30 days unless the shop approves.
    Held,
    /// 10 %, shared out over both affiliates who led to the order.
    Shared,
    /// 5 %, from the affiliate's eleventh order on 8, from the 26th on 10 %.
    Tiers,
    /// 5 %, after 2,000.00 of an affiliate's revenue 9 %.
    Volume,
    /// 10 %, at most 100.00 for each affiliate.
    Capped,
}

/// Each kind, how many programs of it there are, and how many of a hundred orders are its programs'. What looks back on an
/// affiliate's earlier orders is settled again for each late one, so those are few.
pub(super) const KINDS: [(Kind, usize, u64); 8] = [
    (Kind::Plain, 3, 40),
    (Kind::Euro, 2, 20),
    (Kind::InDollars, 1, 15),
    (Kind::Held, 1, 11),
    (Kind::Shared, 1, 8),
    (Kind::Tiers, 1, 2),
    (Kind::Volume, 1, 2),
    (Kind::Capped, 1, 2),
];

/// Affiliates of a program whose orders don't look back; the n-th one's parent is the one of half its number.
const PARTNERS: usize = 30;
/// The orders of each that are aimed at where they do.
const ORDERS_LOOKED_BACK_ON: usize = 40;

impl Kind {
    /// What its orders are in.
    pub(super) fn coins(self) -> &'static [Coin] {
        match self {
            Self::Euro | Self::InDollars => &[EUR, USD, JPY],
            _ => &[USD],
        }
    }

    /// Whether an order's commission depends on the affiliate's earlier ones.
    pub(super) fn looks_back(self) -> bool {
        matches!(self, Self::Tiers | Self::Volume | Self::Capped)
    }

    fn currency(self) -> &'static str {
        match self {
            Self::Euro => "EUR",
            _ => "USD",
        }
    }

    pub(super) fn hold_seconds(self) -> i64 {
        match self {
            Self::Plain => 60,
            Self::Held => 30 * 86_400,
            _ => 0,
        }
    }

    /// Rules by their names.
    fn rules(self) -> Vec<(&'static str, Value)> {
        let percent = |percent: &str| json!({"kind": "percent", "percent": percent});
        match self {
            Self::Plain => vec![
                ("base", json!({"reward": percent("10")})),
                (
                    "large",
                    json!({"reward": percent("12"), "priority": 1, "when": "order.amount >= 500.0"}),
                ),
            ],
            Self::Euro => vec![(
                "base",
                json!({"reward": {"kind": "hybrid", "percent": "5", "flat": "0.50"}, "maximum": "20"}),
            )],
            Self::InDollars => vec![("base", json!({"reward": percent("7.5")}))],
            Self::Held | Self::Shared => vec![("base", json!({"reward": percent("10")}))],
            Self::Tiers => vec![(
                "base",
                json!({"reward": percent("5"), "tiers": {"by": "orders", "period": "lifetime", "steps": [
                    {"from": "10", "percent": "8"}, {"from": "25", "percent": "10"}]}}),
            )],
            Self::Volume => vec![(
                "base",
                json!({"reward": percent("5"), "tiers": {"by": "revenue", "period": "lifetime", "steps": [
                    {"from": "2000", "percent": "9"}]}}),
            )],
            Self::Capped => vec![(
                "base",
                json!({"reward": percent("10"), "cap": {"amount": "100", "period": "lifetime"}}),
            )],
        }
    }
}

/// What one unit of the first costs in the second. The auditor has them once more, in units of its own.
const RATES: [(&str, &str, &str); 3] = [
    ("EUR", "USD", "1.1"),
    ("EUR", "JPY", "160.55"),
    ("JPY", "USD", "0.0067"),
];

/// A program with who sells for it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) kind: Kind,
    pub(super) id: i64,
    /// In the order of their numbers.
    pub(super) partners: Vec<Partner>,
}

/// An affiliate with its link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partner {
    pub(super) affiliate: i64,
    pub(super) link: i64,
    /// Which of the program's partners stands above it.
    pub(super) parent: Option<usize>,
}

/// Everything of one tenant.
#[derive(Debug)]
pub(super) struct Market {
    pub(super) tenant: i64,
    pub(super) programs: Vec<Program>,
}

impl Market {
    /// Makes it for `orders` orders. `name` tells its links from others of the same tenant.
    pub(super) async fn make(
        pool: &PgPool,
        tenant: i64,
        name: &str,
        orders: usize,
    ) -> Result<Self, Error> {
        let failed = || Error::postgres("making programs, affiliates and links");
        for (base, quote, rate) in RATES {
            sqlx::query(
                "INSERT INTO exchange_rates (tenant_id, base, quote, rate, valid_from)
                 VALUES ($1, $2, $3, $4::numeric, now() - interval '10 years') ON CONFLICT DO NOTHING",
            )
            .bind(tenant)
            .bind(base)
            .bind(quote)
            .bind(rate)
            .execute(pool)
            .await
            .map_err(failed())?;
        }
        let mut programs = Vec::new();
        for (kind, count, of_hundred) in KINDS {
            for nth in 0..count {
                let label = format!("{name}-{kind:?}-{nth}");
                let id = program(pool, tenant, kind, &label)
                    .await
                    .map_err(failed())?;
                let aimed_at = usize::try_from(of_hundred).unwrap_or(0) * orders / 100;
                let partners = if kind.looks_back() {
                    aimed_at.div_ceil(ORDERS_LOOKED_BACK_ON).max(2)
                } else {
                    PARTNERS
                };
                let partners = make_partners(pool, tenant, id, &label, partners)
                    .await
                    .map_err(failed())?;
                programs.push(Program { kind, id, partners });
            }
        }
        Ok(Self { tenant, programs })
    }
}

async fn program(pool: &PgPool, tenant: i64, kind: Kind, label: &str) -> Result<i64, sqlx::Error> {
    let uplines: &[&str] = if kind == Kind::Plain {
        &["10", "3", "1"]
    } else {
        &[]
    };
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO programs (tenant_id, name, currency, window_seconds, hold_seconds, model, pay_in, upline_percents)
         VALUES ($1, $2, $3, 2592000, $4, $5, $6, $7::text[]::numeric[]) RETURNING id",
    )
    .bind(tenant)
    .bind(label)
    .bind(kind.currency())
    .bind(kind.hold_seconds())
    .bind(if kind == Kind::Shared { "linear" } else { "last_click" })
    .bind(if kind == Kind::InDollars { "program" } else { "order" })
    .bind(uplines)
    .fetch_one(pool)
    .await?;
    for (name, rule) in kind.rules() {
        sqlx::query(
            "INSERT INTO commission_rules (tenant_id, program_id, name, version, document) VALUES ($1, $2, $3, 1, $4)",
        )
        .bind(tenant)
        .bind(id)
        .bind(name)
        .bind(sqlx::types::Json(rule))
        .execute(pool)
        .await?;
    }
    Ok(id)
}

async fn make_partners(
    pool: &PgPool,
    tenant: i64,
    program: i64,
    label: &str,
    count: usize,
) -> Result<Vec<Partner>, sqlx::Error> {
    let mut partners: Vec<Partner> = Vec::with_capacity(count);
    for nth in 0..count {
        let parent = (nth > 0).then_some(nth / 2);
        let above = parent.and_then(|parent| partners.get(parent));
        let (affiliate, link): (i64, i64) = sqlx::query_as(
            "WITH a AS (INSERT INTO affiliates (tenant_id, name, parent_id) VALUES ($1, $3, $4) RETURNING id)
             INSERT INTO links (tenant_id, program_id, affiliate_id, code, destination)
             SELECT $1, $2, id, $3, 'https://shop.example/' FROM a RETURNING affiliate_id, id",
        )
        .bind(tenant)
        .bind(program)
        .bind(format!("{label}-{nth}"))
        .bind(above.map(|above| above.affiliate))
        .fetch_one(pool)
        .await?;
        partners.push(Partner {
            affiliate,
            link,
            parent,
        });
    }
    Ok(partners)
}
