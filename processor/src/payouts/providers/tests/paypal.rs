//! PayPal's server: access tokens, batches, and a `sender_batch_id` that is taken once.

use serde_json::{Value, json};

use super::server::{Asked, Fault, Rules, Server, nowhere};
use super::{PAYPAL_CREDENTIALS, is_unknown, payment, providers, to_paypal, to_stripe};
use crate::payouts::providers::{AnyProvider, Outcome, Provider as _, ProviderError};

const BATCHES: &str = "/v1/payments/payouts";

#[derive(Default)]
pub(super) struct Paypal {
    pub batches: Vec<Value>,
    pub tokens: usize,
    /// How long a token is good for, in seconds.
    pub token_seconds: u64,
    /// Refuses what is new.
    pub broke: bool,
    /// Pays at once what it takes.
    pub at_once: bool,
}

impl Paypal {
    fn token(&mut self, asked: &Asked) -> (u16, String) {
        assert_eq!(asked.body, "grant_type=client_credentials");
        // app:hush
        if asked.header("authorization") != "Basic YXBwOmh1c2g=" {
            let told = json!({"error": "invalid_client", "error_description": "Client Authentication failed"});
            return (401, told.to_string());
        }
        self.tokens += 1;
        let token = json!({"access_token": format!("A{}", self.tokens), "token_type": "Bearer", "expires_in": self.token_seconds});
        (200, token.to_string())
    }

    fn create(&mut self, asked: &Asked) -> (u16, String) {
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let key = &body["sender_batch_header"]["sender_batch_id"];
        let before = (self.batches.iter())
            .find(|batch| batch["batch_header"]["sender_batch_header"]["sender_batch_id"] == *key);
        if let Some(batch) = before {
            let id = batch["batch_header"]["payout_batch_id"].as_str().unwrap();
            let link = json!({"href": format!("https://api.sandbox.paypal.com{BATCHES}/{id}"), "rel": "self", "method": "GET"});
            let told = json!({"name": "USER_BUSINESS_ERROR", "message": "User business error.", "debug_id": "f05063556a338",
                "details": [{"field": "SENDER_BATCH_ID", "issue": "Batch with given sender_batch_id already exists", "link": [link]}]});
            return (400, told.to_string());
        }
        if self.broke {
            let told = json!({"name": "INSUFFICIENT_FUNDS", "message": "Sender does not have sufficient funds.", "details": []});
            return (422, told.to_string());
        }
        let header = json!({"payout_batch_id": format!("BATCH{}", self.batches.len() + 1), "batch_status": "PENDING",
            "sender_batch_header": body["sender_batch_header"]});
        let status = if self.at_once { "SUCCESS" } else { "PENDING" };
        let item = json!({"payout_item_id": "I1", "transaction_status": status, "payout_item": body["items"][0]});
        self.batches
            .push(json!({"batch_header": header, "items": [item]}));
        (201, json!({"batch_header": header}).to_string())
    }
}

impl Rules for Paypal {
    fn answer(&mut self, asked: &Asked) -> (u16, String) {
        if asked.path == "/v1/oauth2/token" {
            return self.token(asked);
        }
        if asked.header("authorization") != format!("Bearer A{}", self.tokens) {
            return (401, json!({"error": "invalid_token", "error_description": "Access Token not found in cache"}).to_string());
        }
        if asked.method == "POST" {
            assert_eq!(asked.path, BATCHES);
            return self.create(asked);
        }
        let id = asked.path.strip_prefix(&format!("{BATCHES}/")).unwrap();
        let found = self
            .batches
            .iter()
            .find(|batch| batch["batch_header"]["payout_batch_id"] == id);
        match found {
            Some(batch) => (200, batch.to_string()),
            None => {
                let told = json!({"name": "INVALID_RESOURCE_ID", "message": "Requested resource ID was not found."});
                (404, told.to_string())
            }
        }
    }

    fn may_fail(&self, asked: &Asked) -> bool {
        asked.path != "/v1/oauth2/token"
    }
}

pub(super) async fn start() -> (Server<Paypal>, AnyProvider) {
    let rules = Paypal {
        token_seconds: 32_400,
        ..Paypal::default()
    };
    let server = Server::start(rules).await;
    let provider = providers(&server.url)
        .of("paypal", PAYPAL_CREDENTIALS)
        .unwrap();
    (server, provider)
}

fn pending(reference: &str) -> Outcome {
    Outcome::Pending {
        reference: reference.to_owned(),
    }
}

