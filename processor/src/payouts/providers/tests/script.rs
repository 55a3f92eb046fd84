//! Whatever a provider's server does, a caller that keeps to the contract moves the money once, or not at all.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;
use tributary_shared::payouts::Payment;

use super::server::{Fault, Rules, Server};
use super::{
    PAYPAL_CREDENTIALS, STRIPE_CREDENTIALS, paypal, providers, stripe, to_paypal, to_stripe,
};
use crate::payouts::providers::{AnyProvider, Outcome, Provider as _, ProviderError};

/// Steps after which a caller must have come to an end: each fault costs two at most.
const MAX_STEPS: usize = 60;

/// Gives a payment to a provider as the contract says, and comes back with how it ended.
async fn pay(provider: &AnyProvider, payment: &Payment, key: &str) -> Option<Outcome> {
    let mut reference: Option<String> = None;
    let mut ask_first = false;
    for _ in 0..MAX_STEPS {
        let told = match ask_first {
            true => provider.outcome(key, reference.as_deref()).await,
            false => provider.send(payment, key).await.map(Some),
        };
        match told {
            Ok(None) => ask_first = false,
            Ok(Some(Outcome::Pending { reference: new })) => {
                reference = Some(new);
                ask_first = true;
            }
            Ok(Some(ended)) => return Some(ended),
            Err(ProviderError::Refused(reason)) => {
                return Some(Outcome::Failed { reference, reason });
            }
            // Surely not taken: nothing has changed.
            Err(ProviderError::Unavailable(_)) => {}
            Err(ProviderError::Unknown(_)) => ask_first = true,
        }
    }
    None
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        Just(Fault::None),
        Just(Fault::CutBefore),
        Just(Fault::CutAfter),
        Just(Fault::ErrorBefore),
        Just(Fault::ErrorAfter),
        Just(Fault::Busy),
        Just(Fault::Garbled),
        Just(Fault::Oversized),
        Just(Fault::Moved),
        Just(Fault::Firewall),
        Just(Fault::Slow),
    ];
    prop::collection::vec(fault, 0..8)
}

/// Plays `script` against a provider, and gives how it ended and how often money moved.
fn play<R: Rules>(
    script: &[Fault],
    rules: R,
    (kind, credentials): (&str, &[u8]),
    payment: &Payment,
    moved: impl Fn(&mut R) -> usize,
) -> (Option<Outcome>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start(rules).await;
        server.script(script);
        let provider = providers(&server.url).of(kind, credentials).unwrap();
        let ended = pay(&provider, payment, "k-1").await;
        // Late requests arrive as well.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        (ended, server.rules(moved))
    })
}

fn judge(broke: bool, (ended, moved): (Option<Outcome>, usize)) -> Result<(), TestCaseError> {
    match ended {
        Some(Outcome::Paid { .. }) if !broke => prop_assert_eq!(moved, 1),
        Some(Outcome::Failed { .. }) if broke => prop_assert_eq!(moved, 0),
        other => prop_assert!(
            false,
            "it ended with {:?}, and money moved {} times",
            other,
            moved
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn stripe_is_paid_by_once(script in faults(), broke: bool) {
        let rules = stripe::Stripe { broke, ..stripe::Stripe::default() };
        let account = ("stripe_connect", STRIPE_CREDENTIALS);
        judge(broke, play(&script, rules, account, &to_stripe(), |rules| rules.transfers.len()))?;
    }

    #[test]
    fn paypal_is_paid_by_once(mut script in faults(), broke: bool, ended in prop::option::of(0_usize..8)) {
        if let Some(place) = ended {
            script.insert(place.min(script.len()), Fault::TokenEnded);
        }
        let rules = paypal::Paypal { token_seconds: 32_400, broke, at_once: true, ..paypal::Paypal::default() };
        let account = ("paypal", PAYPAL_CREDENTIALS);
        judge(broke, play(&script, rules, account, &to_paypal(), |rules| {
            (rules.batches.iter()).filter(|batch| batch["items"][0]["transaction_status"] == json!("SUCCESS")).count()
        }))?;
    }
}
