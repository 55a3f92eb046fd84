//! PayPal Payouts: a batch of one payment from the tenant's PayPal account to an e-mail address.
//!
//! The key is the batch's `sender_batch_id`. PayPal refuses one that it had in the last 30 days and names the batch that
//! was made then: that is an answer, not a failure. It can't be asked by that id, so the reference is its own name of the
//! batch. (Its header `PayPal-Request-Id` does not keep payouts from being made twice.)

use std::fmt::Write as _;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};
use tributary_shared::config::Secret;
use tributary_shared::payouts::{self, Payment};

use super::http::{Answer, Call, Http, bounded};
use super::{AccountError, Outcome, Provider, ProviderError, must_be_visible};

/// How long before it expires an access token is no longer used.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// Longest time that an access token is used; PayPal's live for nine hours.
const MAX_TOKEN_AGE: Duration = Duration::from_secs(12 * 3600);
/// Longest name of a batch that is believed to be one.
const MAX_BATCH_ID_CHARS: usize = 64;

/// A tenant's REST application at PayPal.
#[derive(Debug, Deserialize)]
#[serde(from = "Form")]
pub(super) struct Credentials {
    client_id: String,
    client_secret: Secret,
    /// For trying things out: no money moves.
    pub sandbox: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    client_id: String,
    client_secret: String,
    #[serde(default)]
    sandbox: bool,
}

