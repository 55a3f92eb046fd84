//! Reads a paper back, for tests: the text of each page, by the file's own words for its glyphs.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::ZlibDecoder;

/// An object of the file: what stands before its stream, and the stream as it was before it was compressed.
struct Object {
    number: usize,
    head: String,
    stream: Vec<u8>,
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let place = bytes.get(from..)?.windows(what.len());
    place
        .into_iter()
        .position(|at| at == what)
        .map(|at| from + at)
}

fn objects(file: &[u8]) -> Vec<Object> {
    let mut objects = Vec::new();
    let mut at = 0;
    while let Some(begin) = find(file, b" 0 obj\n", at) {
        let line = file[..begin].iter().rposition(|b| *b == b'\n').unwrap();
        let number = std::str::from_utf8(&file[line + 1..begin]).unwrap();
        let number = number.parse().unwrap();
        let end = find(file, b"\nendobj", begin).unwrap();
        let stream = find(file, b"stream\n", begin).filter(|at| *at < end);
        let head = String::from_utf8_lossy(&file[begin..stream.unwrap_or(end)]).into_owned();
        let mut plain = Vec::new();
        // A compressed stream may hold anything, so its end is not looked for before its length is known.
        let end = match stream {
            Some(stream) => {
                let length = number_after(&head, "/Length ").unwrap();
                let data = &file[stream + 7..stream + 7 + length];
                ZlibDecoder::new(data).read_to_end(&mut plain).unwrap();
                stream + 7 + length
            }
            None => end,
        };
        objects.push(Object {
            number,
            head,
            stream: plain,
        });
        at = end;
    }
    objects
}

fn number_after(text: &str, name: &str) -> Option<usize> {
    let rest = &text[text.find(name)? + name.len()..];
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What each glyph of a font stands for.
fn characters(words: &[u8]) -> BTreeMap<u16, String> {
    let text = std::str::from_utf8(words).unwrap();
    let hex = |text: &str| u16::from_str_radix(text, 16).unwrap();
    let pairs = text.lines().filter_map(|line| {
        let (glyph, word) = line
            .strip_prefix('<')?
            .strip_suffix('>')?
            .split_once("> <")?;
        let word: Vec<u16> = (0..word.len() / 4)
            .map(|at| hex(&word[4 * at..4 * at + 4]))
            .collect();
        (glyph != "0000" || word != [0xffff])
            .then(|| (hex(glyph), String::from_utf16(&word).unwrap()))
    });
    pairs.collect()
}

/// The bytes of a string, as it is written in a page: `(…)` or `<…>`.
fn string(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let inner = &text[1..text.len() - 1];
    if text[0] == b'<' {
        let digits: Vec<u8> = inner
            .iter()
            .map(|digit| u8::try_from(char::from(*digit).to_digit(16).unwrap()).unwrap())
            .collect();
        return digits
            .chunks(2)
            .map(|pair| pair[0] * 16 + pair[1])
            .collect();
    }
    let mut at = 0;
    while at < inner.len() {
        if inner[at] != b'\\' {
            out.push(inner[at]);
            at += 1;
            continue;
        }
        match inner[at + 1] {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            digit @ b'0'..=b'7' => {
                let rest = &inner[at + 1..at + 4];
                assert!(digit.is_ascii_digit());
                let octal = std::str::from_utf8(rest).unwrap();
                out.push(u8::from_str_radix(octal, 8).unwrap());
                at += 2;
            }
            other => out.push(other),
        }
        at += 2;
    }
    out
}

/// The texts of each page, in the order in which they were drawn.
pub(super) fn pages(file: &[u8]) -> Vec<Vec<String>> {
    let objects = objects(file);
    let object = |number| {
        objects
            .iter()
            .find(|o: &&Object| o.number == number)
            .unwrap()
    };
    let font = |page: &Object, name: &str| {
        let font = object(number_after(&page.head, name).unwrap());
        characters(&object(number_after(&font.head, "/ToUnicode ").unwrap()).stream)
    };
    let all = objects.iter().filter(|o| o.head.contains("/Type /Page\n"));
    all.map(|page| {
        let (regular, bold) = (font(page, "/R "), font(page, "/B "));
        let drawn = &object(number_after(&page.head, "/Contents ").unwrap()).stream;
        let mut texts = Vec::new();
        let (mut words, mut at) = (&regular, 0);
        while let Some(end) = find(drawn, b" Tj\n", at) {
            let font = find(drawn, b" Tf\n", at).unwrap();
            let line = drawn[..font].iter().rposition(|b| *b == b'\n').unwrap();
            words = match &drawn[line + 1..line + 3] {
                b"/R" => &regular,
                b"/B" => &bold,
                _ => words,
            };
            let begin = find(drawn, b" Td\n", font).unwrap() + 4;
            let text = string(&drawn[begin..end]);
            let text = text
                .chunks(2)
                .map(|glyph| words[&u16::from_be_bytes([glyph[0], glyph[1]])].as_str())
                .collect();
            texts.push(text);
            at = end + 4;
        }
        texts
    })
    .collect()
}
