//! A SEPA credit transfer, ISO 20022 `pain.001.001.09`: the version that SEPA's rulebooks ask for since 2023. One batch, in
//! euro, from the tenant's own account.
//!
//! The end-to-end id, which comes back on every bank's statement, is the payout's id without its dashes (32 of 35
//! characters). Names and references are put into SEPA's letters (`shared/src/payouts/latin.rs`). Where a BIC is not known the
//! bank finds it by the IBAN.

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use rust_decimal::{Decimal, dec};
use tributary_shared::payouts::{MAX_HOLDER_CHARS, Method, Payment, iban, latin};

use super::{Batch, FileError, Transfer};

const NAMESPACE: &str = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09";
const CURRENCY: &str = "EUR";
/// Largest amount of one transfer.
const MAX_AMOUNT: Decimal = dec!(999_999_999.99);
/// Longest reference, in characters.
const MAX_REFERENCE_CHARS: usize = 140;

/// The account that the money comes from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Debtor {
    pub holder: String,
    pub iban: String,
    pub bic: Option<String>,
}

/// One payment in the form of the file.
struct Line<'a> {
    id: String,
    amount: Decimal,
    name: String,
    iban: String,
    bic: Option<&'a str>,
    reference: String,
}

pub(super) fn write(batch: &Batch<'_>, transfer: &Transfer) -> Result<Vec<u8>, FileError> {
    let lines: Vec<Line<'_>> = batch.payments.iter().map(line).collect::<Result<_, _>>()?;
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    document(&mut xml, batch, transfer, &lines).map_err(FileError::writing)?;
    let mut bytes = xml.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

fn line(payment: &Payment) -> Result<Line<'_>, FileError> {
    let wrong = |why: &str| FileError::of(payment, why);
    let Method::Sepa {
        holder,
        iban: account,
        bic,
    } = &payment.method
    else {
        return Err(FileError::kind(payment));
    };
    let amount = payment.net.amount();
    if payment.net.currency().code() != CURRENCY {
        return Err(wrong("a SEPA credit transfer is in euro"));
    }
    if amount <= Decimal::ZERO || amount > MAX_AMOUNT {
        return Err(wrong(
            "a SEPA credit transfer is of 0.01 to 999999999.99 euro",
        ));
    }
    let name = latin(holder, MAX_HOLDER_CHARS);
    if name.is_empty() {
        return Err(wrong(
            "its holder's name has no letter that a bank can read",
        ));
    }
    Ok(Line {
        id: payment.payout_id.simple().to_string(),
        amount,
        name,
        iban: iban(account).ok_or_else(|| wrong("its IBAN is not one"))?,
        bic: bic.as_deref(),
        reference: latin(&payment.reference, MAX_REFERENCE_CHARS),
    })
}

type Xml = Writer<Vec<u8>>;

fn document(
    xml: &mut Xml,
    batch: &Batch<'_>,
    transfer: &Transfer,
    lines: &[Line<'_>],
) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let root = xml
        .create_element("Document")
        .with_attribute(("xmlns", NAMESPACE));
    root.write_inner_content(|xml| {
        element(xml, "CstmrCdtTrfInitn", |xml| {
            header(xml, batch, transfer, lines)?;
            payments(xml, batch, transfer, lines)
        })
    })?;
    Ok(())
}

