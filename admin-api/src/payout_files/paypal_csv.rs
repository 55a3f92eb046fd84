//! PayPal's file of payouts, for its page "Payouts": no header; recipient, amount, currency, the payment's name, a note to
//! the recipient, the wallet. One currency a file.
//!
//! The payment's name (PayPal's "customer id") is the file's and the line's number, `12-3`: PayPal takes 30 characters,
//! which is less than a payout's id has. Amounts have a point; an account whose country writes a comma is told so by PayPal
//! when the file is uploaded.

use tributary_shared::payouts::{Method, paypal};

use super::{Batch, FileError, cell};

/// Longest note, in characters.
const MAX_NOTE_CHARS: usize = 400;

pub(super) fn write(batch: &Batch<'_>) -> Result<Vec<u8>, FileError> {
    let mut table = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for (line, payment) in (1..).zip(batch.payments) {
        let Method::Paypal { email } = &payment.method else {
            return Err(FileError::kind(payment));
        };
        // An apostrophe before it would be taken for a part of the address.
        if cell(email, usize::MAX) != *email {
            return Err(FileError::of(
                payment,
                "its e-mail address can't stand in a file",
            ));
        }
        let amount = paypal::amount(payment.net).map_err(|why| FileError::of(payment, why))?;
        let currency = payment.net.currency().code();
        let name = format!("{}-{line}", batch.id);
        let note = cell(&payment.reference, MAX_NOTE_CHARS);
        table
            .write_record([email.as_str(), &amount, currency, &name, &note, "PAYPAL"])
            .map_err(FileError::writing)?;
    }
    table
        .into_inner()
        .map_err(|error| FileError::writing(error.into_error()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HOSTILE, batch, payment};
    use super::*;

    fn to(email: &str) -> Method {
        Method::Paypal {
            email: email.to_owned(),
        }
    }

    fn written(amount: &str, currency: &str, email: &str) -> Result<String, String> {
        let payments = [payment(
            1,
            to(email),
            amount,
            currency,
            "Demo shop, payout 2026-11",
        )];
        let file = write(&batch(&payments)).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(file).unwrap())
    }

    #[test]
    fn a_line_is_what_paypal_reads() {
        assert_eq!(
            written("12.5", "USD", "ana@example.com").unwrap(),
            "ana@example.com,12.50,USD,12-1,\"Demo shop, payout 2026-11\",PAYPAL\r\n"
        );
        assert!(
            written("500", "JPY", "ana@example.com")
                .unwrap()
                .contains(",500,JPY,")
        );
        assert!(
            written("1.234", "KWD", "ana@example.com")
                .unwrap_err()
                .contains("does not send KWD")
        );
        assert!(
            written("1", "USD", "=1+1@example.com")
                .unwrap_err()
                .contains("e-mail address")
        );
    }

    #[test]
    fn hostile_notes_stay_in_their_cell() {
        let long = "x".repeat(200);
        let texts: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
        let payments: Vec<_> = (1..)
            .zip(&texts)
            .map(|(number, text)| payment(number, to("ana@example.com"), "1.00", "EUR", text))
            .collect();
        let file = write(&batch(&payments)).unwrap();
        assert_eq!(file.iter().filter(|b| **b == b'\n').count(), texts.len());
        let mut rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(file.as_slice());
        for (number, row) in rows.records().enumerate() {
            let row = row.unwrap();
            assert_eq!(row.len(), 6);
            assert_eq!(row.get(3).unwrap(), format!("12-{}", number + 1));
            let first = row.get(4).unwrap().chars().next().unwrap();
            assert!(!"=+-@\t\r".contains(first), "{row:?}");
        }
    }
}
