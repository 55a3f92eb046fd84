//! Stripe Connect: a transfer from the tenant's balance at Stripe to an account that is connected to it.
//!
//! The key is Stripe's `Idempotency-Key` (which it remembers for 24 hours) and the `transfer_group` by which a transfer is
//! found for ever. A transfer that Stripe names is done: the money is on the connected account.

use std::fmt;

use hyper::Method;
use serde::Deserialize;
use tributary_shared::config::Secret;
use tributary_shared::money::Money;
use tributary_shared::payouts::{self, Payment};
use url::form_urlencoded;

use super::http::{Answer, Call, Http, bounded};
use super::{AccountError, Outcome, Provider, ProviderError, must_be_visible};

/// The version of the API that this speaks, whatever the account's own default is.
const API_VERSION: &str = "2024-06-20";

/// Currencies that Stripe counts in whole units, by its list.
const ZERO_DECIMAL: [&str; 15] = [
    "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF",
    "XOF", "XPF",
];
/// Those that it counts in hundredths although they have none.
const WHOLE_IN_HUNDREDTHS: [&str; 2] = ["ISK", "UGX"];
/// Those that it counts in thousandths, of which the last digit must be 0.
const THREE_DECIMAL: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

/// A tenant's account at Stripe.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    secret_key: String,
}

/// A secret key, `sk_…` or `rk_…`.
#[derive(Debug, Deserialize)]
#[serde(from = "Form")]
pub(super) struct Credentials {
    secret_key: Secret,
}

