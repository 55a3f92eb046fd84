//! How an affiliate wants to be paid.

use serde::{Deserialize, Serialize};

/// Where an affiliate's money goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// To a PayPal account.
    Paypal { email: String },
    /// By a SEPA credit transfer; euro only.
    Sepa {
        holder: String,
        iban: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bic: Option<String>,
    },
    /// To an account at a bank anywhere, by a file that the tenant gives its own bank.
    Bank {
        holder: String,
        account: String,
        /// The bank's: a BIC, a routing number, a sort code.
        bank_code: String,
        bank_name: String,
        /// ISO 3166, two letters.
        country: String,
    },
    /// To an account that is connected to the tenant's at Stripe, `acct_…`.
    StripeConnect { account: String },
    /// By hand, as the note says.
    Manual { note: String },
}

impl Method {
    /// As `kind` says it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Paypal { .. } => "paypal",
            Self::Sepa { .. } => "sepa",
            Self::Bank { .. } => "bank",
            Self::StripeConnect { .. } => "stripe_connect",
            Self::Manual { .. } => "manual",
        }
    }
}
