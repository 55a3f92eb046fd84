//! Stripe's server: transfers, found by their group; answers kept by `Idempotency-Key`.

use std::collections::HashMap;

use serde_json::{Value, json};
use url::form_urlencoded;

use super::server::{Asked, Fault, Rules, Server, nowhere};
use super::{STRIPE_CREDENTIALS, is_unknown, payment, providers, to_paypal, to_stripe};
use crate::payouts::providers::{AnyProvider, Outcome, Provider as _, ProviderError};

#[derive(Default)]
pub(super) struct Stripe {
    pub transfers: Vec<Value>,
    /// By key: what was asked, and what was answered.
    pub kept: HashMap<String, (String, (u16, String))>,
    /// Refuses what is new.
    pub broke: bool,
}

fn form(text: &str) -> HashMap<String, String> {
    form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect()
}

fn error(status: u16, kind: &str, code: &str, message: &str) -> (u16, String) {
    (
        status,
        json!({"error": {"type": kind, "code": code, "message": message}}).to_string(),
    )
}

impl Stripe {
    fn transfer(&mut self, asked: &Asked) -> (u16, String) {
        if self.broke {
            let told = "You have insufficient available funds in your Stripe account.";
            return error(400, "invalid_request_error", "balance_insufficient", told);
        }
        let form = form(&asked.body);
        let transfer = json!({
            "id": format!("tr_{}", self.transfers.len() + 1), "object": "transfer",
            "amount": form["amount"].parse::<i64>().unwrap(), "amount_reversed": 0,
            "currency": form["currency"], "destination": form["destination"],
            "reversed": false, "transfer_group": form["transfer_group"],
            "metadata": {"payout_id": form["metadata[payout_id]"]},
        });
        self.transfers.push(transfer.clone());
        (200, transfer.to_string())
    }
}

impl Rules for Stripe {
    fn answer(&mut self, asked: &Asked) -> (u16, String) {
        assert_eq!(asked.path, "/v1/transfers");
        if asked.header("authorization") != "Bearer sk_test_secret" {
            return error(
                401,
                "invalid_request_error",
                "",
                "Invalid API Key provided: sk_test_****cret",
            );
        }
        if asked.method == "GET" {
            let group = &form(&asked.query)["transfer_group"];
            // The latest first.
            let found: Vec<&Value> = (self.transfers.iter().rev())
                .filter(|transfer| transfer["transfer_group"] == group.as_str())
                .collect();
            return (
                200,
                json!({"object": "list", "data": found, "has_more": false}).to_string(),
            );
        }
        let key = asked.header("idempotency-key").to_owned();
        match self.kept.get(&key) {
            Some((body, kept)) if *body == asked.body => return kept.clone(),
            Some(_) => {
                let told = "Keys for idempotent requests can only be used with the same parameters they were first used with.";
                return error(400, "idempotency_error", "", told);
            }
            None => {}
        }
        let answer = self.transfer(asked);
        self.kept.insert(key, (asked.body.clone(), answer.clone()));
        answer
    }

    fn may_fail(&self, _: &Asked) -> bool {
        true
    }
}

async fn start() -> (Server<Stripe>, AnyProvider) {
    let server = Server::start(Stripe::default()).await;
    let provider = providers(&server.url)
        .of("stripe_connect", STRIPE_CREDENTIALS)
        .unwrap();
    (server, provider)
}

fn paid(reference: &str) -> Outcome {
    Outcome::Paid {
        reference: reference.to_owned(),
    }
}