#[tokio::test]
async fn a_batch_of_one_is_made_and_followed() {
    let (server, paypal) = start().await;
    assert_eq!(paypal.outcome("k-1", None).await, Ok(None));
    assert_eq!(
        paypal.send(&to_paypal(), "k-1").await,
        Ok(pending("BATCH1"))
    );
    assert_eq!(
        paypal.outcome("k-1", Some("BATCH1")).await,
        Ok(Some(pending("BATCH1")))
    );
    server.rules(|rules| rules.batches[0]["items"][0]["transaction_status"] = json!("SUCCESS"));
    let paid = Outcome::Paid {
        reference: "BATCH1".to_owned(),
    };
    assert_eq!(paypal.outcome("k-1", Some("BATCH1")).await, Ok(Some(paid)));
    let asked = server.asked();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/v1/oauth2/token",
            BATCHES,
            "/v1/payments/payouts/BATCH1",
            "/v1/payments/payouts/BATCH1"
        ]
    );
    assert_eq!(
        serde_json::from_str::<Value>(&asked[1].body).unwrap(),
        json!({
            "sender_batch_header": {"sender_batch_id": "k-1", "email_subject": "Demo shop, payout 2026-11"},
            "items": [{"recipient_type": "EMAIL", "receiver": "ana@example.com", "amount": {"value": "12.30", "currency": "EUR"},
                "note": "Demo shop, payout 2026-11", "sender_item_id": "00000000-0000-0000-0000-000000000007"}],
        })
    );
}

#[tokio::test]
async fn a_repeated_key_names_the_first_batch() {
    let (server, paypal) = start().await;
    for _ in 0..3 {
        assert_eq!(
            paypal.send(&to_paypal(), "k-1").await,
            Ok(pending("BATCH1"))
        );
    }
    let other = payment(to_paypal().method, "99.99", "USD");
    assert_eq!(paypal.send(&other, "k-1").await, Ok(pending("BATCH1")));
    assert_eq!(server.rules(|rules| rules.batches.len()), 1);
}

#[tokio::test]
async fn each_state_has_its_meaning() {
    let (server, paypal) = start().await;
    paypal.send(&to_paypal(), "k-1").await.unwrap();
    for (state, expected) in [
        ("PENDING", "pending"),
        ("UNCLAIMED", "pending"),
        ("ONHOLD", "pending"),
        ("SUCCESS", "paid"),
        (
            "FAILED",
            "FAILED: no money was sent (RECEIVER_ACCOUNT_LOCKED: The account is locked.)",
        ),
        (
            "BLOCKED",
            "BLOCKED: PayPal blocked it (RECEIVER_ACCOUNT_LOCKED: The account is locked.)",
        ),
        (
            "RETURNED",
            "RETURNED: nobody claimed it, or it was cancelled; the money is back (RECEIVER_ACCOUNT_LOCKED: The account is locked.)",
        ),
        (
            "REFUNDED",
            "REFUNDED: the affiliate sent it back (RECEIVER_ACCOUNT_LOCKED: The account is locked.)",
        ),
        (
            "REVERSED",
            "REVERSED: it was reversed (RECEIVER_ACCOUNT_LOCKED: The account is locked.)",
        ),
        ("SOMETHING_NEW", "unknown"),
    ] {
        server.rules(|rules| {
            rules.batches[0]["items"][0]["transaction_status"] = json!(state);
            rules.batches[0]["items"][0]["errors"] =
                json!({"name": "RECEIVER_ACCOUNT_LOCKED", "message": "The account is locked."});
        });
        let told = match paypal.outcome("k-1", Some("BATCH1")).await {
            Ok(Some(Outcome::Pending { .. })) => "pending".to_owned(),
            Ok(Some(Outcome::Paid { .. })) => "paid".to_owned(),
            Ok(Some(Outcome::Failed { reason, .. })) => reason,
            Err(ProviderError::Unknown(_)) => "unknown".to_owned(),
            other => panic!("{state}: {other:?}"),
        };
        assert_eq!(told, expected, "{state}");
    }
    // A batch that was denied whole may have no items.
    server.rules(|rules| {
        rules.batches[0] =
            json!({"batch_header": {"payout_batch_id": "BATCH1", "batch_status": "DENIED"}})
    });
    assert!(matches!(
        paypal.outcome("k-1", Some("BATCH1")).await,
        Ok(Some(Outcome::Failed { .. }))
    ));
    // Another's batch, or one of several payments, is not ours.
    for (sender, items) in [
        ("k-2", json!([{"transaction_status": "SUCCESS"}])),
        ("k-1", json!([{}, {}])),
        ("k-1", json!([])),
    ] {
        server.rules(|rules| {
            rules.batches[0] = json!({"batch_header": {"payout_batch_id": "BATCH1", "batch_status": "SUCCESS",
                "sender_batch_header": {"sender_batch_id": sender}}, "items": items});
        });
        assert!(is_unknown(&paypal.outcome("k-1", Some("BATCH1")).await));
    }
    for reference in ["BATCH9", "../oauth2/token", ""] {
        assert!(
            is_unknown(&paypal.outcome("k-1", Some(reference)).await),
            "{reference}"
        );
    }
}

