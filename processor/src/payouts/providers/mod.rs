//! Providers: those who send money for a tenant, spoken to over HTTP.
//!
//! The contract, by which money moves once whatever is lost on the way:
//!
//! - `key` names one payment for ever. Sending it again under the same key never pays twice, as long as the provider
//!   remembers the key: at Stripe 24 hours, and its transfers for ever; at PayPal 30 days.
//! - After [`ProviderError::Unknown`] the caller asks ([`Provider::outcome`]) before it does anything else. Where that answers
//!   none, it sends again **under the same key**; PayPal, which can't be asked by key, then names what was there already.
//! - [`Provider::outcome`] fails with [`ProviderError::Unknown`] alone: not being told says nothing about the money.
//! - A payment may be given a new key only after [`Outcome::Failed`] or [`ProviderError::Refused`].
//!
//! Which failure means what is decided in one place, `http.rs`.

mod http;
mod paypal;
mod stripe;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use tributary_shared::payouts::Payment;
use tributary_shared::secrets::token_hash;
use url::Url;

use self::http::{ANSWER_WITHIN, Http};
use self::paypal::Paypal;
use self::stripe::Stripe;

/// Accounts at providers that are remembered, with their access tokens.
const REMEMBERED: usize = 1_000;

/// What became of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was taken, and is under way.
    Pending { reference: String },
    /// The affiliate has it.
    Paid { reference: String },
    /// The affiliate does not have it, and won't get it by this payment.
    Failed {
        reference: Option<String>,
        reason: String,
    },
}

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProviderError {
    /// Not taken, final: the provider says why.
    #[error("refused: {0}")]
    Refused(String),
    /// Surely not taken: try again later.
    #[error("not sent: {0}")]
    Unavailable(String),
    /// May have been taken: ask before anything else.
    #[error("not known: {0}")]
    Unknown(String),
}

impl ProviderError {
    /// Where asking fails: not being told what became of a payment says nothing about it.
    fn not_told(self) -> Self {
        match self {
            Self::Refused(why) | Self::Unavailable(why) | Self::Unknown(why) => Self::Unknown(why),
        }
    }

    /// Where it failed before a payment was sent at all.
    fn not_sent(self) -> Self {
        match self {
            Self::Unknown(why) => Self::Unavailable(why),
            other => other,
        }
    }
}

/// One who sends money.
pub(crate) trait Provider: Send + Sync {
    /// Sends `payment` under `key`, once however often it is called.
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError>;

    /// What became of what was sent under `key`. None: the provider knows nothing under this key, and sending
    /// under it is safe.
    async fn outcome(
        &self,
        key: &str,
        reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError>;
}

/// Where the providers are.
#[derive(Debug, Clone, clap::Args)]
pub struct ProviderAddresses {
    /// Stripe's API
    #[arg(long, env, default_value = "https://api.stripe.com")]
    pub stripe_url: Url,
    /// PayPal's API
    #[arg(long, env, default_value = "https://api-m.paypal.com")]
    pub paypal_url: Url,
    /// PayPal's API for trying things out, which accounts with "sandbox" use
    #[arg(long, env, default_value = "https://api-m.sandbox.paypal.com")]
    pub paypal_sandbox_url: Url,
}

/// Why an account at a provider can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("there is no provider {0}")]
    Kind(String),
    #[error("the credentials can't be read: {0}")]
    Credentials(String),
    #[error("TLS can't be used: {0} (are the machine's root certificates installed?)")]
    Tls(#[from] rustls::Error),
}

/// All providers. One for a process: it keeps connections and access tokens.
#[derive(Debug)]
pub(crate) struct Providers {
    stripe: Http,
    paypal: Http,
    paypal_sandbox: Http,
    accounts: Cache<[u8; 32], AnyProvider>,
}

impl Providers {
    pub(crate) fn new(addresses: &ProviderAddresses) -> Result<Self, AccountError> {
        Self::with_patience(addresses, ANSWER_WITHIN)
    }

    /// They wait for an answer as long as `answer_within`.
    fn with_patience(
        addresses: &ProviderAddresses,
        answer_within: Duration,
    ) -> Result<Self, AccountError> {
        let http = |url: &Url| Http::new(url.as_str(), answer_within);
        Ok(Self {
            stripe: http(&addresses.stripe_url)?,
            paypal: http(&addresses.paypal_url)?,
            paypal_sandbox: http(&addresses.paypal_sandbox_url)?,
            accounts: Cache::new(REMEMBERED),
        })
    }

    /// The provider of `kind` (`stripe_connect`, `paypal`) with a tenant's credentials for it, as JSON.
    pub(crate) fn of(&self, kind: &str, credentials: &[u8]) -> Result<AnyProvider, AccountError> {
        // By its hash, so that nothing secret is a key.
        let account = token_hash(&format!("{kind}\n{}", String::from_utf8_lossy(credentials)));
        if let Some(known) = self.accounts.get(&account) {
            return Ok(known);
        }
        let provider = match kind {
            "stripe_connect" => AnyProvider::Stripe(Arc::new(Stripe::new(
                self.stripe.clone(),
                read(credentials)?,
            )?)),
            "paypal" => {
                let credentials: paypal::Credentials = read(credentials)?;
                let http = match credentials.sandbox {
                    true => &self.paypal_sandbox,
                    false => &self.paypal,
                };
                AnyProvider::Paypal(Arc::new(Paypal::new(http.clone(), credentials)?))
            }
            other => return Err(AccountError::Kind(other.to_owned())),
        };
        self.accounts.insert(account, provider.clone());
        Ok(provider)
    }
}

/// Reads credentials; what is wrong with them is said without what they hold.
fn read<T: DeserializeOwned>(credentials: &[u8]) -> Result<T, AccountError> {
    serde_json::from_slice(credentials).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of another type",
            _ => "they are not JSON",
        };
        AccountError::Credentials(what.to_owned())
    })
}

/// What is sent in a header can't hold everything.
fn must_be_visible(name: &str, secret: &str) -> Result<(), AccountError> {
    match !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(AccountError::Credentials(format!(
            "{name} must be visible ASCII characters"
        ))),
    }
}

/// Any of the providers.
#[derive(Clone)]
pub(crate) enum AnyProvider {
    Stripe(Arc<Stripe>),
    Paypal(Arc<Paypal>),
}

impl Provider for AnyProvider {
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError> {
        match self {
            Self::Stripe(stripe) => stripe.send(payment, key).await,
            Self::Paypal(paypal) => paypal.send(payment, key).await,
        }
    }

    async fn outcome(
        &self,
        key: &str,
        reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError> {
        match self {
            Self::Stripe(stripe) => stripe.outcome(key, reference).await,
            Self::Paypal(paypal) => paypal.outcome(key, reference).await,
        }
    }
}

impl fmt::Debug for AnyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stripe(_) => "AnyProvider::Stripe",
            Self::Paypal(_) => "AnyProvider::Paypal",
        })
    }
}
