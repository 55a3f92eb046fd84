//! What people do with payouts. The state changes here, in one transaction with the event that says who did it; the money
//! of one that is paid or cancelled follows a moment later, by the processor.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;
use tributary_shared::payouts::KEYS_LAST;
use utoipa::ToSchema;
use uuid::Uuid;

use super::TenantHeader;
use super::payouts::{Payout, Row, columns};
use crate::auth::{Actor, Scoped};
use crate::error::Problem;
use crate::extract::{Body, EventId, path_text};
use crate::state::App;
use crate::validate::{Checks, MAX_REASON_CHARS};

/// Most payouts that one request is about.
const MAX_PAYOUTS: usize = 500;
/// Longest name that a bank gives a payout, in characters.
const MAX_REFERENCE_CHARS: usize = 200;
/// How the names of API keys begin, where it is said who did something.
const API_KEY: &str = "API key ";

/// What is done with a payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// A draft may be sent, once as many people have approved it as the terms ask for.
    Approve,
    /// An approved one was given to a bank, by a file or by hand.
    Send,
    /// An approved or sent one has arrived.
    Pay,
    /// A sent one has not arrived, and won't.
    Fail,
    /// A failed one is approved again, and sent under a new key.
    Retry,
    /// It is not paid: its money is available again.
    Cancel,
}

impl<S: Send + Sync> FromRequestParts<S> for Action {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match path_text(parts, state, "action").await?.as_str() {
            "approve" => Ok(Self::Approve),
            "send" => Ok(Self::Send),
            "pay" => Ok(Self::Pay),
            "fail" => Ok(Self::Fail),
            "retry" => Ok(Self::Retry),
            "cancel" => Ok(Self::Cancel),
            _ => Err(Problem::not_found(
                "action: there are approve, send, pay, fail, retry and cancel",
            )),
        }
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAction {
    /// For those who ask later; must be given with fail and cancel.
    #[schema(examples("the bank sent it back"))]
    reason: Option<String>,
    /// The bank's name for it; with send and pay.
    reference: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewActions {
    /// 1 to 500 payouts.
    ids: Vec<Uuid>,
    action: Action,
    /// For those who ask later; must be given with fail and cancel.
    reason: Option<String>,
    /// The bank's name for all of them; with send and pay.
    reference: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// The payouts as they are now.
    items: Vec<Payout>,
}

/// What somebody does, checked.
struct Act {
    action: Action,
    reason: String,
    reference: Option<String>,
    by: String,
    at: DateTime<Utc>,
}

/// What becomes of a payout.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    state: &'static str,
    /// What the event says, where nobody said anything.
    text: String,
}

impl Act {
    fn new(
        action: Action,
        reason: Option<String>,
        reference: Option<String>,
        by: String,
        at: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let mut checks = Checks::default();
        let must_say_why = matches!(action, Action::Fail | Action::Cancel);
        let reason = match reason {
            Some(reason) => checks.text("reason", &reason, MAX_REASON_CHARS),
            None => {
                if must_say_why {
                    checks.wrong("reason", "must be given: somebody will ask later");
                }
                String::new()
            }
        };
        let reference = reference.map(|text| {
            if !matches!(action, Action::Send | Action::Pay) {
                checks.wrong("reference", "goes with send and pay only");
            }
            checks.text("reference", &text, MAX_REFERENCE_CHARS)
        });
        checks.finish()?;
        Ok(Self {
            action,
            reason,
            reference,
            by,
            at,
        })
    }

    /// Whether it can be done with this payout, and what becomes of it; else why not. `approvals`: what the terms ask for.
    fn next(&self, payout: &Row, approvals: usize) -> Result<Next, String> {
        let next = |state| {
            Ok(Next {
                state,
                text: self.reason.clone(),
            })
        };
        // What a provider has is its to tell, as long as it can be asked.
        let may_be_asked = payout
            .sent_at
            .is_some_and(|sent| self.at - sent < KEYS_LAST);
        let is_with_provider = payout.provider.is_some() && may_be_asked;
        match (self.action, payout.state.as_str()) {
            (Action::Approve, "draft") => self.approved(payout, approvals),
            (Action::Send, "approved") => next("sent"),
            (Action::Pay, "approved") => next("paid"),
            (Action::Pay | Action::Fail, "sent") if is_with_provider => Err(
                "it is with its provider, which says what becomes of it; nobody else can".to_owned(),
            ),
            (Action::Cancel, "sent") => Err(
                "it was sent and can't be called back; if it does not arrive it fails, and can be cancelled then".to_owned(),
            ),
            (Action::Pay, "sent") => next("paid"),
            (Action::Fail, "sent") => next("failed"),
            (Action::Retry, "failed") => next("approved"),
            (Action::Cancel, "draft" | "approved" | "failed") => next("cancelled"),
            (_, state) => Err(format!("it is {state}: that can't be done with it any more, or not yet")),
        }
    }

