//! Providers: who sends money for a tenant. What they promise, so that nothing is ever paid twice: everything of one payout's
//! attempt goes under one key, they can be asked what became of a key, and an error says whether the payout may have been taken.

use tributary_shared::payouts::Payment;

/// How a payout stands at its provider.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "made by the providers; this version has none")
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Taken, and on its way.
    Pending {
        reference: String,
    },
    Paid {
        reference: String,
    },
    /// Over, and the money is not with the affiliate.
    Failed {
        reference: Option<String>,
        reason: String,
    },
}

/// Why a provider did not say how it stands.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "made by the providers; this version has none")
)]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProviderError {
    /// Not taken, final: the provider says why.
    #[error("the provider refuses it: {0}")]
    Refused(String),
    /// Surely not taken: try again later.
    #[error("the provider can't take it now: {0}")]
    Unavailable(String),
    /// May have been taken: ask before anything else.
    #[error("it is not known whether the provider has taken it: {0}")]
    Unknown(String),
}

/// Somebody who sends money.
pub(crate) trait Provider: Send + Sync {
    /// Has it sent, once however often it is asked under this key.
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError>;

    /// What became of what was sent under this key; none: the provider knows nothing of it.
    async fn outcome(
        &self,
        key: &str,
        reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError>;
}

/// The providers that there are.
#[derive(Debug)]
pub(crate) struct Configured;

/// One of them.
#[derive(Debug)]
pub(crate) enum Known {}

impl Configured {
    /// `kind`: as of the payout's method; `credentials`: the JSON that the tenant entered.
    pub(crate) fn of(&self, kind: &str, _credentials: &[u8]) -> Result<Known, String> {
        Err(format!("this version sends nothing by {kind}"))
    }
}

impl Provider for Known {
    async fn send(&self, _payment: &Payment, _key: &str) -> Result<Outcome, ProviderError> {
        match *self {}
    }

    async fn outcome(
        &self,
        _key: &str,
        _reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError> {
        match *self {}
    }
}
