//! What speaks against a click: signals, as bits of the column `signals`. A signal is evidence, not a
//! verdict: the click is stored and counted, and the fraud rules of its program decide.

/// One signal: what it is called, and how much it weighs in a click's score of 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its place in the column, from 0.
    pub bit: u16,
    /// The reason code.
    pub name: &'static str,
    pub weight: u8,
}

/// The same visitor clicked the same link moments before.
pub const DUPLICATE: Signal = Signal::new(0, "duplicate", 30);
/// More clicks from one address than a person makes.
pub const FLOODING: Signal = Signal::new(1, "flooding", 60);
/// The address belongs to a provider of servers.
pub const DATA_CENTRE: Signal = Signal::new(2, "data_centre", 50);
/// The link was opened as an image or in a frame: nobody clicked it.
pub const COOKIE_STUFFING: Signal = Signal::new(3, "cookie_stuffing", 80);
/// A program or a browser that looks ahead asked, without saying so.
pub const PREFETCH: Signal = Signal::new(4, "prefetch", 40);

/// Every signal, by its bit.
pub const ALL: [Signal; 5] = [DUPLICATE, FLOODING, DATA_CENTRE, COOKIE_STUFFING, PREFETCH];

impl Signal {
    const fn new(bit: u16, name: &'static str, weight: u8) -> Self {
        Self { bit, name, weight }
    }

    /// Its value in the column.
    #[must_use]
    pub const fn mask(self) -> u16 {
        1 << self.bit
    }
}

/// The signals that a column's value holds.
pub fn of(signals: u16) -> impl Iterator<Item = Signal> {
    ALL.into_iter()
        .filter(move |signal| signals & signal.mask() != 0)
}

/// A click's score: the weights of its signals, 100 at most.
#[must_use]
pub fn score(signals: u16) -> u8 {
    of(signals)
        .fold(0_u8, |score, signal| score.saturating_add(signal.weight))
        .min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_signals_and_a_score() {
        let value = DUPLICATE.mask() | COOKIE_STUFFING.mask();
        let names: Vec<_> = of(value).map(|signal| signal.name).collect();
        assert_eq!(names, ["duplicate", "cookie_stuffing"]);
        assert_eq!(
            (score(0), score(DUPLICATE.mask()), score(value)),
            (0, 30, 100)
        );
    }

    #[test]
    fn no_two_signals_share_a_bit() {
        for (place, signal) in ALL.iter().enumerate() {
            assert_eq!(usize::from(signal.bit), place);
        }
    }
}