impl From<Form> for Credentials {
    fn from(form: Form) -> Self {
        Self {
            client_id: form.client_id,
            client_secret: form.client_secret.into(),
            sandbox: form.sandbox,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Paypal {
    http: Http,
    credentials: Credentials,
    /// Held while a new one is fetched, so that others wait for it.
    token: Mutex<Option<Token>>,
}

#[derive(Debug, Clone)]
struct Token {
    value: Secret,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

#[derive(Debug, Deserialize)]
struct Batch {
    batch_header: Header,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Header {
    payout_batch_id: String,
    batch_status: String,
    sender_batch_header: Option<SenderHeader>,
}

#[derive(Debug, Deserialize)]
struct SenderHeader {
    sender_batch_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    transaction_status: Option<String>,
    errors: Option<Failure>,
}

/// What went wrong, as PayPal writes it, or as OAuth does.
#[derive(Debug, Deserialize)]
struct Failure {
    #[serde(alias = "error")]
    name: String,
    #[serde(alias = "error_description")]
    message: Option<String>,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    field: Option<String>,
    issue: Option<String>,
    #[serde(default)]
    link: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Link {
    href: String,
}

impl Failure {
    fn words(&self) -> String {
        let mut words = format!(
            "{}: {}",
            self.name,
            self.message.as_deref().unwrap_or_default()
        );
        for detail in &self.details {
            let field = detail.field.as_deref().unwrap_or_default();
            let issue = detail.issue.as_deref().unwrap_or_default();
            let _ = write!(words, "; {field} {issue}"); // a String takes everything
        }
        words.trim_end_matches([':', ' ']).to_owned()
    }
}

impl Paypal {
    pub(super) fn new(http: Http, credentials: Credentials) -> Result<Self, AccountError> {
        must_be_visible("client_id", &credentials.client_id)?;
        must_be_visible("client_secret", credentials.client_secret.expose())?;
        Ok(Self {
            http,
            credentials,
            token: Mutex::new(None),
        })
    }

    /// Sends what `call` makes with an access token; with another one where that has ended.
    async fn ask<'a>(
        &'a self,
        call: impl Fn() -> Call<'a> + Send + Sync,
    ) -> Result<Answer, ProviderError> {
        let token = self.token(None).await?;
        let answer = call().bearer(token.value.expose()).ask().await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let token = self.token(Some(&token)).await?;
        call().bearer(token.value.expose()).ask().await
    }

    /// An access token, not the `ended` one. Whatever fails here, no payment was sent.
    async fn token(&self, ended: Option<&Token>) -> Result<Token, ProviderError> {
        let mut held = self.token.lock().await;
        let now = Instant::now();
        if let Some(token) = held.as_ref()
            && token.until > now
            && ended.is_none_or(|ended| ended.value.expose() != token.value.expose())
        {
            return Ok(token.clone());
        }
        *held = None;
        let call = self.http.call(Method::POST, "/v1/oauth2/token");
        let secret = self.credentials.client_secret.expose();
        let call = call.basic(&self.credentials.client_id, secret);
        let form = "grant_type=client_credentials".to_owned();
        let answer = call
            .form(form)
            .ask()
            .await
            .map_err(ProviderError::not_sent)?;
        if !answer.status.is_success() {
            let words = |failure: &Failure| format!("no access to PayPal: {}", failure.words());
            return Err(answer.failure(words).not_sent());
        }
        let fresh: TokenAnswer = answer.read().map_err(ProviderError::not_sent)?;
        let age = Duration::from_secs(fresh.expires_in).min(MAX_TOKEN_AGE);
        let token = Token {
            value: fresh.access_token.into(),
            until: now + age.saturating_sub(TOKEN_MARGIN),
        };
        *held = Some(token.clone());
        Ok(token)
    }
}

impl Provider for Paypal {
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError> {
        let payouts::Method::Paypal { email } = &payment.method else {
            let told = format!(
                "PayPal pays to PayPal accounts, not by {}",
                payment.method.kind()
            );
            return Err(ProviderError::Refused(told));
        };
        let amount = payouts::paypal::amount(payment.net).map_err(ProviderError::Refused)?;
        let body = json!({
            "sender_batch_header": {
                "sender_batch_id": key,
                "email_subject": payment.reference,
            },
            "items": [{
                "recipient_type": "EMAIL",
                "receiver": email,
                "amount": {"value": amount, "currency": payment.net.currency().code()},
                "note": payment.reference,
                "sender_item_id": payment.payout_id,
            }],
        });
        let answer = self
            .ask(|| {
                let call = self.http.call(Method::POST, "/v1/payments/payouts");
                call.json(&body)
            })
            .await?;
        let batch = match answer.status {
            status if status.is_success() => {
                let batch: Batch = answer.read()?;
                Some(batch.batch_header.payout_batch_id).filter(|id| is_batch_id(id))
            }
            _ => sent_before(&answer)?,
        };
        let reference = batch.ok_or_else(|| answer.unknown("it names no batch"))?;
        Ok(Outcome::Pending { reference })
    }

    async fn outcome(
        &self,
        key: &str,
        reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError> {
        let Some(reference) = reference else {
            return Ok(None);
        };
        if !is_batch_id(reference) {
            let told = format!("{} is no batch of PayPal's", bounded(reference));
            return Err(ProviderError::Unknown(told));
        }
        let path = format!("/v1/payments/payouts/{reference}");
        let answer = self
            .ask(|| self.http.call(Method::GET, &path))
            .await
            .map_err(ProviderError::not_told)?;
        if !answer.status.is_success() {
            return Err(answer.failure(Failure::words).not_told());
        }
        let batch: Batch = answer.read()?;
        batch.outcome(&answer, key, reference).map(Some)
    }
}

impl Batch {
    fn outcome(
        &self,
        answer: &Answer,
        key: &str,
        reference: &str,
    ) -> Result<Outcome, ProviderError> {
        let sender = self.batch_header.sender_batch_header.as_ref();
        let theirs = sender.and_then(|sender| sender.sender_batch_id.as_deref());
        if self.batch_header.payout_batch_id != reference
            || theirs.is_some_and(|theirs| theirs != key)
        {
            return Err(answer.unknown("it is about another batch"));
        }
        let [item] = self.items.as_slice() else {
            let status = self.batch_header.batch_status.as_str();
            return match (self.items.len(), status) {
                (0, "PENDING" | "PROCESSING" | "NEW") => Ok(pending(reference)),
                (0, "DENIED" | "CANCELED") => Ok(failed(reference, status, None)),
                _ => Err(answer.unknown("the batch does not hold the one payment")),
            };
        };
        match (
            item.transaction_status.as_deref(),
            self.batch_header.batch_status.as_str(),
        ) {
            (Some("SUCCESS"), _) => Ok(Outcome::Paid {
                reference: reference.to_owned(),
            }),
            // Unclaimed: he has no account yet; after 30 days it is returned. On hold: PayPal looks into it.
            (Some("PENDING" | "UNCLAIMED" | "ONHOLD" | "ON_HOLD"), _) => Ok(pending(reference)),
            (
                Some(
                    status @ ("FAILED" | "BLOCKED" | "DENIED" | "RETURNED" | "REFUNDED"
                    | "REVERSED" | "CANCELED"),
                ),
                _,
            ) => Ok(failed(reference, status, item.errors.as_ref())),
            (None, status @ ("DENIED" | "CANCELED")) => {
                Ok(failed(reference, status, item.errors.as_ref()))
            }
            (None, "PENDING" | "PROCESSING" | "NEW") => Ok(pending(reference)),
            (status, _) => {
                let status = bounded(status.unwrap_or("no state"));
                Err(answer.unknown(&format!(
                    "the payment's state is {status}, which is not known here"
                )))
            }
        }
    }
}

fn pending(reference: &str) -> Outcome {
    Outcome::Pending {
        reference: reference.to_owned(),
    }
}

fn failed(reference: &str, status: &str, errors: Option<&Failure>) -> Outcome {
    let meaning = match status {
        "RETURNED" => "nobody claimed it, or it was cancelled; the money is back",
        "REFUNDED" => "the affiliate sent it back",
        "REVERSED" => "it was reversed",
        "BLOCKED" => "PayPal blocked it",
        _ => "no money was sent",
    };
    let words = errors.map(|failure| format!(" ({})", failure.words()));
    Outcome::Failed {
        reference: Some(reference.to_owned()),
        reason: bounded(&format!("{status}: {meaning}{}", words.unwrap_or_default())),
    }
}

/// The batch that was made under the key before, where that is why PayPal refuses; else what the answer says.
fn sent_before(answer: &Answer) -> Result<Option<String>, ProviderError> {
    let about_key = |detail: &&Detail| {
        let field = detail.field.as_deref().unwrap_or_default();
        field.eq_ignore_ascii_case("SENDER_BATCH_ID")
    };
    let told: Option<Failure> = (answer.status == StatusCode::BAD_REQUEST)
        .then(|| answer.read().ok())
        .flatten();
    let Some(detail) = (told.as_ref()).and_then(|failure| failure.details.iter().find(about_key))
    else {
        return Err(answer.failure(Failure::words));
    };
    let name = |link: &Link| {
        let (_, name) = link.href.rsplit_once("/v1/payments/payouts/")?;
        is_batch_id(name).then(|| name.to_owned())
    };
    Ok(detail.link.iter().find_map(name))
}

/// Whether it can be the name of a batch, and nothing else in a path.
fn is_batch_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_BATCH_ID_CHARS).contains(&text.len()) && text.bytes().all(plain)
}
