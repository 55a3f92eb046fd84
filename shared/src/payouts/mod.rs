//! Payouts: how an affiliate is paid, and what a payment is, as all who have to do with one see it.

mod method;
mod payment;

pub use method::Method;
pub use payment::Payment;