#[tokio::test]
async fn a_transfer_is_made_and_found() {
    let (server, stripe) = start().await;
    assert_eq!(stripe.outcome("k-1", None).await, Ok(None));
    assert_eq!(stripe.send(&to_stripe(), "k-1").await, Ok(paid("tr_1")));
    assert_eq!(stripe.outcome("k-1", None).await, Ok(Some(paid("tr_1"))));
    assert_eq!(
        stripe.outcome("k-1", Some("tr_1")).await,
        Ok(Some(paid("tr_1")))
    );
    assert_eq!(stripe.outcome("k-2", None).await, Ok(None));
    let asked = server.asked().remove(1);
    assert_eq!(
        form(&asked.body),
        HashMap::from(
            [
                ("amount", "1234"),
                ("currency", "usd"),
                ("destination", "acct_1MTfjCQ9PRzxEwkZ"),
                ("transfer_group", "k-1"),
                ("description", "Demo shop, payout 2026-11"),
                (
                    "metadata[payout_id]",
                    "00000000-0000-0000-0000-000000000007"
                ),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        )
    );
    assert_eq!(asked.header("idempotency-key"), "k-1");
    assert_eq!(
        asked.header("content-type"),
        "application/x-www-form-urlencoded"
    );
    assert_eq!(asked.header("stripe-version"), "2024-06-20");
}

#[tokio::test]
async fn the_same_key_pays_once_and_another_payment_under_it_is_not_made() {
    let (server, stripe) = start().await;
    for _ in 0..3 {
        assert_eq!(stripe.send(&to_stripe(), "k-1").await, Ok(paid("tr_1")));
    }
    let other = payment(to_stripe().method, "99.99", "USD");
    assert!(is_unknown(&stripe.send(&other, "k-1").await));
    assert_eq!(server.rules(|rules| rules.transfers.len()), 1);
}

#[tokio::test]
async fn each_failure_says_whether_money_may_have_moved() {
    let (server, stripe) = start().await;
    for (number, fault) in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Slow,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::Garbled,
        Fault::Oversized,
        Fault::Moved,
        Fault::Firewall,
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k-{number}");
        server.script(&[fault]);
        let sent = stripe.send(&to_stripe(), &key).await;
        assert!(is_unknown(&sent), "{fault:?}: {sent:?}");
        let made = server.rules(|rules| {
            rules
                .transfers
                .iter()
                .filter(|t| t["transfer_group"] == key.as_str())
                .count()
        });
        let told = stripe.outcome(&key, None).await.unwrap();
        assert_eq!(told.is_some(), made == 1, "{fault:?}: {told:?}");
    }
    server.script(&[Fault::Busy]);
    let busy = stripe.send(&to_stripe(), "busy").await;
    assert!(
        matches!(busy, Err(ProviderError::Unavailable(_))),
        "{busy:?}"
    );
    let away = providers(&nowhere().await)
        .of("stripe_connect", STRIPE_CREDENTIALS)
        .unwrap();
    let away = away.send(&to_stripe(), "away").await;
    assert!(
        matches!(away, Err(ProviderError::Unavailable(_))),
        "{away:?}"
    );
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.path == "/v1/transfers"),
        "a redirect was followed"
    );
}

#[tokio::test]
async fn a_refusal_has_stripes_words() {
    let (server, stripe) = start().await;
    server.rules(|rules| rules.broke = true);
    let refused = stripe.send(&to_stripe(), "k-1").await.unwrap_err();
    let told =
        "balance_insufficient: You have insufficient available funds in your Stripe account.";
    assert_eq!(refused, ProviderError::Refused(told.to_owned()));
    let wrong = providers(&server.url)
        .of("stripe_connect", br#"{"secret_key": "sk_wrong_key"}"#)
        .unwrap();
    let refused = wrong.send(&to_stripe(), "k-2").await.unwrap_err();
    assert!(matches!(&refused, ProviderError::Refused(why) if why.contains("Invalid API Key")));
    assert!(!refused.to_string().contains("sk_wrong_key"));
    // Of what was sent, a wrong key says nothing.
    assert!(is_unknown(&wrong.outcome("k-1", None).await));
    assert!(matches!(
        stripe.send(&to_paypal(), "k-3").await,
        Err(ProviderError::Refused(_))
    ));
    let fine = payment(to_stripe().method, "1.234", "KWD");
    assert!(matches!(
        stripe.send(&fine, "k-4").await,
        Err(ProviderError::Refused(_))
    ));
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn what_is_not_told_is_not_known() {
    let (server, stripe) = start().await;
    stripe.send(&to_stripe(), "k-1").await.unwrap();
    for fault in [
        Fault::CutBefore,
        Fault::Slow,
        Fault::ErrorBefore,
        Fault::Busy,
        Fault::Garbled,
        Fault::Oversized,
        Fault::Moved,
        Fault::Firewall,
        Fault::TokenEnded,
    ] {
        server.script(&[fault]);
        let told = stripe.outcome("k-1", None).await;
        assert!(is_unknown(&told), "{fault:?}: {told:?}");
    }
    let away = providers(&nowhere().await)
        .of("stripe_connect", STRIPE_CREDENTIALS)
        .unwrap();
    assert!(is_unknown(&away.outcome("k-1", None).await));
    // It was there once, so an account without it is another account.
    assert!(is_unknown(&stripe.outcome("k-2", Some("tr_1")).await));
}

#[tokio::test]
async fn a_reversed_transfer_failed_and_two_are_for_a_person() {
    let (server, stripe) = start().await;
    stripe.send(&to_stripe(), "k-1").await.unwrap();
    server.rules(|rules| rules.transfers[0]["reversed"] = json!(true));
    let reversed = Outcome::Failed {
        reference: Some("tr_1".to_owned()),
        reason: "the transfer was reversed at Stripe".to_owned(),
    };
    assert_eq!(stripe.outcome("k-1", None).await, Ok(Some(reversed)));
    let again = |rules: &mut Stripe, reversed: bool| {
        let mut transfer = rules.transfers[0].clone();
        transfer["id"] = json!(format!("tr_{}", rules.transfers.len() + 1));
        transfer["reversed"] = json!(reversed);
        rules.transfers.push(transfer);
    };
    server.rules(|rules| again(rules, false));
    server.rules(|rules| again(rules, true));
    assert_eq!(stripe.outcome("k-1", None).await, Ok(Some(paid("tr_2"))));
    server.rules(|rules| again(rules, false));
    assert!(is_unknown(&stripe.outcome("k-1", None).await));
}
