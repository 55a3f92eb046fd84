//! Text as SEPA payments carry it: letters, digits and a few signs of Latin script.
//!
//! Names are kept as people write them, and put into Latin letters only where a bank reads them: nobody has to
//! misspell his name to be paid. `Jürgen Öztürk` becomes `Jurgen Ozturk`, as banks do it themselves.

use deunicode::deunicode_char;

/// `text` in the letters that a bank takes, at most `longest` of them, without spaces around it. What has no
/// counterpart (emoji, control characters) becomes a space; empty: nothing is left.
#[must_use]
pub fn latin(text: &str, longest: usize) -> String {
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        match (c, deunicode_char(c)) {
            (c, _) if is_latin(c) => written.push(c),
            ('&', _) => written.push('+'),
            (c, _) if c.is_control() || c.is_whitespace() => written.push(' '),
            (c, Some(letters)) if c.is_alphabetic() => {
                written.extend(letters.chars().filter(|c| is_latin(*c)));
            }
            // Signs, such as a long dash; not emoji, which would be told in words.
            (_, Some(sign)) if sign.chars().all(|c| is_latin(c) && !c.is_alphabetic()) => {
                written.push_str(sign);
            }
            _ => written.push(' '),
        }
    }
    let words: Vec<&str> = written.split_ascii_whitespace().collect();
    let cut: String = words.join(" ").chars().take(longest).collect();
    cut.trim_end().to_owned()
}

/// The letters of SEPA's own restricted set (EPC217-08).
fn is_latin(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-?:().,'+ ".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_written_in_latin_letters() {
        for (name, expected) in [
            ("Ana Example", "Ana Example"),
            ("Jürgen Größe-Öztürk", "Jurgen Grosse-Ozturk"),
            ("Ju\u{308}rgen", "Jurgen"),
            ("Łukasz Żółć", "Lukasz Zolc"),
            ("Ελένη", "Elene"),
            ("Müller & Söhne <GmbH>", "Muller + Sohne GmbH"),
            ("O\u{2019}Neill \u{2013} \"Shop\"", "O'Neill - Shop"),
            ("Ana \u{1f600}\u{1f468}\u{200d}\u{1f469} Emoji", "Ana Emoji"),
            (" two\r\nlines\t ", "two lines"),
            ("\u{1f600}", ""),
        ] {
            assert_eq!(latin(name, 70), expected, "{name}");
        }
        assert_eq!(latin(&"ä ".repeat(100), 70).len(), 69);
    }

    proptest! {
        #[test]
        fn whatever_is_given_a_bank_can_read_it(text in any::<String>(), longest in 0_usize..200) {
            let written = latin(&text, longest);
            prop_assert!(written.chars().all(is_latin));
            prop_assert!(written.len() <= longest);
            prop_assert_eq!(written.trim(), &written);
            prop_assert_eq!(latin(&written, longest), written);
        }
    }
}