impl From<Form> for Credentials {
    fn from(form: Form) -> Self {
        Self {
            secret_key: form.secret_key.into(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Stripe {
    http: Http,
    credentials: Credentials,
}

#[derive(Debug, Deserialize)]
struct Transfer {
    id: String,
    amount: i64,
    currency: String,
    destination: Option<String>,
    #[serde(default)]
    reversed: bool,
    transfer_group: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Transfers {
    data: Vec<Transfer>,
    has_more: bool,
}

#[derive(Debug, Deserialize)]
struct Failure {
    error: FailureText,
}

#[derive(Debug, Deserialize)]
struct FailureText {
    #[serde(rename = "type")]
    kind: String,
    code: Option<String>,
    message: Option<String>,
}

impl fmt::Display for FailureText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_deref().unwrap_or(&self.kind);
        write!(
            f,
            "{code}: {}",
            self.message.as_deref().unwrap_or("no message")
        )
    }
}

impl Stripe {
    pub(super) fn new(http: Http, credentials: Credentials) -> Result<Self, AccountError> {
        must_be_visible("secret_key", credentials.secret_key.expose())?;
        Ok(Self { http, credentials })
    }

    fn call(&self, method: Method, path: &str) -> Call<'_> {
        self.http
            .call(method, path)
            .bearer(self.credentials.secret_key.expose())
            .header("stripe-version", API_VERSION)
    }
}

impl Provider for Stripe {
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError> {
        let payouts::Method::StripeConnect { account } = &payment.method else {
            let told = format!(
                "Stripe pays to connected accounts, not by {}",
                payment.method.kind()
            );
            return Err(ProviderError::Refused(told));
        };
        let amount = minor_units(payment.net).map_err(ProviderError::Refused)?;
        let currency = payment.net.currency().code().to_ascii_lowercase();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("amount", &amount.to_string())
            .append_pair("currency", &currency)
            .append_pair("destination", account)
            .append_pair("transfer_group", key)
            .append_pair("description", &payment.reference)
            .append_pair("metadata[payout_id]", &payment.payout_id.to_string())
            .finish();
        let call = self.call(Method::POST, "/v1/transfers");
        let answer = call.header("idempotency-key", key).form(form).ask().await?;
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        let transfer: Transfer = answer.read()?;
        let ours = transfer.amount == amount
            && transfer.currency.eq_ignore_ascii_case(&currency)
            && transfer.destination.as_ref() == Some(account)
            && transfer.transfer_group.as_deref() == Some(key);
        if !ours {
            return Err(answer.unknown("it is about another payment"));
        }
        Ok(transfer.outcome())
    }

    async fn outcome(
        &self,
        key: &str,
        reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("transfer_group", key)
            .append_pair("limit", "10")
            .finish();
        let call = self.call(Method::GET, &format!("/v1/transfers?{query}"));
        let answer = call.ask().await.map_err(ProviderError::not_told)?;
        if !answer.status.is_success() {
            return Err(refusal(&answer).not_told());
        }
        let Transfers { mut data, has_more } = answer.read()?;
        let ours = |transfer: &Transfer| transfer.transfer_group.as_deref() == Some(key);
        if has_more || !data.iter().all(ours) {
            return Err(answer.unknown("it is about other payments"));
        }
        if data.iter().filter(|transfer| !transfer.reversed).count() > 1 {
            return Err(
                answer.unknown("there are several transfers; look at them on Stripe's dashboard")
            );
        }
        // The one that stands, else the latest of those that were taken back.
        data.sort_by_key(|transfer| transfer.reversed);
        match (data.first(), reference) {
            (Some(transfer), _) => Ok(Some(transfer.outcome())),
            (None, None) => Ok(None),
            // It was there. Is this another account at Stripe by now?
            (None, Some(reference)) => Err(answer.unknown(&format!(
                "this account has no transfer {}",
                bounded(reference)
            ))),
        }
    }
}

impl Transfer {
    fn outcome(&self) -> Outcome {
        match self.reversed {
            false => Outcome::Paid {
                reference: bounded(&self.id),
            },
            true => Outcome::Failed {
                reference: Some(bounded(&self.id)),
                reason: "the transfer was reversed at Stripe".to_owned(),
            },
        }
    }
}

/// What an answer that is no success says.
fn refusal(answer: &Answer) -> ProviderError {
    // The key was used for something else: whether that was this payment, Stripe's list tells.
    if let Ok(Failure { error }) = answer.read()
        && error.kind == "idempotency_error"
    {
        return answer.unknown(&error.to_string());
    }
    answer.failure(|failure: &Failure| failure.error.to_string())
}

/// An amount as Stripe counts it.
fn minor_units(money: Money) -> Result<i64, String> {
    let code = money.currency().code();
    let digits = match code {
        code if ZERO_DECIMAL.contains(&code) => 0,
        code if THREE_DECIMAL.contains(&code) => 3,
        _ => 2,
    };
    let step = match code {
        code if WHOLE_IN_HUNDREDTHS.contains(&code) => 100,
        code if THREE_DECIMAL.contains(&code) => 10,
        _ => 1,
    };
    let mut amount = money.amount();
    amount.rescale(digits);
    let units = i64::try_from(amount.mantissa()).unwrap_or(0); // MAX_AMOUNT has 13 digits: it fits
    if amount != money.amount() || units <= 0 || units % step != 0 {
        return Err(format!(
            "Stripe can't send {money}: it takes no amount of {code} as fine as that"
        ));
    }
    Ok(units)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn amounts_are_counted_as_stripe_counts_them() {
        let units =
            |amount: &str, currency: &str| minor_units(Money::parse(amount, currency).unwrap());
        for (amount, currency, expected) in [
            ("12.34", "USD", 1234),
            ("0.01", "EUR", 1),
            ("500", "JPY", 500),
            ("500", "XOF", 500),
            ("5.00", "MGA", 5),
            ("5", "ISK", 500),
            ("5", "UGX", 500),
            ("500.50", "HUF", 50_050),
            ("1.230", "KWD", 1230),
            ("9999999999999", "JPY", 9_999_999_999_999),
        ] {
            assert_eq!(units(amount, currency), Ok(expected), "{amount} {currency}");
        }
        for (amount, currency) in [("5.50", "MGA"), ("1.234", "KWD"), ("0", "USD")] {
            assert!(units(amount, currency).is_err(), "{amount} {currency}");
        }
    }
}
