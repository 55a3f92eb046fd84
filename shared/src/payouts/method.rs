//! How an affiliate wants to be paid.
//!
//! [`Method::check`] refuses what a file or a provider could not carry, so that it is told to whoever writes it down and
//! not to whoever pays. Account numbers are shown by [`Method::masked`] alone; `Debug` shows no more than that.

use std::fmt;

use ::iban::{Iban, IbanLike as _};
use serde::{Deserialize, Serialize};

use super::latin;
use crate::countries::is_country;
use crate::reports::email;

/// Longest name of an account's holder, in characters: SEPA carries no more.
pub const MAX_HOLDER_CHARS: usize = 70;
/// Longest address of a PayPal account, in characters: PayPal takes no more.
const MAX_PAYPAL_EMAIL_CHARS: usize = 127;
/// Longest account number, bank code and bank name that are not SEPA's, in characters.
const MAX_ACCOUNT_CHARS: usize = 34;
const MAX_BANK_CODE_CHARS: usize = 35;
const MAX_BANK_NAME_CHARS: usize = 100;
/// Longest id of an account at Stripe behind `acct_`, in characters.
const MAX_STRIPE_ID_CHARS: usize = 64;
/// Longest note, in characters.
const MAX_NOTE_CHARS: usize = 500;
/// Shortest account number of which the last four characters are shown.
const MIN_SHOWN_CHARS: usize = 8;

/// Countries whose IBANs a SEPA credit transfer reaches (EPC409-09; Jersey, Guernsey and the Isle of Man have GB's).
const SEPA_COUNTRIES: &str = "\
    AD AL AT BE BG CH CY CZ DE DK EE ES FI FR GB GI GR HR HU IE IS IT LI LT LU LV MC MD ME MK MT NL NO PL PT RO RS SE SI SK SM VA";

/// Where an affiliate's money goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// What is wrong with it: fields, and what each must be. Empty: money can be sent there.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        match self {
            Self::Paypal { email } => check_paypal(&mut wrong, email),
            Self::Sepa { holder, iban, bic } => {
                check_holder(&mut wrong, holder);
                check_iban(&mut wrong, iban);
                if bic.as_ref().is_some_and(|bic| !is_bic(bic)) {
                    let told = "must be a BIC in upper case, such as DEUTDEFF or DEUTDEFF500";
                    wrong.push(("bic", told.to_owned()));
                }
            }
            Self::Bank {
                holder,
                account,
                bank_code,
                bank_name,
                country,
            } => {
                check_holder(&mut wrong, holder);
                check_number(&mut wrong, "account", account, MAX_ACCOUNT_CHARS);
                check_number(&mut wrong, "bank_code", bank_code, MAX_BANK_CODE_CHARS);
                check_text(&mut wrong, "bank_name", bank_name, MAX_BANK_NAME_CHARS);
                if !is_country(country) {
                    let told =
                        "must be a country of ISO 3166-1 as two upper case letters, such as US";
                    wrong.push(("country", told.to_owned()));
                }
            }
            Self::StripeConnect { account } => {
                let id = account.strip_prefix("acct_").unwrap_or_default();
                let plain = id.bytes().all(|b| b.is_ascii_alphanumeric());
                if !plain || !(1..=MAX_STRIPE_ID_CHARS).contains(&id.len()) {
                    let told =
                        "must be the id of a connected account, acct_ and letters and digits";
                    wrong.push(("account", told.to_owned()));
                }
            }
            Self::Manual { note } => check_text(&mut wrong, "note", note, MAX_NOTE_CHARS),
        }
        wrong
    }

    /// Enough for people to recognise it: of an account's number the last four characters.
    #[must_use]
    pub fn masked(&self) -> String {
        match self {
            Self::Paypal { email } => {
                let (local, domain) = email.rsplit_once('@').unwrap_or_default();
                let first: String = local.chars().take(1).collect();
                format!("{first}…@{domain}")
            }
            Self::Sepa { iban, .. } => last_four(iban),
            Self::Bank { account, .. } => last_four(account),
            Self::StripeConnect { account } => format!("acct_{}", last_four(account)),
            Self::Manual { .. } => "by hand".to_owned(),
        }
    }
}

/// What is not secret of it.
impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({}, {})", self.kind(), self.masked())
    }
}

/// An IBAN as files carry it, without spaces; none: its form, its length or its check digits are wrong.
#[must_use]
pub fn iban(text: &str) -> Option<String> {
    let iban: Iban = text.parse().ok()?;
    Some(iban.electronic_str().to_owned())
}

