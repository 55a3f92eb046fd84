//! Reading an answer, strictly: what is not exactly one whole HTTP/1.1 answer of a known length is an
//! error, and so is a 302 that does not carry a click id.

use super::{CLICK_ID_CHARS, ClickId};

/// Header fields of one answer.
const MAX_HEADERS: usize = 32;

/// How a destination carries the click id.
const CLICK_PARAMETER: &[u8] = b"click_id=";

/// An answer that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// From `Location`, in a 302.
    pub(crate) click_id: Option<ClickId>,
    /// Whether the server will close the connection.
    pub(crate) closes: bool,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is no HTTP/1.1 answer")]
    NotHttp,
    #[error("it says no length")]
    NoLength,
    #[error("more follows than was asked for")]
    TooMuch,
    #[error("the 302 has no Location with a click id")]
    NoClickId,
}

/// Reads what has arrived. None: more has to come.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed::NotHttp),
    };
    let (Some(1), Some(status)) = (response.version, response.code) else {
        return Err(Malformed::NotHttp);
    };
    let mut length = None;
    let mut location = None;
    let mut closes = false;
    for header in response.headers.iter() {
        let named = |name: &str| header.name.eq_ignore_ascii_case(name);
        if named("content-length") {
            length = decimal(header.value);
        } else if named("location") {
            location = Some(header.value);
        } else if named("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let whole = head + length.ok_or(Malformed::NoLength)?;
    match bytes.len() {
        arrived if arrived < whole => return Ok(None),
        arrived if arrived > whole => return Err(Malformed::TooMuch),
        _ => {}
    }
    let click_id = if status == 302 {
        let found = location.and_then(click_id);
        Some(found.ok_or(Malformed::NoClickId)?)
    } else {
        None
    };
    Ok(Some(Answer {
        status,
        click_id,
        closes,
    }))
}

/// A length of at most eight digits.
fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 8 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The parameter `click_id` of a destination: exactly the characters of a click id.
fn click_id(location: &[u8]) -> Option<ClickId> {
    let query = location.iter().position(|b| *b == b'?')? + 1;
    let parameters = location[query..].split(|b| matches!(b, b'&' | b'#'));
    let id = parameters
        .filter_map(|parameter| parameter.strip_prefix(CLICK_PARAMETER))
        .next()?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (id.len() == CLICK_ID_CHARS && id.iter().all(plain))
        .then(|| id.try_into().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "AZASNFZ4erwN7wEjRWeJqwAAAAAAAABNBXaFh4mKi4yNjo-Q";

    fn redirect(location: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn a_redirect_gives_its_click_id() {
        for location in [
            format!("https://shop.example/?click_id={ID}"),
            format!("https://shop.example/a?x=1&click_id={ID}&y=2"),
            format!("https://shop.example/a?click_id={ID}#top"),
        ] {
            let answer = read(redirect(&location, "page").as_bytes())
                .unwrap()
                .unwrap();
            assert_eq!(answer.status, 302);
            assert_eq!(answer.click_id.unwrap(), ID.as_bytes());
            assert!(!answer.closes);
        }
    }

    #[test]
    fn a_redirect_without_a_whole_click_id_is_an_error() {
        for location in [
            "https://shop.example/",
            &format!("https://shop.example/click_id={ID}"),
            &format!("https://shop.example/?xclick_id={ID}"),
            &format!("https://shop.example/?click_id={ID}A"),
            &format!("https://shop.example/?click_id={}", &ID[1..]),
            "https://shop.example/?click_id={click_id}",
        ] {
            let read = read(redirect(location, "").as_bytes());
            assert_eq!(read, Err(Malformed::NoClickId), "{location}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_awaited() {
        let whole = redirect(&format!("https://shop.example/?click_id={ID}"), "body");
        for end in 0..whole.len() {
            assert_eq!(read(&whole.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(
            read(format!("{whole}x").as_bytes()),
            Err(Malformed::TooMuch)
        );
    }

    #[test]
    fn other_answers_are_told_apart() {
        let read = |text: &str| read(text.as_bytes());
        let refused = read("HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let answer = refused.unwrap().unwrap();
        assert_eq!(
            (answer.status, answer.click_id, answer.closes),
            (503, None, true)
        );
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed::NoLength));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n"),
            Err(Malformed::NoLength)
        );
        assert_eq!(
            read("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
            Err(Malformed::NotHttp)
        );
        assert_eq!(read("SSH-2.0-OpenSSH\r\n\r\n"), Err(Malformed::NotHttp));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
            let _ = click_id(&bytes);
        }
    }
}
