//! Approved payouts → their provider, once.
//!
//! - That a payout is in the provider's hands (state `sent`, its attempt and so its key) is committed *before* the request
//!   leaves. So whoever finds it later, after a crash or a lost answer, asks; it is sent again, under the same key, only
//!   when the provider says that it knows nothing of it, and while providers surely remember keys.
//! - One that the provider has acknowledged is never sent again, whatever it says later.
//! - A claim (`send_at`) keeps others away while one is spoken about; what is learned counts only while the claim is one's own.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use rust_decimal::Decimal;
use sqlx::{PgConnection, PgPool};
use tributary_shared::clock::Clock;
use tributary_shared::ids::TenantId;
use tributary_shared::money::Money;
use tributary_shared::payouts::{KEYS_LAST, Method, Payment};
use tributary_shared::sealing::SealingKeys;
use uuid::Uuid;

use super::providers::{AnyProvider, Outcome, Provider, ProviderError, Providers};

/// Payouts that are spoken about with their providers at once.
const AT_ONCE: usize = 8;
/// How long a provider may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long nobody else touches a payout that is spoken about; more than a question and a request may take.
const CLAIM: TimeDelta = TimeDelta::seconds(120);
/// Pauses between questions, and between attempts at a provider that is away: half of the time that it takes already, within
/// these bounds.
const SHORTEST_PAUSE: TimeDelta = TimeDelta::seconds(5);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// Longest text of a provider that is kept, in characters.
const MAX_TEXT_CHARS: usize = 1000;

/// Tenants' accounts at providers.
pub(super) trait Accounts {
    type Provider: Provider;

    /// `kind`: as of the payout's method; `credentials`: the JSON that the tenant entered.
    fn of(&self, kind: &str, credentials: &[u8]) -> Result<Self::Provider, String>;
}

impl Accounts for Providers {
    type Provider = AnyProvider;

    fn of(&self, kind: &str, credentials: &[u8]) -> Result<AnyProvider, String> {
        self.of(kind, credentials)
            .map_err(|error| error.to_string())
    }
}

/// Gives payouts to their providers, and asks what became of them.
#[derive(Debug)]
pub(super) struct Sender<A> {
    pub(super) pool: PgPool,
    pub(super) clock: Clock,
    pub(super) keys: SealingKeys,
    pub(super) accounts: A,
}

#[derive(Debug, sqlx::FromRow)]
struct Job {
    id: Uuid,
    tenant_id: TenantId,
    affiliate_name: String,
    currency: String,
    net: Decimal,
    method: Vec<u8>,
    method_kind: String,
    reference: String,
    /// Whether it is in the provider's hands already, as far as is known.
    was_sent: bool,
    attempt: i32,
    provider_reference: Option<String>,
    sent_at: Option<DateTime<Utc>>,
    approved_at: Option<DateTime<Utc>>,
    credentials: Vec<u8>,
}

impl Job {
    /// The provider's idempotency key: another for each attempt after a failure.
    fn key(&self) -> String {
        format!("{}-{}", self.id.simple(), self.attempt)
    }
}

/// What is noted of a payout.
#[derive(Debug, PartialEq, Eq)]
enum Noted {
    /// In the provider's hands, or perhaps; the reference, where it is known.
    Waits(Option<String>),
    /// Surely not in its hands: it is approved as before.
    NotTaken(String),
    Paid(String),
    Failed(Option<String>, String),
}

impl<A: Accounts> Sender<A> {
    /// Speaks about as many as there are, some at once; whether there may be more.
    pub(super) async fn turn(&self) -> Result<bool, sqlx::Error> {
        let done = join_all((0..AT_ONCE).map(|_| self.one())).await;
        done.into_iter().try_fold(false, |any, one| Ok(any | one?))
    }

