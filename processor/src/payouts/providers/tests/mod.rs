//! The providers against servers that follow their documented behaviour, over a real socket.

mod paypal;
mod script;
mod server;
mod stripe;

use tributary_shared::money::Money;
use tributary_shared::payouts::{Method, Payment};
use uuid::Uuid;

use super::{AccountError, AnyProvider, ProviderAddresses, ProviderError, Providers};

const STRIPE_CREDENTIALS: &[u8] = br#"{"secret_key": "sk_test_secret"}"#;
const PAYPAL_CREDENTIALS: &[u8] = br#"{"client_id": "app", "client_secret": "hush"}"#;

fn payment(method: Method, amount: &str, currency: &str) -> Payment {
    Payment {
        payout_id: Uuid::from_u128(7),
        affiliate_name: "Ana Example".to_owned(),
        method,
        net: Money::parse(amount, currency).unwrap(),
        reference: "Demo shop, payout 2026-11".to_owned(),
    }
}

fn to_stripe() -> Payment {
    let account = "acct_1MTfjCQ9PRzxEwkZ".to_owned();
    payment(Method::StripeConnect { account }, "12.34", "USD")
}

fn to_paypal() -> Payment {
    let email = "ana@example.com".to_owned();
    payment(Method::Paypal { email }, "12.30", "EUR")
}

/// All providers at `url`.
fn providers(url: &str) -> Providers {
    let addresses = ProviderAddresses {
        stripe_url: url.parse().unwrap(),
        paypal_url: url.parse().unwrap(),
        paypal_sandbox_url: url.parse().unwrap(),
    };
    Providers::with_patience(&addresses, server::PATIENCE).unwrap()
}

fn is_unknown<T>(result: &Result<T, ProviderError>) -> bool {
    matches!(result, Err(ProviderError::Unknown(_)))
}

#[tokio::test]
async fn an_account_needs_its_credentials() {
    let all = providers("http://127.0.0.1:1");
    let refused = |kind: &str, credentials: &str| all.of(kind, credentials.as_bytes()).unwrap_err();
    assert_eq!(
        refused("western_union", "{}"),
        AccountError::Kind("western_union".to_owned())
    );
    for (kind, credentials) in [
        ("stripe_connect", ""),
        ("stripe_connect", "{}"),
        ("stripe_connect", r#"{"secret_key": "sk\nhush"}"#),
        ("stripe_connect", r#"{"secret_key": ""}"#),
        ("stripe_connect", r#"{"secret_key": "hush", "other": 1}"#),
        ("paypal", r#"{"client_id": "hush"}"#),
        (
            "paypal",
            r#"{"client_id": "app", "client_secret": "hush hush"}"#,
        ),
        (
            "paypal",
            r#"{"client_id": "app", "client_secret": "hush", "sandbox": "hush"}"#,
        ),
    ] {
        let error = refused(kind, credentials);
        assert!(
            matches!(error, AccountError::Credentials(_)),
            "{credentials}"
        );
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let all = providers("http://127.0.0.1:1");
    for (kind, credentials) in [
        ("stripe_connect", STRIPE_CREDENTIALS),
        ("paypal", PAYPAL_CREDENTIALS),
    ] {
        let printed = match all.of(kind, credentials).unwrap() {
            AnyProvider::Stripe(stripe) => format!("{stripe:?}"),
            AnyProvider::Paypal(paypal) => format!("{paypal:?}"),
        };
        assert!(
            !printed.contains("sk_test") && !printed.contains("hush"),
            "{printed}"
        );
    }
    assert!(!format!("{all:?}").contains("hush"));
}
