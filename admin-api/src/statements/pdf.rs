//! A statement on paper: A4, lying; in each currency the balances, what changed them, the payouts, each movement.
//!
//! It shows nothing that may change once the period is over, but names. (What a commission is taken of, and an order's
//! products, are as they are known today: those stand in the JSON and the CSV.)

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;

use super::balance::Accounts;
use super::paper::{About, HEIGHT, Ink, Paper, PaperError, Style, WIDTH, Weight};
use super::{Movement, Section, Statement};
use crate::amounts;

/// In tenths of a point.
const MARGIN: i32 = 450;
const INNER_WIDTH: i32 = WIDTH - 2 * MARGIN;
/// Where tables end at the latest.
const LOWEST: i32 = HEIGHT - 520;
const FOOT: i32 = HEIGHT - 300;
const ROW: i32 = 140;
const HEAD: i32 = 180;
/// From a row's upper edge to the line on which its text stands.
const BASELINE: i32 = 98;
const CELL_SPACE: i32 = 50;
/// The smallest text; an amount that is wider than its column is made smaller, never cut.
const SMALLEST: i32 = 35;

const fn style(weight: Weight, size: i32, ink: Ink) -> Style {
    Style { weight, size, ink }
}

const NAME: Style = style(Weight::Bold, 200, Ink::Black);
const TITLE: Style = style(Weight::Regular, 130, Ink::Gray);
const HEADING: Style = style(Weight::Bold, 110, Ink::Black);
const LABEL: Style = style(Weight::Regular, 75, Ink::Gray);
const VALUE: Style = style(Weight::Bold, 90, Ink::Black);
const TEXT: Style = style(Weight::Regular, 76, Ink::Black);
const STRONG: Style = style(Weight::Bold, 76, Ink::Black);
const NOTE: Style = style(Weight::Regular, 76, Ink::Gray);

/// A column of a table; `right`: its cells end at its right edge.
struct Column {
    title: &'static str,
    width: i32,
    right: bool,
}

const fn left(title: &'static str, width: i32) -> Column {
    Column {
        title,
        width,
        right: false,
    }
}

const fn right(title: &'static str, width: i32) -> Column {
    Column {
        title,
        width,
        right: true,
    }
}

const BALANCES: [Column; 4] = [
    left("Account", 4370),
    right("Opening balance", 1050),
    right("Change", 1050),
    right("Closing balance", 1050),
];
const CHANGES: [Column; 7] = [
    left("What changed", 1520),
    right("Movements", 1000),
    right("Pending", 1000),
    right("Available", 1000),
    right("In payout", 1000),
    right("Debt", 1000),
    right("Paid", 1000),
];
const PAYOUTS: [Column; 8] = [
    left("Date", 700),
    left("Reference", 2300),
    left("Method", 920),
    left("State", 800),
    right("Gross", 700),
    right("Fee", 700),
    right("Tax withheld", 700),
    right("Net", 700),
];
const MOVEMENTS: [Column; 10] = [
    left("Date", 560),
    left("Order", 1480),
    left("Program", 1180),
    left("Part", 680),
    left("What changed", 720),
    right("Pending", 580),
    right("Available", 580),
    right("In payout", 580),
    right("Debt", 580),
    right("Paid", 580),
];

/// The statement as a PDF: the same bytes for the same statement.
pub(crate) fn write(statement: &Statement) -> Result<Vec<u8>, PaperError> {
    let about = About {
        title: title(statement),
        author: statement.tenant.clone(),
        made_at: statement.period.to,
    };
    let mut sheet = Sheet {
        paper: Paper::new(about)?,
        statement,
        y: 0,
    };
    sheet.first_page();
    if statement.sections.is_empty() {
        let nothing = "Nothing was earned, owed or paid in this period.";
        sheet.paper.text(TEXT, MARGIN, sheet.y + BASELINE, nothing);
    }
    for (number, section) in statement.sections.iter().enumerate() {
        if number > 0 {
            sheet.next_page();
        }
        sheet.section(section);
    }
    sheet.foot();
    sheet.paper.finish()
}