    fn approved(&self, payout: &Row, approvals: usize) -> Result<Next, String> {
        if payout.approved_by.contains(&self.by) {
            return Err("you have approved it already: another person must".to_owned());
        }
        if approvals > 1 && self.by.starts_with(API_KEY) {
            return Err(
                "two people must approve it, each signed in: a key is nobody's in particular"
                    .to_owned(),
            );
        }
        let count = payout.approved_by.len() + 1;
        if count >= approvals {
            return Ok(Next {
                state: "approved",
                text: self.reason.clone(),
            });
        }
        let text = format!("approved by {count} of {approvals}; {}", self.reason);
        Ok(Next {
            state: "draft",
            text: text
                .trim_end_matches("; ")
                .chars()
                .take(MAX_REASON_CHARS)
                .collect(),
        })
    }

    /// Does it with all of these payouts, or says for which it can't be done.
    async fn with(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        ids: &[Uuid],
    ) -> Result<Vec<Row>, Refused> {
        let rows: Vec<Row> = sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM payouts WHERE tenant_id = $1 AND id = ANY($2) ORDER BY id FOR UPDATE"
        ))
        .bind(tenant)
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
        let approvals: Option<i16> =
            sqlx::query_scalar("SELECT approvals FROM payout_terms WHERE tenant_id = $1")
                .bind(tenant)
                .fetch_optional(&mut *connection)
                .await?;
        let approvals = usize::try_from(approvals.unwrap_or(1)).unwrap_or(1).max(1);
        let mut nexts: BTreeMap<Uuid, Next> = BTreeMap::new();
        let mut refused: BTreeMap<Uuid, String> = BTreeMap::new();
        for row in &rows {
            match self.next(row, approvals) {
                Ok(next) => _ = nexts.insert(row.id, next),
                Err(why) => _ = refused.insert(row.id, why),
            }
        }
        for id in ids {
            if !nexts.contains_key(id) && !refused.contains_key(id) {
                return Err(Refused::Missing(*id));
            }
        }
        if !refused.is_empty() {
            return Err(Refused::State(refused));
        }
        self.write(connection, tenant, &nexts).await?;
        let rows = sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM payouts WHERE tenant_id = $1 AND id = ANY($2) ORDER BY id"
        ))
        .bind(tenant)
        .bind(ids)
        .fetch_all(connection)
        .await?;
        Ok(rows)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        nexts: &BTreeMap<Uuid, Next>,
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = nexts.keys().copied().collect();
        let states: Vec<&str> = nexts.values().map(|next| next.state).collect();
        let texts: Vec<&str> = nexts.values().map(|next| next.text.as_str()).collect();
        sqlx::query(
            "UPDATE payouts p SET state = w.state,
                 approved_by = CASE WHEN $4 = 'approve' THEN p.approved_by || $5::text ELSE p.approved_by END,
                 approved_at = CASE WHEN w.state = 'approved' THEN $6::timestamptz ELSE p.approved_at END,
                 sent_at = CASE WHEN $4 = 'retry' THEN NULL WHEN $4 IN ('send', 'pay') THEN coalesce(p.sent_at, $6) ELSE p.sent_at END,
                 closed_at = CASE WHEN w.state IN ('paid', 'cancelled') THEN $6 END,
                 attempt = p.attempt + CASE WHEN $4 = 'retry' THEN 1 ELSE 0 END,
                 provider = CASE WHEN $4 IN ('retry', 'send') THEN NULL ELSE p.provider END,
                 provider_reference = CASE WHEN $4 = 'retry' THEN NULL ELSE coalesce($7, p.provider_reference) END,
                 failure = CASE WHEN $4 = 'fail' THEN $8 WHEN $4 IN ('retry', 'send', 'pay') THEN NULL ELSE p.failure END,
                 send_at = NULL
             FROM unnest($2::uuid[], $3::text[]) AS w (id, state)
             WHERE p.tenant_id = $1 AND p.id = w.id",
        )
        .bind(tenant)
        .bind(&ids)
        .bind(&states)
        .bind(self.name())
        .bind(&self.by)
        .bind(self.at)
        .bind(&self.reference)
        .bind(&self.reason)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "INSERT INTO payout_events (tenant_id, payout_id, at, actor, state, text)
             SELECT $1, w.id, $5, left($6, 254), w.state, w.text FROM unnest($2::uuid[], $3::text[], $4::text[]) AS w (id, state, text)",
        )
        .bind(tenant)
        .bind(&ids)
        .bind(&states)
        .bind(&texts)
        .bind(self.at)
        .bind(&self.by)
        .execute(connection)
        .await?;
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self.action {
            Action::Approve => "approve",
            Action::Send => "send",
            Action::Pay => "pay",
            Action::Fail => "fail",
            Action::Retry => "retry",
            Action::Cancel => "cancel",
        }
    }
}