#[tokio::test]
async fn each_failure_says_whether_money_may_have_moved() {
    let (server, paypal) = start().await;
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
        server.script(&[fault]);
        let sent = paypal.send(&to_paypal(), &format!("k-{number}")).await;
        assert!(is_unknown(&sent), "{fault:?}: {sent:?}");
    }
    server.script(&[Fault::Busy]);
    let busy = paypal.send(&to_paypal(), "busy").await;
    assert!(
        matches!(busy, Err(ProviderError::Unavailable(_))),
        "{busy:?}"
    );
    let away = providers(&nowhere().await)
        .of("paypal", PAYPAL_CREDENTIALS)
        .unwrap();
    let sent = away.send(&to_paypal(), "away").await;
    assert!(
        matches!(sent, Err(ProviderError::Unavailable(_))),
        "{sent:?}"
    );
    assert!(is_unknown(&away.outcome("away", Some("BATCH1")).await));
    for fault in [
        Fault::CutBefore,
        Fault::Slow,
        Fault::ErrorBefore,
        Fault::Busy,
        Fault::Garbled,
        Fault::Oversized,
        Fault::Firewall,
    ] {
        server.script(&[fault]);
        let told = paypal.outcome("k-1", Some("BATCH1")).await;
        assert!(is_unknown(&told), "{fault:?}: {told:?}");
    }
}

#[tokio::test]
async fn a_refusal_has_paypals_words() {
    let (server, paypal) = start().await;
    server.rules(|rules| rules.broke = true);
    let refused = paypal.send(&to_paypal(), "k-1").await.unwrap_err();
    let told = "INSUFFICIENT_FUNDS: Sender does not have sufficient funds.";
    assert_eq!(refused, ProviderError::Refused(told.to_owned()));
    let wrong = providers(&server.url)
        .of(
            "paypal",
            br#"{"client_id": "app", "client_secret": "wrong"}"#,
        )
        .unwrap();
    let refused = wrong.send(&to_paypal(), "k-2").await.unwrap_err();
    let told = "no access to PayPal: invalid_client: Client Authentication failed";
    assert_eq!(refused, ProviderError::Refused(told.to_owned()));
    assert!(is_unknown(&wrong.outcome("k-1", Some("BATCH1")).await));
    assert!(matches!(
        paypal.send(&to_stripe(), "k-3").await,
        Err(ProviderError::Refused(_))
    ));
    let foreign = payment(to_paypal().method, "1.000", "KWD");
    assert!(matches!(
        paypal.send(&foreign, "k-4").await,
        Err(ProviderError::Refused(_))
    ));
}

#[tokio::test]
async fn an_access_token_is_used_until_it_ends() {
    let (server, paypal) = start().await;
    let tokens = || server.rules(|rules| rules.tokens);
    for number in 0..3 {
        paypal
            .send(&to_paypal(), &format!("a-{number}"))
            .await
            .unwrap();
    }
    assert_eq!(tokens(), 1);
    // One that PayPal no longer knows is replaced once, and the payment is made.
    server.rules(|rules| rules.tokens += 1);
    assert_eq!(paypal.send(&to_paypal(), "b").await, Ok(pending("BATCH4")));
    assert_eq!(tokens(), 3);
    server.script(&[Fault::TokenEnded, Fault::TokenEnded]);
    let refused = paypal.send(&to_paypal(), "c").await.unwrap_err();
    assert_eq!(
        refused,
        ProviderError::Refused("invalid_token: Token has ended".to_owned())
    );
    // A short one is not used in its last minute.
    server.rules(|rules| rules.token_seconds = 60);
    server.script(&[Fault::TokenEnded]);
    paypal.send(&to_paypal(), "d").await.unwrap();
    let before = tokens();
    paypal.send(&to_paypal(), "e").await.unwrap();
    assert_eq!(tokens(), before + 1);
    // Twenty at once want one.
    let (server, paypal) = start().await;
    let all = futures::future::join_all((0..20).map(|_| paypal.outcome("k", Some("BATCH9")))).await;
    assert!(all.iter().all(is_unknown));
    assert_eq!(server.rules(|rules| rules.tokens), 1);
}