/// What the file and its pages are called.
fn title(statement: &Statement) -> String {
    let Statement {
        tenant, affiliate, ..
    } = statement;
    let (from, to) = (statement.first_day(), statement.last_day());
    format!("Commission statement of {tenant} for {affiliate}, {from} to {to}")
}

struct Sheet<'s> {
    paper: Paper,
    statement: &'s Statement,
    /// Where the next thing begins.
    y: i32,
}

impl Sheet<'_> {
    fn first_page(&mut self) {
        self.paper.add_page();
        let of = self.statement;
        let edge = WIDTH - MARGIN;
        let name = self.paper.cut(NAME, &of.tenant, INNER_WIDTH - 2200);
        self.paper.text(NAME, MARGIN, 600, &name);
        self.paper
            .text_up_to(TITLE, edge, 600, "Commission statement");
        self.paper.fill(Ink::Black, MARGIN, 690, INNER_WIDTH, 12);
        let days = format!("{} – {}", long(of.first_day()), long(of.last_day()));
        let state = if of.is_final {
            "Final: the period is over"
        } else {
            "Provisional: the period is not over yet"
        };
        let affiliate = match &of.email {
            Some(email) => format!("No. {} · {email}", of.affiliate_id),
            None => format!("No. {}", of.affiliate_id),
        };
        let facts = [
            ("Affiliate", &of.affiliate, affiliate, 3760),
            (
                "Period",
                &days,
                format!("Days of {}", of.zone().name()),
                3760,
            ),
        ];
        let mut x = MARGIN;
        for (label, value, below, width) in facts {
            let room = width - 2 * CELL_SPACE;
            self.paper.text(LABEL, x, 850, label);
            let value = self.paper.cut(VALUE, value, room);
            self.paper.text(VALUE, x, 970, &value);
            let below = self.paper.cut(NOTE, &below, room);
            self.paper.text(NOTE, x, 1080, &below);
            x += width;
        }
        self.paper.text_up_to(STRONG, edge, 850, state);
        self.y = 1260;
    }

    fn next_page(&mut self) {
        self.paper.add_page();
        let of = self.statement;
        let half = INNER_WIDTH / 2 - CELL_SPACE;
        let tenant = self.paper.cut(STRONG, &of.tenant, half);
        self.paper.text(STRONG, MARGIN, 470, &tenant);
        let days = format!(" · {} to {}", of.first_day(), of.last_day());
        let room = half - self.paper.width(NOTE, &days);
        let affiliate = self.paper.cut(NOTE, &of.affiliate, room);
        let whose = format!("{affiliate}{days}");
        self.paper.text_up_to(NOTE, WIDTH - MARGIN, 470, &whose);
        self.paper.fill(Ink::Black, MARGIN, 530, INNER_WIDTH, 6);
        self.y = 660;
    }

    fn foot(&mut self) {
        let pages = self.paper.pages();
        let state = if self.statement.is_final {
            ""
        } else {
            "Provisional. "
        };
        let zone = self.statement.zone().name();
        let left = format!(
            "{state}Days are those of {zone}. Debt: what was paid and taken back since; the next payout is less by it."
        );
        for page in 0..pages {
            self.paper.turn_to(page);
            self.paper
                .fill(Ink::Light, MARGIN, FOOT - 110, INNER_WIDTH, 4);
            self.paper.text(LABEL, MARGIN, FOOT, &left);
            let number = format!("Page {} of {pages}", page + 1);
            self.paper.text_up_to(LABEL, WIDTH - MARGIN, FOOT, &number);
        }
    }

    fn section(&mut self, section: &Section) {
        self.heading(&format!("Balances in {}", section.currency), 7);
        self.balances(section);
        if !section.changes.is_empty() {
            self.heading("What changed", 3);
            self.changes(section);
        }
        if !section.payouts.is_empty() {
            self.heading("Payouts", 3);
            self.payouts(section);
        }
        if !section.movements.is_empty() {
            self.heading(&format!("Movements in {}", section.currency), 4);
            self.movements(section);
        }
    }

    /// A heading above a table, of which `rows` stand on the same page.
    fn heading(&mut self, text: &str, rows: i32) {
        if self.y + 300 + HEAD + rows * ROW > LOWEST {
            self.next_page();
        }
        self.paper.text(HEADING, MARGIN, self.y + 110, text);
        self.y += 200;
    }

    fn head(&mut self, columns: &[Column]) {
        self.paper
            .fill(Ink::Faint, MARGIN, self.y, INNER_WIDTH, HEAD);
        let titles: Vec<String> = columns.iter().map(|c| c.title.to_owned()).collect();
        self.cells(columns, &titles, STRONG, self.y + BASELINE + 18);
        self.y += HEAD;
    }

    /// A row of a table; on a new page where this one is full, below the table's head once more.
    fn row(&mut self, columns: &[Column], cells: &[String], style: Style) {
        if self.y + ROW > LOWEST {
            self.next_page();
            self.head(columns);
        }
        self.cells(columns, cells, style, self.y + BASELINE);
        self.y += ROW;
    }

    fn cells(&mut self, columns: &[Column], cells: &[String], style: Style, y: i32) {
        let mut x = MARGIN;
        for (column, cell) in columns.iter().zip(cells) {
            let room = column.width - CELL_SPACE;
            if column.right {
                let mut style = style;
                while style.size > SMALLEST && self.paper.width(style, cell) > room {
                    style.size -= 5;
                }
                let edge = x + column.width - CELL_SPACE / 2;
                self.paper.text_up_to(style, edge, y, cell);
            } else {
                let cell = self.paper.cut(style, cell, room);
                self.paper.text(style, x + CELL_SPACE / 2, y, &cell);
            }
            x += column.width;
        }
    }

    fn rule(&mut self, ink: Ink) {
        self.paper.fill(ink, MARGIN, self.y, INNER_WIDTH, 4);
    }

    /// The last row of a table, which sums it up.
    fn total(&mut self, columns: &[Column], cells: &[String]) {
        if self.y + ROW + 20 > LOWEST {
            self.next_page();
            self.head(columns);
        }
        self.rule(Ink::Black);
        self.y += 14;
        self.row(columns, cells, STRONG);
        self.y += 160;
    }

    fn note(&mut self, text: &str) {
        if self.y + ROW > LOWEST {
            self.next_page();
        }
        self.paper
            .text(NOTE, MARGIN + CELL_SPACE / 2, self.y + BASELINE, text);
        self.y += ROW;
    }

    fn balances(&mut self, section: &Section) {
        self.head(&BALANCES);
        let (opening, closing) = (&section.opening, &section.closing);
        let money = |amount| money(amount, &section.currency);
        let row = |name: &str, from: Decimal, to: Decimal| {
            vec![name.to_owned(), money(from), money(to - from), money(to)]
        };
        let rows = [
            (
                "Pending: earned and on hold",
                opening.pending,
                closing.pending,
            ),
            (
                "Available: approved and not paid yet",
                opening.available,
                closing.available,
            ),
            (
                "In payout: on its way",
                opening.in_payout,
                closing.in_payout,
            ),
            (
                "Debt: paid and taken back since",
                opening.clawback,
                closing.clawback,
            ),
        ];
        for (name, from, to) in rows {
            self.row(&BALANCES, &row(name, from, to), TEXT);
        }
        self.total(&BALANCES, &row("Owed", opening.owed(), closing.owed()));
        self.y -= 160;
        let paid = row("Paid, since the beginning", opening.paid, closing.paid);
        self.row(&BALANCES, &paid, NOTE);
        self.y += 160;
    }

    fn changes(&mut self, section: &Section) {
        self.head(&CHANGES);
        let (mut sum, mut postings) = (Accounts::default(), 0);
        let row = |what: String, postings: i64, amounts: &Accounts| {
            let mut cells = vec![what, grouped(&postings.to_string())];
            cells.extend(five(amounts, &section.currency));
            cells
        };
        for change in &section.changes {
            sum += change.amounts;
            postings += change.postings;
            let cells = row(words(&change.reason), change.postings, &change.amounts);
            self.row(&CHANGES, &cells, TEXT);
        }
        self.total(&CHANGES, &row("All changes".to_owned(), postings, &sum));
    }

    fn payouts(&mut self, section: &Section) {
        self.head(&PAYOUTS);
        let money = |amount| money(amount, &section.currency);
        let mut paid = [Decimal::ZERO; 4];
        for payout in &section.payouts {
            let amounts = [payout.gross, payout.fee, payout.withheld, payout.net];
            if payout.state == "paid" {
                for (sum, amount) in paid.iter_mut().zip(amounts) {
                    *sum += amount;
                }
            }
            let mut cells = vec![
                self.day(payout.at),
                payout.reference.clone(),
                method(&payout.method).to_owned(),
                words(&payout.state),
            ];
            cells.extend(amounts.map(money));
            self.row(&PAYOUTS, &cells, TEXT);
        }
        if section.payouts_left_out > 0 {
            let left_out = grouped(&section.payouts_left_out.to_string());
            self.note(&format!(
                "{left_out} more are not listed here. The statement as CSV has all of them."
            ));
            self.y += 160;
            return;
        }
        let mut cells = vec![
            "Paid".to_owned(),
            String::new(),
            String::new(),
            String::new(),
        ];
        cells.extend(paid.map(money));
        self.total(&PAYOUTS, &cells);
    }

    fn movements(&mut self, section: &Section) {
        self.head(&MOVEMENTS);
        let mut before: Option<&Movement> = None;
        for movement in &section.movements {
            let same = before.is_some_and(|b| b.commission_id == movement.commission_id);
            if !same && before.is_some() {
                self.rule(Ink::Light);
            }
            // What a commission is about stands beside its first movement, and again on top of a page.
            let named = !same || self.y + ROW > LOWEST;
            let once = |text: String| if named { text } else { String::new() };
            let Movement {
                order_id, event, ..
            } = movement;
            let mut cells = vec![
                self.day(movement.posted_at),
                once(format!("{order_id} ({event})")),
                once(movement.program.clone()),
                once(words(&movement.part)),
                words(&movement.reason),
            ];
            cells.extend(five(&movement.amounts, &section.currency));
            self.row(&MOVEMENTS, &cells, TEXT);
            before = Some(movement);
        }
        let left_out = section.movements_left_out();
        if left_out > 0 {
            let left_out = grouped(&left_out.to_string());
            self.note(&format!("{left_out} more movements are not listed here. The statement as CSV has all of them."));
        }
        let mut cells = vec![String::new(); 5];
        "All movements".clone_into(&mut cells[1]);
        let mut sum = Accounts::default();
        section
            .changes
            .iter()
            .for_each(|change| sum += change.amounts);
        cells.extend(five(&sum, &section.currency));
        self.total(&MOVEMENTS, &cells);
    }

    /// A day of the tenant's.
    fn day(&self, at: DateTime<Utc>) -> String {
        let local = at.with_timezone(&self.statement.zone());
        local.date_naive().to_string()
    }
}