/// Why nothing was done.
enum Refused {
    Missing(Uuid),
    State(BTreeMap<Uuid, String>),
    Postgres(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error)
    }
}

/// Do something with a payout
///
/// approve: as many people as the terms ask for; send, pay, fail: what was given to a bank by a file or by hand, and what became
/// of it; retry: what failed, once more; cancel: what was not sent, its money is available again. One that its provider has
/// can't be changed by hand.
#[utoipa::path(post, path = "/v1/payouts/{id}/{action}", tag = "Payouts", request_body = NewAction,
    params(TenantHeader, ("id" = Uuid, Path), ("action" = String, Path, description = "approve, send, pay, fail, retry or cancel")),
    responses((status = 200, body = Payout), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn act(
    State(app): State<App>,
    at: Scoped,
    id: EventId,
    action: Action,
    actor: Actor,
    body: Body<NewAction>,
) -> Result<Json<Payout>, Problem> {
    let new = body.value;
    let act = Act::new(action, new.reason, new.reference, actor.0, app.clock.now())?;
    let mut transaction = app.postgres.begin().await?;
    let done = act.with(&mut transaction, at.tenant, &[id.0]).await;
    let rows = done.map_err(|refused| match refused {
        Refused::Missing(_) => Problem::not_found("payout"),
        Refused::State(why) => Problem::new(
            StatusCode::CONFLICT,
            why.into_values().next().unwrap_or_default(),
        ),
        Refused::Postgres(error) => error.into(),
    })?;
    transaction.commit().await?;
    let row = rows.into_iter().next();
    row.map(|row| Json(row.into()))
        .ok_or_else(|| Problem::not_found("payout"))
}

/// Do something with many payouts
///
/// With all of them or, when it can't be done with one, with none.
#[utoipa::path(post, path = "/v1/payouts/actions", tag = "Payouts", request_body = NewActions, params(TenantHeader),
    responses((status = 200, body = Done), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn act_many(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    body: Body<NewActions>,
) -> Result<Json<Done>, Problem> {
    let new = body.value;
    if !(1..=MAX_PAYOUTS).contains(&new.ids.len()) {
        let mut checks = Checks::default();
        checks.wrong("ids", format!("must be 1 to {MAX_PAYOUTS} payouts"));
        checks.finish()?;
    }
    let now = app.clock.now();
    let act = Act::new(new.action, new.reason, new.reference, actor.0, now)?;
    let mut transaction = app.postgres.begin().await?;
    let done = act.with(&mut transaction, at.tenant, &new.ids).await;
    let place = |id: &Uuid| new.ids.iter().position(|of| of == id).unwrap_or_default();
    let rows = done.map_err(|refused| {
        let mut checks = Checks::default();
        match refused {
            Refused::Missing(id) => {
                checks.wrong(&format!("ids[{}]", place(&id)), "there is no such payout");
            }
            Refused::State(why) => {
                for (id, why) in why {
                    checks.wrong(&format!("ids[{}]", place(&id)), why);
                }
            }
            Refused::Postgres(error) => return error.into(),
        }
        checks.finish().err().unwrap_or_else(Problem::internal)
    })?;
    transaction.commit().await?;
    Ok(Json(Done {
        items: rows.into_iter().map(Payout::from).collect(),
    }))
}
