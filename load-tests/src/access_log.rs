//! Recorded requests: Apache's combined log format, read leniently.
//!
//! A line that is cut short within its last field still counts, with what is left of it.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::Error;

const BUILT_IN: &[u8] = include_bytes!("../data/access.log.gz");
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// One request. Header values are bytes, because browsers send what they like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which line of the log this is, from 1.
    pub(crate) line: usize,
    pub(crate) at: DateTime<Utc>,
    pub(crate) address: IpAddr,
    pub(crate) path: Vec<u8>,
    /// None where the log says "-".
    pub(crate) referrer: Option<Vec<u8>>,
    pub(crate) agent: Option<Vec<u8>>,
}

/// The log's requests, in the order of time; those of one second in the log's order.
pub(crate) fn read(path: Option<&Path>) -> Result<Vec<Request>, Error> {
    let failed = |error: std::io::Error| Error::Input {
        path: path.unwrap_or(Path::new("the built-in log")).to_owned(),
        why: error.to_string(),
    };
    let bytes = match path {
        Some(path) => std::fs::read(path).map_err(failed)?,
        None => BUILT_IN.to_vec(),
    };
    let bytes = if bytes.starts_with(&GZIP_MAGIC) {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .map_err(failed)?;
        plain
    } else {
        bytes
    };
    parse_all(&bytes)
}

pub(crate) fn parse_all(bytes: &[u8]) -> Result<Vec<Request>, Error> {
    let mut requests = Vec::new();
    for (index, text) in bytes.split(|b| *b == b'\n').enumerate() {
        let text = text.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let request = parse(index + 1, text).ok_or_else(|| Error::LogLine {
            line: index + 1,
            text: String::from_utf8_lossy(text).into_owned(),
        })?;
        requests.push(request);
    }
    requests.sort_by_key(|request| request.at);
    Ok(requests)
}

fn parse(line: usize, text: &[u8]) -> Option<Request> {
    let (address, rest) = split_at(text, b' ')?;
    let (_, rest) = split_at(rest, b'[')?;
    let (time, rest) = split_at(rest, b']')?;
    let (request, rest) = quoted(rest)?;
    let (referrer, rest) = quoted(rest)?;
    let (agent, _) = quoted(rest)?;
    let time = std::str::from_utf8(time).ok()?;
    let path = request.split(|b| *b == b' ').nth(1)?.to_vec();
    let sent = |value: Vec<u8>| (value != b"-").then_some(value);
    Some(Request {
        line,
        at: DateTime::parse_from_str(time, "%d/%b/%Y:%H:%M:%S %z")
            .ok()?
            .to_utc(),
        address: std::str::from_utf8(address).ok()?.parse().ok()?,
        path,
        referrer: sent(referrer),
        agent: sent(agent),
    })
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// The next quoted field, unescaped, and what follows it. The end of the line closes it as well.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (_, mut rest) = split_at(text, b'"')?;
    let mut value = Vec::new();
    loop {
        match *rest {
            [] => return Some((value, rest)),
            [b'"', ..] => return Some((value, &rest[1..])),
            [b'\\', b'"' | b'\\', ..] => {
                value.push(rest[1]);
                rest = &rest[2..];
            }
            [b'\\', b'x', high, low, ..] if printable(high, low).is_some() => {
                value.extend(printable(high, low));
                rest = &rest[4..];
            }
            [byte, ..] => {
                value.push(byte);
                rest = &rest[1..];
            }
        }
    }
}

/// The byte that Apache wrote as `\xhh`; none where it is a control character, which no header can
/// carry: such an escape is sent as it stands in the log.
fn printable(high: u8, low: u8) -> Option<u8> {
    let digit = |d: u8| {
        char::from(d)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let byte = digit(high)? * 16 + digit(low)?;
    (byte >= 0x20 && byte != 0x7f).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Request {
        parse(1, text.as_bytes()).unwrap()
    }

    #[test]
    fn a_request_is_read() {
        let request = parsed(
            r#"83.149.9.216 - - [17/May/2015:10:05:03 +0200] "GET /a?b=c HTTP/1.1" 200 203023 "http://x.example/" "Mozilla/5.0 (X11)""#,
        );
        assert_eq!(request.address.to_string(), "83.149.9.216");
        assert_eq!(request.at.to_rfc3339(), "2015-05-17T08:05:03+00:00");
        assert_eq!(request.path, b"/a?b=c");
        assert_eq!(request.referrer.as_deref(), Some(&b"http://x.example/"[..]));
        assert_eq!(request.agent.as_deref(), Some(&b"Mozilla/5.0 (X11)"[..]));
    }

    #[test]
    fn escapes_are_undone() {
        let request = parsed(
            r#"2001:db8::1 - bob [17/May/2015:10:05:03 +0000] "GET /\"q\" HTTP/1.1" 200 - "http://\xe4\xE5.example/\x0a" "say \"hi\" \\ there""#,
        );
        assert_eq!(request.path, br#"/"q""#);
        assert_eq!(
            request.referrer.as_deref(),
            Some(&b"http://\xe4\xe5.example/\\x0a"[..])
        );
        assert_eq!(request.agent.as_deref(), Some(&br#"say "hi" \ there"#[..]));
    }

    #[test]
    fn a_line_that_is_cut_short_in_its_agent_counts() {
        let request = parsed(
            r#"1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-" "Mozilla/5.0 (compatible; Goo"#,
        );
        assert_eq!(request.referrer, None);
        assert_eq!(
            request.agent.as_deref(),
            Some(&b"Mozilla/5.0 (compatible; Goo"[..])
        );
    }

    #[test]
    fn what_is_no_request_is_named_with_its_line() {
        let error = parse_all(b"\nnonsense\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2 of the log"), "{error}");
    }

    #[test]
    fn the_built_in_log_is_whole_and_in_order() {
        let requests = read(None).unwrap();
        assert_eq!(requests.len(), 10_000);
        assert!(requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let visitors: std::collections::HashSet<_> =
            requests.iter().map(|r| (r.address, &r.agent)).collect();
        assert_eq!(visitors.len(), 1_862);
        let cut = requests.iter().find(|r| r.line == 8_899).unwrap();
        assert!(cut.agent.as_ref().unwrap().ends_with(b"bot.html"));
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(text in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(1, &text);
            let mut quotes = b"1.2.3.4 - - [17/May/2015:10:05:03 +0000] \"GET / H\" \"".to_vec();
            quotes.extend(text);
            let _ = parse(1, &quotes);
        }
    }
}
