//! Pages with text and lines, as PDF: what a statement is drawn on.
//!
//! - Lengths are whole tenths of a point, from the upper left corner: nothing is rounded but the width of a text.
//! - Text is in Noto Sans, of which the file holds the glyphs that are used, so that it looks the same everywhere and can
//!   be searched and copied. It holds Latin, Greek and Cyrillic; any other character stands as [`REPLACEMENT`], what
//!   only steers other characters (direction, joining, control) is left out.
//! - The same calls give the same bytes.

use std::collections::BTreeMap;
use std::io::Write as _;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::types::{CidFontType, FontFlags, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Date, Filter, Finish as _, Name, Pdf, Rect, Ref, Str, TextStr};
use subsetter::GlyphRemapper;
use ttf_parser::Face as FontFile;

/// A4, lying, in tenths of a point.
pub(crate) const WIDTH: i32 = 8420;
pub(crate) const HEIGHT: i32 = 5950;
/// Stands for a character that the fonts don't have.
pub(crate) const REPLACEMENT: char = '\u{fffd}';
/// What ends a text that had to be cut.
const ELLIPSIS: char = '…';
/// Longest text that is drawn at once, in characters: no width holds more.
const MAX_TEXT_CHARS: usize = 500;

const REGULAR: &[u8] = include_bytes!("../../fonts/NotoSans-Regular.ttf");
const BOLD: &[u8] = include_bytes!("../../fonts/NotoSans-Bold.ttf");
const SYSTEM: SystemInfo<'static> = SystemInfo {
    registry: Str(b"Adobe"),
    ordering: Str(b"Identity"),
    supplement: 0,
};

/// Why there is no paper: the program's own fonts can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PaperError {
    #[error("a font can't be read: {0}")]
    Font(#[from] ttf_parser::FaceParsingError),
    #[error("a font can't be cut down to what is used: {0}")]
    Subset(#[from] subsetter::Error),
    #[error("a stream can't be compressed: {0}")]
    Compress(#[from] std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

/// How dark something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Black,
    /// For what is said beside.
    Gray,
    /// For lines.
    Light,
    /// For grounds.
    Faint,
}

impl Ink {
    fn gray(self) -> f32 {
        match self {
            Self::Black => 0.08,
            Self::Gray => 0.42,
            Self::Light => 0.78,
            Self::Faint => 0.955,
        }
    }
}

/// How text looks. `size` is in tenths of a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub weight: Weight,
    pub size: i32,
    pub ink: Ink,
}

struct Font {
    /// As the file names it: six letters before it say that it is a part of the font.
    name: Name<'static>,
    file: FontFile<'static>,
    data: &'static [u8],
    /// Gives the glyphs that are used their numbers in the file.
    glyphs: GlyphRemapper,
    /// What each of these numbers stands for.
    characters: BTreeMap<u16, char>,
}

impl Font {
    fn new(name: &'static [u8], data: &'static [u8]) -> Result<Self, PaperError> {
        Ok(Self {
            name: Name(name),
            file: FontFile::parse(data, 0)?,
            data,
            glyphs: GlyphRemapper::new(),
            characters: BTreeMap::new(),
        })
    }

    fn has(&self, character: char) -> bool {
        self.file.glyph_index(character).is_some()
    }

    /// In thousandths of the font's size.
    fn advance(&self, glyph: u16) -> i32 {
        let advance = self.file.glyph_hor_advance(ttf_parser::GlyphId(glyph));
        self.thousandths(i32::from(advance.unwrap_or(0)))
    }

    fn thousandths(&self, units: i32) -> i32 {
        units * 1000 / i32::from(self.file.units_per_em()).max(1)
    }

    /// The number of a character's glyph in the file, which is in use from now on.
    fn encode(&mut self, character: char) -> u16 {
        let glyph = self.file.glyph_index(character).map_or(0, |glyph| glyph.0);
        let number = self.glyphs.remap(glyph);
        self.characters.entry(number).or_insert(character);
        number
    }
}

/// What the file says about itself.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub title: String,
    pub author: String,
    pub made_at: DateTime<Utc>,
}

/// The pages so far.
pub(crate) struct Paper {
    about: About,
    regular: Font,
    bold: Font,
    pages: Vec<Content>,
    /// On which page it is drawn.
    current: usize,
}

impl std::fmt::Debug for Paper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paper")
            .field("about", &self.about)
            .field("pages", &self.pages.len())
            .finish_non_exhaustive()
    }
}

