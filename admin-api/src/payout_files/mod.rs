//! Files of payments that a person gives to PayPal or to a bank.
//!
//! Each format is a pure function of payments, so the same payments make the same bytes. A payment that a format can't
//! carry exactly is refused, never changed: a file pays what the ledger says, or is not made.

mod bank_csv;
mod paypal_csv;
mod sepa;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::payouts::Payment;
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use sepa::Debtor;

/// Most payments of one file; PayPal takes no more.
pub(crate) const MAX_PAYMENTS: i64 = 5_000;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum FileFormat {
    /// For PayPal's page "Payouts".
    PaypalCsv,
    /// A SEPA credit transfer, ISO 20022 pain.001.001.09; euro only.
    Sepa,
    /// A plain table.
    BankCsv,
}

impl FileFormat {
    /// The kind of payout method that it carries.
    pub(crate) fn method_kind(self) -> &'static str {
        match self {
            Self::PaypalCsv => "paypal",
            Self::Sepa => "sepa",
            Self::BankCsv => "bank",
        }
    }

    /// What the file of this id is called.
    pub(crate) fn name(self, id: i64) -> String {
        let ending = match self {
            Self::PaypalCsv | Self::BankCsv => "csv",
            Self::Sepa => "xml",
        };
        format!("payouts-{id}.{ending}")
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::PaypalCsv | Self::BankCsv => "text/csv; charset=utf-8",
            Self::Sepa => "application/xml",
        }
    }
}

/// What a file is made of.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    /// In the order of their lines; at least one, all of one currency.
    pub payments: &'a [Payment],
}

/// A format, with what it needs besides payments.
#[derive(Debug)]
pub(crate) enum Form {
    PaypalCsv,
    Sepa(Transfer),
    BankCsv,
}

/// From where and when a bank is asked to send the money.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub debtor: Debtor,
    pub execution_date: NaiveDate,
}

/// Why a file can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Of one payment: it must be taken out, or its method changed.
    #[error("payout {payout_id}: {why}")]
    Payment { payout_id: Uuid, why: String },
    #[error("a file could not be written: {0}")]
    Writing(Box<dyn std::error::Error + Send + Sync>),
}

impl FileError {
    fn of(payment: &Payment, why: impl Into<String>) -> Self {
        Self::Payment {
            payout_id: payment.payout_id,
            why: why.into(),
        }
    }

    fn writing(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Writing(error.into())
    }

    /// A payment among those of another kind, which whoever chose them must not let in.
    fn kind(payment: &Payment) -> Self {
        Self::of(
            payment,
            format!(
                "it is not paid in this way, but by {}",
                payment.method.kind()
            ),
        )
    }
}

/// The file's bytes.
pub(crate) fn write(batch: &Batch<'_>, form: &Form) -> Result<Vec<u8>, FileError> {
    match form {
        Form::PaypalCsv => paypal_csv::write(batch),
        Form::Sepa(transfer) => sepa::write(batch, transfer),
        Form::BankCsv => bank_csv::write(batch),
    }
}

/// `text` in a cell: on one line, at most `longest` characters, and no formula.
fn cell(text: &str, longest: usize) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = crate::csv::harmless(line.trim());
    text.chars().take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_shared::money::Money;
    use tributary_shared::payouts::Method;

    /// Names that files must survive.
    pub(super) const HOSTILE: [&str; 7] = [
        "<script>&\"'</Nm>]]>",
        "Jürgen Größe-Öztürk",
        "Ana \u{1f600} Emoji",
        "two\r\nlines, \"quoted\"; and a\ttab",
        "=HYPERLINK(\"http://evil.example\")",
        "李明",
        "\u{202e}nigirO\u{0}\u{feff} a",
    ];

    pub(super) fn payment(
        number: u128,
        method: Method,
        amount: &str,
        currency: &str,
        text: &str,
    ) -> Payment {
        Payment {
            payout_id: Uuid::from_u128(number),
            affiliate_name: text.to_owned(),
            method,
            net: Money::parse(amount, currency).unwrap(),
            reference: text.to_owned(),
        }
    }

    pub(super) fn batch(payments: &[Payment]) -> Batch<'_> {
        Batch {
            id: 12,
            created_at: "2026-11-30T08:00:00.5Z".parse().unwrap(),
            payments,
        }
    }

    #[test]
    fn a_cell_is_one_line_and_no_formula() {
        assert_eq!(cell("=1+1", 140), "'=1+1");
        assert_eq!(cell("\t=1+1\r\n", 140), "'=1+1");
        assert_eq!(cell("a\nb", 140), "a b");
        assert_eq!(cell("-12.50", 140), "-12.50");
        assert_eq!(cell(&"ä".repeat(200), 140).chars().count(), 140);
    }
}