    /// Claims one and speaks about it; whether there was one.
    async fn one(&self) -> Result<bool, sqlx::Error> {
        let now = self.clock.now();
        let mut transaction = self.pool.begin().await?;
        let Some(job) = due(&mut transaction, now).await? else {
            return Ok(false);
        };
        let prepared = self.prepare(&job);
        let (payment, provider) = match prepared {
            Ok(prepared) => prepared,
            Err(text) => {
                tracing::error!(payout = %job.id, %text, "a payout can't be given to its provider; it is tried again later");
                postpone(&mut transaction, &job, now + LONGEST_PAUSE, &text).await?;
                transaction.commit().await?;
                return Ok(true);
            }
        };
        let claim = claim(&mut transaction, &job, now).await?;
        transaction.commit().await?;

        let noted = speak(&provider, &job, &payment, now).await;
        let mut transaction = self.pool.begin().await?;
        note(&mut transaction, &job, claim, noted, self.clock.now()).await?;
        transaction.commit().await?;
        Ok(true)
    }

    fn prepare(&self, job: &Job) -> Result<(Payment, A::Provider), String> {
        let purpose = format!("payout:{}:method", job.id);
        let method = self.keys.open(&purpose, &job.method);
        let method = method.map_err(|error| format!("its method can't be read: {error}"))?;
        let method: Method = serde_json::from_slice(&method)
            .map_err(|error| format!("its method can't be read: {error}"))?;
        let purpose = format!("payout_provider:{}:{}", job.tenant_id, job.method_kind);
        let credentials = (self.keys.open(&purpose, &job.credentials))
            .map_err(|error| format!("the provider's credentials can't be read: {error}"))?;
        let currency = job.currency.parse();
        let net = currency.and_then(|currency| Money::new(job.net, currency));
        let payment = Payment {
            payout_id: job.id,
            affiliate_name: job.affiliate_name.clone(),
            method,
            net: net.map_err(|error| error.to_string())?,
            reference: job.reference.clone(),
        };
        let provider = self.accounts.of(&job.method_kind, &credentials)?;
        Ok((payment, provider))
    }
}

/// Asks about one that may be in the provider's hands, sends one that surely is not.
async fn speak(
    provider: &impl Provider,
    job: &Job,
    payment: &Payment,
    now: DateTime<Utc>,
) -> Noted {
    let key = job.key();
    if !job.was_sent {
        return match within(provider.send(payment, &key)).await {
            Ok(outcome) => outcome.into(),
            Err(ProviderError::Refused(reason)) => Noted::Failed(None, reason),
            Err(error @ ProviderError::Unavailable(_)) => Noted::NotTaken(error.to_string()),
            Err(ProviderError::Unknown(text)) => uncertain(job, &text),
        };
    }
    let reference = job.provider_reference.as_deref();
    match within(provider.outcome(&key, reference)).await {
        Ok(Some(outcome)) => outcome.into(),
        Ok(None) if reference.is_some() => uncertain(
            job,
            "the provider knows nothing of what it has acknowledged",
        ),
        Ok(None) if job.sent_at.is_none_or(|sent| now - sent > KEYS_LAST) => {
            tracing::error!(payout = %job.id, "a provider knows nothing of a payout that it was given long ago: look there, then say what became of it");
            uncertain(
                job,
                "it was given to the provider too long ago to give it again",
            )
        }
        Ok(None) => match within(provider.send(payment, &key)).await {
            Ok(outcome) => outcome.into(),
            Err(ProviderError::Refused(reason)) => Noted::Failed(None, reason),
            // The earlier request may still be on its way: it stays in the provider's hands.
            Err(error) => uncertain(job, &error.to_string()),
        },
        Err(error) => uncertain(job, &error.to_string()),
    }
}

impl From<Outcome> for Noted {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pending { reference } => Self::Waits(Some(reference)),
            Outcome::Paid { reference } => Self::Paid(reference),
            Outcome::Failed { reference, reason } => Self::Failed(reference, reason),
        }
    }
}

fn uncertain(job: &Job, text: &str) -> Noted {
    tracing::warn!(payout = %job.id, text, "it is not known how a payout stands; its provider is asked again");
    Noted::Waits(job.provider_reference.clone())
}

async fn within<T>(
    answer: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ProviderError::Unknown(format!(
            "no answer within {} s",
            ANSWER_WITHIN.as_secs()
        ))),
    }
}

