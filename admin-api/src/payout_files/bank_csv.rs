//! A plain table of payments to banks anywhere, for whoever types them in or turns them into the bank's own form.

use tributary_shared::payouts::Method;

use super::{Batch, FileError, cell};

/// Longest cell, in characters.
const MAX_CELL_CHARS: usize = 200;

pub(super) fn write(batch: &Batch<'_>) -> Result<Vec<u8>, FileError> {
    let mut table = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let columns = [
        "payout_id",
        "holder",
        "account",
        "bank_code",
        "bank_name",
        "country",
        "amount",
        "currency",
        "reference",
    ];
    table.write_record(columns).map_err(FileError::writing)?;
    for payment in batch.payments {
        let Method::Bank {
            holder,
            account,
            bank_code,
            bank_name,
            country,
        } = &payment.method
        else {
            return Err(FileError::kind(payment));
        };
        let (id, amount) = (
            payment.payout_id.to_string(),
            payment.net.amount().to_string(),
        );
        let row = [
            &id,
            holder,
            account,
            bank_code,
            bank_name,
            country,
            &amount,
            payment.net.currency().code(),
            payment.reference.as_str(),
        ];
        table
            .write_record(row.map(|text| cell(text, MAX_CELL_CHARS)))
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

    fn to(holder: &str) -> Method {
        Method::Bank {
            holder: holder.to_owned(),
            account: "000123456789".to_owned(),
            bank_code: "021000021".to_owned(),
            bank_name: "First Bank".to_owned(),
            country: "US".to_owned(),
        }
    }

    #[test]
    fn a_row_holds_all_that_a_bank_asks_for() {
        let payments = [
            payment(1, to("Ana Example"), "12.5", "USD", "November"),
            payment(2, to("Ana Example"), "500", "JPY", "November"),
            payment(3, to("Ana Example"), "1.234", "KWD", "November"),
        ];
        let file = String::from_utf8(write(&batch(&payments)).unwrap()).unwrap();
        assert_eq!(
            file,
            "payout_id,holder,account,bank_code,bank_name,country,amount,currency,reference\r\n\
             00000000-0000-0000-0000-000000000001,Ana Example,000123456789,021000021,First Bank,US,12.50,USD,November\r\n\
             00000000-0000-0000-0000-000000000002,Ana Example,000123456789,021000021,First Bank,US,500,JPY,November\r\n\
             00000000-0000-0000-0000-000000000003,Ana Example,000123456789,021000021,First Bank,US,1.234,KWD,November\r\n"
        );
    }

    #[test]
    fn hostile_names_stay_in_their_cell() {
        let long = "ü".repeat(200);
        let texts: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
        let payments: Vec<_> = (1..)
            .zip(&texts)
            .map(|(number, text)| payment(number, to(text), "1.00", "EUR", text))
            .collect();
        let file = write(&batch(&payments)).unwrap();
        let mut rows = csv::Reader::from_reader(file.as_slice());
        let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), texts.len());
        for (row, text) in rows.iter().zip(texts) {
            assert!(
                row.iter()
                    .all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])),
                "{row:?}"
            );
            assert!(
                row.iter().all(|cell| !cell.contains(char::is_control)),
                "{row:?}"
            );
            let kept = row.get(1).unwrap().trim_start_matches('\'');
            let letters = |text: &str| {
                text.chars()
                    .filter(|c| c.is_alphanumeric())
                    .collect::<String>()
            };
            assert_eq!(letters(kept), letters(text));
        }
    }
}