type Wrong = Vec<(&'static str, String)>;

fn check_paypal(wrong: &mut Wrong, address: &str) {
    let plausible = address.trim() == address && email::domain(address).is_some();
    if !plausible || address.chars().count() > MAX_PAYPAL_EMAIL_CHARS {
        let told = format!(
            "must be an e-mail address such as ana@example.com, of at most {MAX_PAYPAL_EMAIL_CHARS} characters"
        );
        wrong.push(("email", told));
    } else if address.starts_with(['=', '+', '-', '@']) {
        // In PayPal's file nothing may stand before the address to make it harmless.
        let told = "must not begin with =, + or -: a spreadsheet would take it for a formula";
        wrong.push(("email", told.to_owned()));
    }
}

fn check_holder(wrong: &mut Wrong, holder: &str) {
    check_text(wrong, "holder", holder, MAX_HOLDER_CHARS);
    let readable = latin(holder, MAX_HOLDER_CHARS);
    if !holder.trim().is_empty() && !readable.contains(|c: char| c.is_ascii_alphabetic()) {
        let told = "must hold letters that a bank can write";
        wrong.push(("holder", told.to_owned()));
    }
}

fn check_iban(wrong: &mut Wrong, text: &str) {
    let told = match iban(text) {
        None => "must be an IBAN, such as DE89 3704 0044 0532 0130 00, with its right check digits",
        Some(iban) if !(SEPA_COUNTRIES.split(' ')).any(|country| iban.starts_with(country)) => {
            "must be of a country that takes part in SEPA; choose method bank for others"
        }
        Some(_) => return,
    };
    wrong.push(("iban", told.to_owned()));
}

/// Bank, country, place and, in some, branch (ISO 9362).
fn is_bic(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    matches!(text.len(), 8 | 11) && text.bytes().all(plain) && is_country(&text[4..6])
}

/// A number as banks write one: nothing in it that a file or a spreadsheet reads otherwise.
fn check_number(wrong: &mut Wrong, field: &'static str, text: &str, longest: usize) {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-/ .".contains(&b);
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let (first, last) = (text.bytes().next(), text.bytes().last());
    if text.len() > longest || !text.bytes().all(inner) || !ends(first) || !ends(last) {
        let told = format!(
            "must be 1 to {longest} letters and digits, with -, /, . and spaces only between them"
        );
        wrong.push((field, told));
    }
}

fn check_text(wrong: &mut Wrong, field: &'static str, text: &str, longest: usize) {
    let characters = text.chars().count();
    if text.trim().is_empty() || characters > longest || text.chars().any(char::is_control) {
        let told = format!(
            "must be 1 to {longest} characters without line breaks and other control characters"
        );
        wrong.push((field, told));
    }
}

fn last_four(account: &str) -> String {
    let digits: Vec<char> = account.chars().filter(|c| c.is_alphanumeric()).collect();
    match digits.len() {
        MIN_SHOWN_CHARS.. => format!("…{}", digits[digits.len() - 4..].iter().collect::<String>()),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IBAN: &str = "DE89 3704 0044 0532 0130 00";

    fn sepa(holder: &str, iban: &str, bic: Option<&str>) -> Method {
        Method::Sepa {
            holder: holder.to_owned(),
            iban: iban.to_owned(),
            bic: bic.map(str::to_owned),
        }
    }

    fn bank(account: &str, bank_code: &str, country: &str) -> Method {
        Method::Bank {
            holder: "Ana Example".to_owned(),
            account: account.to_owned(),
            bank_code: bank_code.to_owned(),
            bank_name: "First Bank".to_owned(),
            country: country.to_owned(),
        }
    }

    fn paypal(email: &str) -> Method {
        Method::Paypal {
            email: email.to_owned(),
        }
    }

    fn stripe(account: &str) -> Method {
        Method::StripeConnect {
            account: account.to_owned(),
        }
    }

    fn manual(note: &str) -> Method {
        Method::Manual {
            note: note.to_owned(),
        }
    }

    fn fields(method: &Method) -> Vec<&'static str> {
        method.check().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn what_can_be_paid_passes() {
        for method in [
            paypal("ana+shop@example.com"),
            sepa("Jürgen Größe", IBAN, Some("COBADEFFXXX")),
            sepa("李明", "GB29NWBK60161331926819", None),
            bank("000123456789", "021000021", "US"),
            bank("12-34 56/7", "HBUKGB4B", "GB"),
            stripe("acct_1MTfjCQ9PRzxEwkZ"),
            manual("in cash, each quarter"),
        ] {
            assert_eq!(method.check(), [], "{method:?}");
        }
    }

    #[test]
    fn what_cannot_be_paid_names_its_field() {
        for address in [
            "",
            "ana",
            " ana@example.com",
            "ana@localhost",
            "=cmd@example.com",
            "+1@example.com",
            "-1@example.com",
            "a\n@example.com",
            &format!("{}@example.com", "a".repeat(120)),
        ] {
            assert_eq!(fields(&paypal(address)), ["email"], "{address:?}");
        }
        for iban in [
            "",
            "DE89 3704 0044 0532 0130 01", // check digits
            "DE893704004405320130",        // too short
            "de89370400440532013000",      // lower case
            "MR1300020001010000123456753", // right, but not of SEPA
            "DE89\u{a0}370400440532013000",
        ] {
            assert_eq!(fields(&sepa("Ana", iban, None)), ["iban"], "{iban:?}");
        }
        for bic in [
            "",
            "DEUTDEF",
            "deutdeff",
            "DEUT00FF",
            "DEUTUKFF",
            "DEUTDEFF50",
            "DEUTDEFF5éé",
        ] {
            assert_eq!(fields(&sepa("Ana", IBAN, Some(bic))), ["bic"], "{bic:?}");
        }
        for holder in ["", " ", "Ana\nB", "\u{1f600}", "123", &"a".repeat(71)] {
            assert_eq!(fields(&sepa(holder, IBAN, None)), ["holder"], "{holder:?}");
        }
        for account in ["", "=1+1", "-1", "1-", "1'2", "1\n2", "äb", &"1".repeat(35)] {
            assert_eq!(
                fields(&bank(account, "021000021", "US")),
                ["account"],
                "{account:?}"
            );
        }
        assert_eq!(fields(&bank("1", "@x", "UK")), ["bank_code", "country"]);
        for account in [
            "",
            "acct_",
            "acct_1/../x",
            "ACCT_1",
            "ca_123",
            &format!("acct_{}", "a".repeat(65)),
        ] {
            assert_eq!(fields(&stripe(account)), ["account"], "{account:?}");
        }
        for note in ["", "a\u{0}", &"a".repeat(501)] {
            assert_eq!(fields(&manual(note)), ["note"], "{note:?}");
        }
    }

    #[test]
    fn an_account_is_shown_by_its_end() {
        let cases = [
            (paypal("ana@example.com"), "a…@example.com"),
            (sepa("Ana", IBAN, None), "…3000"),
            (bank("000123456789", "1", "US"), "…6789"),
            (bank("1234567", "1", "US"), "…"),
            (stripe("acct_1MTfjCQ9PRzxEwkZ"), "acct_…EwkZ"),
            (manual("IBAN DE89370400440532013000"), "by hand"),
        ];
        for (method, shown) in cases {
            assert_eq!(method.masked(), shown);
            assert_eq!(
                format!("{method:?}"),
                format!("Method({}, {shown})", method.kind())
            );
        }
    }

    #[test]
    fn it_is_stored_with_its_kind() {
        let text = r#"{"kind":"sepa","holder":"Ana","iban":"DE89370400440532013000"}"#;
        let method: Method = serde_json::from_str(text).unwrap();
        assert_eq!(method, sepa("Ana", "DE89370400440532013000", None));
        assert_eq!(serde_json::to_string(&method).unwrap(), text);
        assert_eq!(iban(IBAN).as_deref(), Some("DE89370400440532013000"));
        for unknown in [
            r#"{"kind":"cheque"}"#,
            r#"{"kind":"manual","note":"a","x":1}"#,
        ] {
            assert!(
                serde_json::from_str::<Method>(unknown).is_err(),
                "{unknown}"
            );
        }
    }

    proptest! {
        /// Of what passes, nothing in a cell of a file is a formula, and each line is one.
        #[test]
        fn what_passes_is_harmless(text in "\\PC{0,20}|[=+@\\-\\n]?[a-z0-9]{1,8}(@x\\.example)?") {
            for method in [paypal(&text), bank(&text, &text, "US"), sepa(&text, IBAN, None)] {
                let passed = method.check().is_empty();
                let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
                let is_cell = !matches!(method, Method::Sepa { .. });
                prop_assert!(!(passed && is_cell && formula));
                prop_assert!(!(passed && text.contains('\n')));
                let _ = method.masked();
            }
        }
    }
}