/// The five accounts in the order of the columns; what did not change is empty.
fn five(amounts: &Accounts, currency: &str) -> [String; 5] {
    amounts.named().map(|(_, amount)| {
        if amount.is_zero() {
            String::new()
        } else {
            money(amount, currency)
        }
    })
}

fn money(amount: Decimal, currency: &str) -> String {
    grouped(&amounts::text(amount, currency))
}

/// A plain number with a comma at each thousand.
fn grouped(number: &str) -> String {
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut out = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// A word of the ledger's as people write it: `in_payout` is `In payout`.
fn words(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect::<String>().replace('_', " ")
}

fn method(kind: &str) -> &str {
    match kind {
        "paypal" => "PayPal",
        "sepa" => "SEPA transfer",
        "bank" => "Bank transfer",
        "stripe_connect" => "Stripe",
        "manual" => "By hand",
        other => other,
    }
}

fn long(day: NaiveDate) -> String {
    day.format("%-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Payout, reading};
    use super::*;
    use crate::period::Period;
    use chrono::TimeDelta;
    use chrono_tz::Tz;
    use rust_decimal::dec;
    use uuid::Uuid;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn accounts(pending: Decimal, available: Decimal, clawback: Decimal) -> Accounts {
        Accounts {
            pending,
            available,
            clawback,
            ..Accounts::default()
        }
    }

    fn movement(number: i64, reason: &str, amounts: Accounts) -> Movement {
        Movement {
            posted_at: at("2026-11-05T23:30:00Z") + TimeDelta::minutes(10 * number),
            currency: "EUR".to_owned(),
            commission_id: Uuid::from_u128(u128::try_from(number / 2).unwrap()),
            order_id: format!("A-{}", 1000 + number / 2),
            event: "sale".to_owned(),
            program: "Schuhe & mehr".to_owned(),
            product: None,
            part: "direct".to_owned(),
            reason: reason.to_owned(),
            basis: dec!(49.90),
            amounts,
        }
    }

    /// `orders` orders, each earned and approved.
    fn sample(orders: i64) -> Statement {
        let mut movements = Vec::new();
        for number in 0..orders {
            movements.push(movement(
                2 * number,
                "earned",
                accounts(dec!(4.99), dec!(0), dec!(0)),
            ));
            movements.push(movement(
                2 * number + 1,
                "approved",
                accounts(dec!(-4.99), dec!(4.99), dec!(0)),
            ));
        }
        let all = dec!(4.99) * Decimal::from(orders);
        let change = |reason: &str, amounts| Change {
            reason: reason.to_owned(),
            postings: orders,
            amounts,
        };
        let opening = accounts(dec!(1234567.80), dec!(0), dec!(-12.5));
        Statement {
            tenant: "Müller & Söhne GmbH".to_owned(),
            affiliate_id: 7,
            affiliate: "Łukasz Müller Ελλάς Київ".to_owned(),
            email: Some("lukasz@example.com".to_owned()),
            period: Period::whole_days("2026-11-01", "2026-11-30", Tz::Europe__Berlin).unwrap(),
            is_final: true,
            sections: vec![Section {
                currency: "EUR".to_owned(),
                opening,
                closing: opening + accounts(dec!(0), all, dec!(0)),
                changes: vec![
                    change("earned", accounts(all, dec!(0), dec!(0))),
                    change("approved", accounts(-all, all, dec!(0))),
                ],
                movements,
                payouts: vec![Payout {
                    id: Uuid::nil(),
                    at: at("2026-11-15T09:00:00Z"),
                    currency: "EUR".to_owned(),
                    state: "paid".to_owned(),
                    method: "sepa".to_owned(),
                    reference: "Müller & Söhne 2026-11 no. 7".to_owned(),
                    gross: dec!(1000),
                    fee: dec!(0.25),
                    withheld: dec!(150),
                    net: dec!(849.75),
                }],
                payouts_left_out: 0,
            }],
        }
    }

    fn texts(statement: &Statement) -> Vec<Vec<String>> {
        reading::pages(&write(statement).unwrap())
    }

    #[test]
    fn everything_stands_on_the_paper_and_can_be_read_from_it() {
        let pages = texts(&sample(3));
        assert_eq!(pages.len(), 2, "{pages:?}");
        let text = pages.concat().join("\n");
        for expected in [
            "Müller & Söhne GmbH\n",
            "Łukasz Müller Ελλάς Київ",
            "1 November 2026 – 30 November 2026",
            "Days of Europe/Berlin",
            "Final: the period is over",
            "Pending: earned and on hold\n1,234,567.80\n0.00\n1,234,567.80",
            "Debt: paid and taken back since\n-12.50\n0.00\n-12.50",
            "Owed\n1,234,555.30\n14.97\n1,234,570.27",
            "Earned\n3\n14.97",
            "2026-11-15\nMüller & Söhne 2026-11 no. 7\nSEPA transfer\nPaid\n1,000.00\n0.25\n150.00\n849.75",
            // Half past eleven in London is the next day in Berlin.
            "2026-11-06\nA-1000 (sale)\nSchuhe & mehr\nDirect\nEarned\n4.99\n2026-11-06\nApproved\n-4.99\n4.99",
            "All movements\n14.97",
            "Page 1 of 2",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }

    #[test]
    fn the_same_statement_is_the_same_file_and_says_what_it_is() {
        let file = write(&sample(3)).unwrap();
        assert!(file == write(&sample(3)).unwrap());
        let text = String::from_utf8_lossy(&file);
        assert!(text.contains("/Lang (en)"), "the language");
        assert!(
            text.contains("/CreationDate (D:20261130230000"),
            "the period's end"
        );
        assert!(text.contains("/Title "), "the title");
        assert!(file.len() < 60_000, "{} bytes", file.len());
    }

    #[test]
    fn many_pages_have_their_tables_heads_and_numbers() {
        let mut long = sample(500);
        long.sections[0].changes[0].postings = 700;
        let pages = texts(&long);
        assert!(pages.len() > 20, "{}", pages.len());
        for (number, page) in pages.iter().enumerate().skip(1) {
            let said = format!("Page {} of {}", number + 1, pages.len());
            assert!(page.contains(&said), "{said}");
            assert!(page.contains(&"What changed".to_owned()), "page {number}");
            assert!(page.contains(&"Müller & Söhne GmbH".to_owned()));
        }
        let all: Vec<String> = pages.concat();
        for order in 0..500 {
            let order = format!("A-{} (sale)", 1000 + order);
            assert!(all.contains(&order), "{order}");
        }
        let left_out =
            "200 more movements are not listed here. The statement as CSV has all of them.";
        assert!(all.contains(&left_out.to_owned()));
    }

    #[test]
    fn hostile_names_stay_in_their_places() {
        let mut hostile = sample(1);
        hostile.tenant = "W".repeat(200);
        hostile.affiliate = "\u{202e}אבג 🙂👩‍👩‍👧 \u{0}\u{feff}中文 (\\) <<".to_owned();
        hostile.email = Some(format!("{}@example.com", "x".repeat(240)));
        hostile.is_final = false;
        let section = &mut hostile.sections[0];
        section.movements[0].order_id = "Ж".repeat(128);
        section.opening.pending = dec!(-9999999999999999.9999);
        section.payouts[0].reference = "a\nb\tc".to_owned();
        section.currency = "???".to_owned();
        let pages = texts(&hostile);
        let text = pages.concat().join("\n");
        assert!(text.contains("WWW…"), "{text}");
        assert!(
            text.contains(
                "\u{fffd}\u{fffd}\u{fffd} \u{fffd}\u{fffd}\u{fffd}\u{fffd} \u{fffd}\u{fffd} (\\) <<"
            ),
            "{text}"
        );
        assert!(text.contains("ЖЖЖ…") && text.contains("a b c"));
        assert!(text.contains("-9,999,999,999,999,999.9999"));
        assert!(text.contains("Provisional: the period is not over yet"));
    }

    #[test]
    fn nothing_and_several_currencies_have_their_pages() {
        let mut statement = sample(1);
        let mut other = statement.sections[0].clone();
        other.currency = "USD".to_owned();
        statement.sections.push(other);
        let pages = texts(&statement);
        let page_of = |heading: &str| {
            let found = pages
                .iter()
                .position(|page| page.iter().any(|text| text == heading));
            found.unwrap()
        };
        assert_eq!(page_of("Balances in EUR"), 0);
        assert_eq!(page_of("Balances in USD"), page_of("Movements in EUR") + 1);
        statement.sections.clear();
        let pages = texts(&statement);
        assert!(pages[0].contains(&"Nothing was earned, owed or paid in this period.".to_owned()));
    }

    #[test]
    fn amounts_have_a_comma_at_each_thousand() {
        for (number, expected) in [
            ("0", "0"),
            ("-999.50", "-999.50"),
            ("1000", "1,000"),
            ("-1234567.125", "-1,234,567.125"),
        ] {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(words("in_payout"), "In payout");
        assert_eq!(words("upline 1"), "Upline 1");
    }
}
