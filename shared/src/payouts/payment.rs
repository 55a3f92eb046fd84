//! What is to be paid to somebody, as a file or a provider needs it.

use uuid::Uuid;

use super::Method;
use crate::money::Money;

/// One payout on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub payout_id: Uuid,
    /// Who gets it, as the tenant calls him.
    pub affiliate_name: String,
    pub method: Method,
    /// What is sent: the payout less fee and withheld tax. Never zero.
    pub net: Money,
    /// What the affiliate reads on his statement, such as "Demo shop, payout 2026-11".
    pub reference: String,
}
