//! Payouts: how an affiliate is paid, what a tenant takes for it, and what a payment is, as all who have to do with one see it.

mod latin;
mod method;
mod payment;
pub mod paypal;
mod terms;

use chrono::TimeDelta;

pub use latin::latin;
pub use method::{MAX_HOLDER_CHARS, Method, iban};
pub use payment::Payment;
pub use terms::{Fee, MAX_TERMS, Split, Terms};

/// How long a provider surely remembers the key under which it was given a payout. Until then the product asks, or gives it
/// again under the same key; later a person has to look at the provider and say what became of it.
pub const KEYS_LAST: TimeDelta = TimeDelta::days(25);