/// The whole file: who made it, when, and what it sums to.
fn header(
    xml: &mut Xml,
    batch: &Batch<'_>,
    transfer: &Transfer,
    lines: &[Line<'_>],
) -> io::Result<()> {
    element(xml, "GrpHdr", |xml| {
        text(xml, "MsgId", &batch_name(batch))?;
        text(
            xml,
            "CreDtTm",
            &batch.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )?;
        totals(xml, lines)?;
        element(xml, "InitgPty", |xml| {
            text(xml, "Nm", &debtor_name(transfer))
        })
    })
}

/// One order to the bank: from which account, on which day, and each payment.
fn payments(
    xml: &mut Xml,
    batch: &Batch<'_>,
    transfer: &Transfer,
    lines: &[Line<'_>],
) -> io::Result<()> {
    element(xml, "PmtInf", |xml| {
        text(xml, "PmtInfId", &batch_name(batch))?;
        text(xml, "PmtMtd", "TRF")?;
        totals(xml, lines)?;
        element(xml, "PmtTpInf", |xml| {
            element(xml, "SvcLvl", |xml| text(xml, "Cd", "SEPA"))
        })?;
        let day = transfer.execution_date.to_string();
        element(xml, "ReqdExctnDt", |xml| text(xml, "Dt", &day))?;
        element(xml, "Dbtr", |xml| text(xml, "Nm", &debtor_name(transfer)))?;
        account(xml, "DbtrAcct", &transfer.debtor.iban)?;
        element(xml, "DbtrAgt", |xml| {
            element(xml, "FinInstnId", |xml| match &transfer.debtor.bic {
                Some(bic) => text(xml, "BICFI", bic),
                // The element must be there.
                None => element(xml, "Othr", |xml| text(xml, "Id", "NOTPROVIDED")),
            })
        })?;
        text(xml, "ChrgBr", "SLEV")?; // each side pays its own bank: SEPA allows nothing else
        lines.iter().try_for_each(|line| payment(xml, line))
    })
}

fn payment(xml: &mut Xml, line: &Line<'_>) -> io::Result<()> {
    element(xml, "CdtTrfTxInf", |xml| {
        element(xml, "PmtId", |xml| text(xml, "EndToEndId", &line.id))?;
        element(xml, "Amt", |xml| {
            let amount = xml
                .create_element("InstdAmt")
                .with_attribute(("Ccy", CURRENCY));
            amount.write_text_content(BytesText::new(&line.amount.to_string()))?;
            Ok(())
        })?;
        if let Some(bic) = line.bic {
            element(xml, "CdtrAgt", |xml| {
                element(xml, "FinInstnId", |xml| text(xml, "BICFI", bic))
            })?;
        }
        element(xml, "Cdtr", |xml| text(xml, "Nm", &line.name))?;
        account(xml, "CdtrAcct", &line.iban)?;
        if line.reference.is_empty() {
            return Ok(());
        }
        element(xml, "RmtInf", |xml| text(xml, "Ustrd", &line.reference))
    })
}

/// How many payments there are, and their sum, which the bank compares.
fn totals(xml: &mut Xml, lines: &[Line<'_>]) -> io::Result<()> {
    let sum: Decimal = lines.iter().map(|line| line.amount).sum();
    text(xml, "NbOfTxs", &lines.len().to_string())?;
    text(xml, "CtrlSum", &sum.to_string())
}

fn account(xml: &mut Xml, name: &str, iban: &str) -> io::Result<()> {
    element(xml, name, |xml| {
        element(xml, "Id", |xml| text(xml, "IBAN", iban))
    })
}

fn batch_name(batch: &Batch<'_>) -> String {
    format!("payouts-{}", batch.id)
}

fn debtor_name(transfer: &Transfer) -> String {
    latin(&transfer.debtor.holder, MAX_HOLDER_CHARS)
}

fn element<W: Write>(
    xml: &mut Writer<W>,
    name: &str,
    content: impl FnOnce(&mut Writer<W>) -> io::Result<()>,
) -> io::Result<()> {
    xml.create_element(name).write_inner_content(content)?;
    Ok(())
}

fn text<W: Write>(xml: &mut Writer<W>, name: &str, value: &str) -> io::Result<()> {
    xml.create_element(name)
        .write_text_content(BytesText::new(value))?;
    Ok(())
}

impl std::fmt::Debug for Debtor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Debtor(secret)")
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::tests::{HOSTILE, batch, payment};
    use super::*;

    const SCHEMA: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/pain.001.001.09.xsd"
    );

    fn to(holder: &str, bic: Option<&str>) -> Method {
        Method::Sepa {
            holder: holder.to_owned(),
            iban: "DE89 3704 0044 0532 0130 00".to_owned(),
            bic: bic.map(str::to_owned),
        }
    }

    fn transfer(holder: &str, bic: Option<&str>) -> Transfer {
        Transfer {
            debtor: Debtor {
                holder: holder.to_owned(),
                iban: "NL91ABNA0417164300".to_owned(),
                bic: bic.map(str::to_owned),
            },
            execution_date: "2026-12-01".parse().unwrap(),
        }
    }

    /// What the official schema has against it; empty: nothing.
    fn complaints(file: &[u8]) -> String {
        let mut validator = Command::new("xmllint")
            .args(["--nonet", "--noout", "--schema", SCHEMA, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("xmllint, which deploy/local/setup.sh installs");
        validator.stdin.take().unwrap().write_all(file).unwrap();
        let done = validator.wait_with_output().unwrap();
        match done.status.success() {
            true => String::new(),
            false => String::from_utf8(done.stderr).unwrap(),
        }
    }

    fn refused(method: Method, amount: &str, currency: &str) -> String {
        let payments = [payment(1, method, amount, currency, "November")];
        write(&batch(&payments), &transfer("Demo shop", None))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_file_is_as_its_schema_says_and_adds_up() {
        let payments = [
            payment(
                1,
                to("Ana Example", Some("COBADEFFXXX")),
                "12.5",
                "EUR",
                "Demo shop, payout 2026-11",
            ),
            payment(
                u128::MAX,
                to("Jürgen Größe", None),
                "0.01",
                "EUR",
                "Demo shop, payout 2026-11",
            ),
        ];
        let file = write(
            &batch(&payments),
            &transfer("Müller & Söhne", Some("ABNANL2A")),
        )
        .unwrap();
        assert_eq!(complaints(&file), "");
        insta::assert_snapshot!(String::from_utf8(file).unwrap());
    }

    #[test]
    fn hostile_names_make_a_file_that_banks_read() {
        let long = "Ü".repeat(200);
        let texts: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
        let payments: Vec<Payment> = (1..)
            .zip(&texts)
            .map(|(number, text)| payment(number, to(text, None), "999999999.99", "EUR", text))
            .collect();
        for holder in &texts {
            let file = write(&batch(&payments), &transfer(holder, None)).unwrap();
            assert_eq!(complaints(&file), "", "{holder}");
            let file = String::from_utf8(file).unwrap();
            assert!(file.is_ascii());
            assert!(file.contains("<NbOfTxs>8</NbOfTxs>"));
            assert!(file.contains("<CtrlSum>7999999999.92</CtrlSum>"));
        }
    }

    #[test]
    fn the_validator_finds_what_is_wrong() {
        let payments = [payment(1, to("Ana", None), "1.00", "EUR", "November")];
        let file =
            String::from_utf8(write(&batch(&payments), &transfer("Demo", None)).unwrap()).unwrap();
        for (right, wrong) in [
            ("DE89", "de89"),
            ("<NbOfTxs>1</NbOfTxs>", ""),
            ("Ccy=\"EUR\"", ""),
        ] {
            assert!(file.contains(right));
            assert_ne!(
                complaints(file.replace(right, wrong).as_bytes()),
                "",
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_a_transfer_cannot_carry_is_refused() {
        assert!(refused(to("Ana", None), "500", "JPY").contains("in euro"));
        assert!(refused(to("Ana", None), "1.234", "KWD").contains("in euro"));
        assert!(refused(to("Ana", None), "1000000000", "EUR").contains("999999999.99"));
        assert!(refused(to("\u{1f600}", None), "1", "EUR").contains("no letter"));
        let wrong = Method::Sepa {
            holder: "Ana".to_owned(),
            iban: "DE89370400440532013001".to_owned(),
            bic: None,
        };
        assert!(refused(wrong, "1", "EUR").contains("IBAN"));
        let by_hand = Method::Manual {
            note: "in cash".to_owned(),
        };
        assert!(refused(by_hand, "1", "EUR").contains("but by manual"));
    }
}
