//! Payouts: how an affiliate is paid, and what a payment is, as all who have to do with one see it.

mod latin;
mod method;
mod payment;
pub mod paypal;

pub use latin::latin;
pub use method::{MAX_HOLDER_CHARS, Method, iban};
pub use payment::Payment;