impl Paper {
    /// Without pages yet.
    pub(crate) fn new(about: About) -> Result<Self, PaperError> {
        Ok(Self {
            about,
            regular: Font::new(b"TRIBUT+NotoSans-Regular", REGULAR)?,
            bold: Font::new(b"TRIBUT+NotoSans-Bold", BOLD)?,
            pages: Vec::new(),
            current: 0,
        })
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Begins another page, at the end.
    pub(crate) fn add_page(&mut self) {
        let mut content = Content::new();
        content.transform([0.1, 0.0, 0.0, 0.1, 0.0, 0.0]);
        self.current = self.pages.len();
        self.pages.push(content);
    }

    /// Draws on that page from now on; pages count from 0.
    pub(crate) fn turn_to(&mut self, page: usize) {
        self.current = page.min(self.pages.len().saturating_sub(1));
    }

    /// What is drawn of `text`: each character that is not there replaced, each that is none left out.
    pub(crate) fn drawable(&self, text: &str) -> String {
        text.chars()
            .filter(|c| !steers(*c))
            .map(|c| if c.is_whitespace() { ' ' } else { c })
            .map(|c| {
                let known = in_scripts(c) && self.regular.has(c) && self.bold.has(c);
                if known { c } else { REPLACEMENT }
            })
            .take(MAX_TEXT_CHARS)
            .collect()
    }

    /// How wide `text` is, drawn.
    pub(crate) fn width(&self, style: Style, text: &str) -> i32 {
        let font = match style.weight {
            Weight::Regular => &self.regular,
            Weight::Bold => &self.bold,
        };
        let thousandths: i32 = self
            .drawable(text)
            .chars()
            .map(|c| font.advance(font.file.glyph_index(c).map_or(0, |glyph| glyph.0)))
            .sum();
        thousandths * style.size / 1000
    }

    /// `text`, or as much of its beginning as fits into `width`.
    pub(crate) fn cut(&self, style: Style, text: &str, width: i32) -> String {
        let mut text = self.drawable(text);
        if self.width(style, &text) <= width {
            return text;
        }
        while !text.is_empty() {
            text.pop();
            let cut = format!("{}{ELLIPSIS}", text.trim_end());
            if self.width(style, &cut) <= width {
                return cut;
            }
        }
        text
    }

    /// `text` on the line `y`, from `x` on.
    pub(crate) fn text(&mut self, style: Style, x: i32, y: i32, text: &str) {
        let text = self.drawable(text);
        let (font, name) = match style.weight {
            Weight::Regular => (&mut self.regular, Name(b"R")),
            Weight::Bold => (&mut self.bold, Name(b"B")),
        };
        let codes: Vec<u8> = text
            .chars()
            .flat_map(|c| font.encode(c).to_be_bytes())
            .collect();
        if codes.is_empty() {
            return;
        }
        if let Some(page) = self.pages.get_mut(self.current) {
            page.set_fill_gray(style.ink.gray())
                .begin_text()
                .set_font(name, number(style.size))
                .next_line(number(x), number(HEIGHT - y))
                .show(Str(&codes))
                .end_text();
        }
    }

    /// `text` on the line `y`, up to `x`.
    pub(crate) fn text_up_to(&mut self, style: Style, x: i32, y: i32, text: &str) {
        let width = self.width(style, text);
        self.text(style, x - width, y, text);
    }

    /// A ground or a line: a rectangle whose upper edge is at `y`.
    pub(crate) fn fill(&mut self, ink: Ink, x: i32, y: i32, width: i32, height: i32) {
        if let Some(page) = self.pages.get_mut(self.current) {
            page.set_fill_gray(ink.gray())
                .rect(
                    number(x),
                    number(HEIGHT - y - height),
                    number(width),
                    number(height),
                )
                .fill_nonzero();
        }
    }

    /// The file.
    pub(crate) fn finish(self) -> Result<Vec<u8>, PaperError> {
        let mut last = 0;
        let mut next = || {
            last += 1;
            Ref::new(last)
        };
        let (catalog, tree, info) = (next(), next(), next());
        let mut pdf = Pdf::new();
        let mut root = pdf.catalog(catalog);
        root.pages(tree).lang(TextStr("en"));
        root.viewer_preferences().display_doc_title(true);
        root.finish();
        let made_at = self.about.made_at;
        pdf.document_info(info)
            .title(TextStr(&self.about.title))
            .author(TextStr(&self.about.author))
            .creator(TextStr("Tributary"))
            .creation_date(date(made_at));
        let fonts = [next(), next()];
        for (font, id) in [(&self.regular, fonts[0]), (&self.bold, fonts[1])] {
            write_font(&mut pdf, font, id, &mut next)?;
        }
        let pages: Vec<(Ref, Ref)> = self.pages.iter().map(|_| (next(), next())).collect();
        pdf.pages(tree)
            .kids(pages.iter().map(|page| page.0))
            .count(i32::try_from(pages.len()).unwrap_or(i32::MAX))
            .media_box(Rect::new(0.0, 0.0, 842.0, 595.0));
        for ((page, content), drawn) in pages.into_iter().zip(self.pages) {
            let mut written = pdf.page(page);
            written.parent(tree).contents(content);
            let mut resources = written.resources();
            let mut names = resources.fonts();
            names.pair(Name(b"R"), fonts[0]).pair(Name(b"B"), fonts[1]);
            names.finish();
            resources.finish();
            written.finish();
            let drawn = compressed(&drawn.finish())?;
            pdf.stream(content, &drawn).filter(Filter::FlateDecode);
        }
        Ok(pdf.finish())
    }
}

fn write_font(
    pdf: &mut Pdf,
    font: &Font,
    id: Ref,
    next: &mut impl FnMut() -> Ref,
) -> Result<(), PaperError> {
    let (cid, descriptor, file, unicode) = (next(), next(), next(), next());
    let name = font.name;
    pdf.type0_font(id)
        .base_font(name)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(cid)
        .to_unicode(unicode);
    let mut glyphs = pdf.cid_font(cid);
    glyphs
        .subtype(CidFontType::Type2)
        .base_font(name)
        .system_info(SYSTEM)
        .font_descriptor(descriptor)
        .default_width(0.0)
        .cid_to_gid_map_predefined(Name(b"Identity"));
    let widths = font
        .glyphs
        .remapped_gids()
        .map(|glyph| number(font.advance(glyph)));
    glyphs.widths().consecutive(0, widths);
    glyphs.finish();
    let bounds = font.file.global_bounding_box();
    let part = |units: i16| number(font.thousandths(i32::from(units)));
    pdf.font_descriptor(descriptor)
        .name(name)
        .flags(FontFlags::SYMBOLIC)
        .bbox(Rect::new(
            part(bounds.x_min),
            part(bounds.y_min),
            part(bounds.x_max),
            part(bounds.y_max),
        ))
        .italic_angle(0.0)
        .ascent(part(font.file.ascender()))
        .descent(part(font.file.descender()))
        .cap_height(part(font.file.capital_height().unwrap_or_default()))
        .stem_v(80.0)
        .font_file2(file);
    let mut words = UnicodeCmap::new(Name(b"Characters"), SYSTEM);
    for (number, character) in &font.characters {
        words.pair(*number, *character);
    }
    let words = words.finish();
    let words = compressed(&words)?;
    pdf.cmap(unicode, &words)
        .name(Name(b"Characters"))
        .system_info(SYSTEM)
        .filter(Filter::FlateDecode);
    let part = compressed(&subsetter::subset(font.data, 0, &font.glyphs)?)?;
    pdf.stream(file, &part).filter(Filter::FlateDecode);
    Ok(())
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn date(at: DateTime<Utc>) -> Date {
    let part = |value: u32| u8::try_from(value).unwrap_or(0);
    Date::new(u16::try_from(at.year()).unwrap_or(0))
        .month(part(at.month()))
        .day(part(at.day()))
        .hour(part(at.hour()))
        .minute(part(at.minute()))
        .second(part(at.second()))
        .utc_offset_hour(0)
        .utc_offset_minute(0)
}

/// Exact: a page is smaller than what an i16 holds.
fn number(tenths: i32) -> f32 {
    f32::from(i16::try_from(tenths).unwrap_or(i16::MAX))
}

/// What the fonts can draw without putting characters together: Latin, Greek, Cyrillic, and the signs beside them.
fn in_scripts(character: char) -> bool {
    matches!(character,
        '\u{20}'..='\u{52f}' | '\u{1d00}'..='\u{1fff}' | '\u{2010}'..='\u{22ff}'
        | '\u{2c60}'..='\u{2c7f}' | '\u{a640}'..='\u{a69f}' | '\u{a720}'..='\u{a7ff}')
}

/// Whether it only says how others are shown.
fn steers(character: char) -> bool {
    (character.is_control() && !character.is_whitespace())
        || matches!(character,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        weight: Weight::Regular,
        size: 100,
        ink: Ink::Black,
    };

    fn paper() -> Paper {
        Paper::new(About {
            title: "A title".to_owned(),
            author: "Somebody".to_owned(),
            made_at: DateTime::UNIX_EPOCH,
        })
        .unwrap()
    }

    #[test]
    fn latin_greek_and_cyrillic_are_drawn_as_they_are() {
        let paper = paper();
        for text in [
            "Łukasz Müller Ελλάς Київ",
            "Ñandú ß Ő ẞ Ё ђ ў",
            "€ £ ₴ № – … “x” 1 234,50",
        ] {
            assert_eq!(paper.drawable(text), text);
        }
        assert!(paper.regular.has(REPLACEMENT) && paper.bold.has(REPLACEMENT));
    }

    #[test]
    fn what_is_not_there_is_replaced_and_what_steers_is_left_out() {
        let paper = paper();
        assert_eq!(
            paper.drawable("a\u{202e}b\u{200d}c\u{0}d\u{ad}e\nf\tg"),
            "abcde f g"
        );
        assert_eq!(paper.drawable("א🙂中"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(paper.drawable(&"x".repeat(10_000)).len(), MAX_TEXT_CHARS);
    }

    #[test]
    fn a_text_is_cut_to_what_fits() {
        let paper = paper();
        assert_eq!(paper.cut(PLAIN, "short", 1000), "short");
        let cut = paper.cut(PLAIN, &"wide ".repeat(50), 500);
        assert!(cut.ends_with("wide…") || cut.ends_with('…'), "{cut}");
        assert!(paper.width(PLAIN, &cut) <= 500);
        assert_eq!(paper.cut(PLAIN, "x", 0), "");
    }

    #[test]
    fn digits_are_of_one_width() {
        let paper = paper();
        let widths: Vec<i32> = ('0'..='9')
            .map(|digit| paper.width(PLAIN, &digit.to_string()))
            .collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
    }
}