/// Half of what it took until now, within the bounds.
fn pause(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> TimeDelta {
    let waited = since.map_or(TimeDelta::zero(), |since| now - since) / 2;
    waited.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// The next one that something is to be done about, locked.
async fn due(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Option<Job>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.id, p.tenant_id, a.name AS affiliate_name, p.currency, p.net, p.method, p.method_kind, p.reference,
                p.state = 'sent' AS was_sent, p.attempt, p.provider_reference, p.sent_at, p.approved_at, v.credentials
         FROM payouts p JOIN affiliates a ON a.tenant_id = p.tenant_id AND a.id = p.affiliate_id
         JOIN payout_providers v ON v.tenant_id = p.tenant_id AND v.kind = p.method_kind
         WHERE p.state IN ('approved', 'sent') AND p.method_kind IN ('paypal', 'stripe_connect')
           AND (p.state = 'approved' OR p.provider = v.kind) AND (p.send_at IS NULL OR p.send_at <= $1)
         ORDER BY p.id LIMIT 1 FOR UPDATE OF p SKIP LOCKED FOR SHARE OF v SKIP LOCKED",
    )
    .bind(now)
    .fetch_optional(connection)
    .await
}

async fn postpone(
    connection: &mut PgConnection,
    job: &Job,
    until: DateTime<Utc>,
    text: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE payouts SET send_at = $2, failure = $3 WHERE id = $1")
        .bind(job.id)
        .bind(until)
        .bind(cut(text))
        .execute(connection)
        .await?;
    Ok(())
}

/// Says, before anything leaves, that it is in the provider's hands; until when it is one's own.
async fn claim(
    connection: &mut PgConnection,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let until = now + CLAIM;
    sqlx::query(
        "UPDATE payouts SET state = 'sent', provider = method_kind, send_at = $2, sent_at = CASE WHEN state = 'sent' THEN sent_at ELSE $3 END
         WHERE id = $1",
    )
    .bind(job.id)
    .bind(until)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if !job.was_sent {
        event(connection, job, "sent", "", now).await?;
    }
    Ok(until)
}

/// Notes what was learned, if nobody else has claimed it since.
async fn note(
    connection: &mut PgConnection,
    job: &Job,
    claim: DateTime<Utc>,
    noted: Noted,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let sent_at = if job.was_sent { job.sent_at } else { Some(now) };
    let (state, reference, failure, send_at) = match noted {
        Noted::Waits(reference) => ("sent", reference, None, Some(now + pause(sent_at, now))),
        Noted::NotTaken(text) => {
            let again = now + pause(job.approved_at, now);
            ("approved", None, Some(text), Some(again))
        }
        Noted::Paid(reference) => ("paid", Some(reference), None, None),
        Noted::Failed(reference, reason) => ("failed", reference, Some(reason), None),
    };
    let failure = failure.as_deref().map(cut);
    let noted = sqlx::query(
        "UPDATE payouts SET state = $4, provider_reference = coalesce($5, provider_reference), failure = $6, send_at = $7,
             provider = CASE WHEN $4 = 'approved' THEN NULL ELSE provider END,
             sent_at = CASE WHEN $4 = 'approved' THEN NULL ELSE sent_at END,
             closed_at = CASE WHEN $4 = 'paid' THEN $8::timestamptz END
         WHERE id = $1 AND state = 'sent' AND attempt = $2 AND send_at = $3",
    )
    .bind(job.id)
    .bind(job.attempt)
    .bind(claim)
    .bind(state)
    .bind(&reference)
    .bind(&failure)
    .bind(send_at)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if noted.rows_affected() == 1 && state != "sent" {
        event(
            connection,
            job,
            state,
            failure.as_deref().unwrap_or_default(),
            now,
        )
        .await?;
    }
    Ok(())
}

async fn event(
    connection: &mut PgConnection,
    job: &Job,
    state: &str,
    text: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO payout_events (tenant_id, payout_id, at, actor, state, text) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(job.tenant_id)
    .bind(job.id)
    .bind(now)
    .bind(&job.method_kind)
    .bind(state)
    .bind(text)
    .execute(connection)
    .await?;
    Ok(())
}

/// As much of a provider's text as is kept; PostgreSQL takes no NUL.
fn cut(text: &str) -> String {
    let text = text.chars().filter(|c| *c != '\0');
    text.take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests;
