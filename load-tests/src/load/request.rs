//! What is asked: `GET /r/CODE` with a browser's headers, for codes in the proportions of Zipf's law.

use std::net::SocketAddr;

use crate::dice::roll;

/// Draws that are made beforehand; a longer run uses them again.
const DRAWS: usize = 1 << 20;

/// The weight of the most popular code. The n-th has the n-th part of it: Zipf's law with exponent 1, in
/// whole numbers; with 100,000 codes the first takes some 8 % of the requests.
const FIRST_WEIGHT: u64 = 1 << 32;

/// What a browser sends beside the request line and `Host`.
pub const BROWSER_HEADERS: [(&str, &str); 4] = [
    (
        "User-Agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    ),
    ("Accept-Language", "en-US,en;q=0.8"),
    ("Referer", "https://blog.example/the-ten-best-knives"),
    ("Cookie", "aff_visitor=AZASNFZ4erwN7wEjRWeJqw"),
];

/// The requests of a run, in order.
#[derive(Debug)]
pub struct Requests {
    codes: Vec<Box<str>>,
    /// Places in `codes`, asked one after the other.
    order: Vec<u32>,
    /// Whether the order begins anew at its end.
    again: bool,
    tail: Vec<u8>,
}

impl Requests {
    /// Draws among `codes`, the first the most popular, without end; the same for the same seed.
    /// `query` follows the code, with its `?`; it may be empty.
    #[must_use]
    pub fn zipf(codes: Vec<Box<str>>, host: SocketAddr, query: &str, seed: u64) -> Self {
        let weights = (1..).take(codes.len()).map(|n| FIRST_WEIGHT / n);
        let sums: Vec<u64> = weights
            .scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = sums.last().copied().unwrap_or(1).max(1);
        let draw = |n| {
            let drawn = roll(seed, "code", n) % total;
            u32::try_from(sums.partition_point(|sum| *sum <= drawn)).unwrap_or(u32::MAX)
        };
        let order = if codes.is_empty() {
            Vec::new()
        } else {
            (0..DRAWS).map(draw).collect()
        };
        Self::new(codes, order, true, host, query)
    }

    /// Each code once.
    #[must_use]
    pub fn once(codes: Vec<Box<str>>, host: SocketAddr) -> Self {
        let order = (0..).take(codes.len()).collect();
        Self::new(codes, order, false, host, "")
    }

    fn new(
        codes: Vec<Box<str>>,
        order: Vec<u32>,
        again: bool,
        host: SocketAddr,
        query: &str,
    ) -> Self {
        let mut tail = format!("{query} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in BROWSER_HEADERS {
            tail.extend([name, ": ", value, "\r\n"]);
        }
        tail.push_str("\r\n");
        Self {
            codes,
            order,
            again,
            tail: tail.into_bytes(),
        }
    }

    /// How many there are; none: without end.
    pub(crate) fn len(&self) -> Option<u64> {
        let len = u64::try_from(self.order.len()).unwrap_or(u64::MAX);
        (!self.again || len == 0).then_some(len)
    }

    /// Replaces `out` by the n-th request. Nothing past the end.
    pub(crate) fn write(&self, n: u64, out: &mut Vec<u8>) {
        out.clear();
        let len = u64::try_from(self.order.len()).unwrap_or(u64::MAX);
        let at = n.checked_rem(len).filter(|_| self.again || n < len);
        let code = at
            .and_then(|at| self.order.get(usize::try_from(at).ok()?))
            .and_then(|code| self.codes.get(usize::try_from(*code).ok()?));
        if let Some(code) = code {
            out.extend_from_slice(b"GET /r/");
            out.extend_from_slice(code.as_bytes());
            out.extend_from_slice(&self.tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(n: usize) -> Vec<Box<str>> {
        (0..n).map(|n| format!("c{n}").into()).collect()
    }

    fn host() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    #[test]
    fn popularity_falls_as_zipf_says() {
        let requests = Requests::zipf(codes(1000), host(), "", 7);
        let mut counts = vec![0_usize; 1000];
        for code in &requests.order {
            counts[*code as usize] += 1;
        }
        // The harmonic number of 1000 is 7.485: the first takes a 7.485th, the tenth a tenth of that.
        let first = DRAWS * 1000 / 7485;
        assert!(counts[0].abs_diff(first) < first / 50, "{}", counts[0]);
        assert!(
            counts[9].abs_diff(first / 10) < first / 200,
            "{}",
            counts[9]
        );
        assert!(counts.iter().all(|count| *count > 0));
    }

    #[test]
    fn a_request_is_what_a_browser_would_send() {
        let requests = Requests::zipf(codes(1), host(), "?sub1=x", 7);
        let mut out = b"old".to_vec();
        requests.write(u64::MAX, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("GET /r/c0?sub1=x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: "),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        assert_eq!(requests.len(), None);
    }

    #[test]
    fn each_once_ends() {
        let requests = Requests::once(codes(3), host());
        assert_eq!(requests.len(), Some(3));
        let mut out = Vec::new();
        requests.write(2, &mut out);
        assert!(out.starts_with(b"GET /r/c2 HTTP"));
        requests.write(3, &mut out);
        assert!(out.is_empty());
        assert_eq!(Requests::zipf(Vec::new(), host(), "", 1).len(), Some(0));
    }
}
