//! `GET /t.js`: the script for merchants' pages, `assets/t.js` as `assets/minify.sh` shortens it.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
};
use hyper::{HeaderMap, StatusCode};
use tributary_shared::secrets::token_hash;

use crate::server::Answer;
use crate::{cors, pages};

const SCRIPT: &str = include_str!("../assets/t.min.js");
/// How long a browser may keep the script: a mended one is everywhere after an hour.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=3600");

const CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// Names this version of the script.
#[expect(clippy::expect_used, reason = "base64url in quotes is header text")]
static VERSION: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = URL_SAFE_NO_PAD.encode(&token_hash(SCRIPT)[..12]);
    HeaderValue::try_from(format!("\"{hash}\"")).expect("header text")
});

/// The script, or 304 for a browser that has it.
pub(crate) fn snippet(headers: &HeaderMap) -> Answer {
    let mut answer = if has(headers, &VERSION) {
        pages::answer(StatusCode::NOT_MODIFIED, CONTENT_TYPE, Bytes::new())
    } else {
        let script = Bytes::from_static(SCRIPT.as_bytes());
        pages::answer(StatusCode::OK, CONTENT_TYPE, script)
    };
    cors::embeddable(&mut answer);
    let set = answer.headers_mut();
    set.insert(CACHE_CONTROL, KEEP);
    set.insert(ETAG, VERSION.clone());
    set.insert(CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // For pages that load it with `crossorigin`, to see its errors or to pin it by `integrity`.
    set.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

const CONTENT_TYPE: &str = "text/javascript; charset=utf-8";

/// Whether `If-None-Match` names `version`.
fn has(headers: &HeaderMap, version: &HeaderValue) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .flat_map(|list| list.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag))
        .any(|tag| tag == b"*" || tag == version.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = include_str!("../assets/t.js");

    /// What a merchant's page is asked to load, in bytes.
    const MAX_BYTES: usize = 2048;

    #[test]
    fn the_script_is_small_and_plain() {
        assert!(SCRIPT.len() < MAX_BYTES, "{} bytes", SCRIPT.len());
        assert!(SCRIPT.is_ascii());
        for odd in ["eval(", "innerHTML", "document.write", "</script"] {
            assert!(!SCRIPT.contains(odd), "{odd}");
        }
        let count = |c: char| SCRIPT.matches(c).count();
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(count(open), count(close), "{open} {close}");
        }
    }

    #[test]
    fn the_script_is_made_from_its_source() {
        let hash: String = token_hash(SOURCE)[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(
            SCRIPT.starts_with(&format!("/*{hash}*/")),
            "assets/t.js was changed: run redirector/assets/minify.sh"
        );
    }

    #[test]
    fn a_browser_that_has_it_is_told_so() {
        let status = |tags: String| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::try_from(tags).unwrap());
            snippet(&headers).status().as_u16()
        };
        let version = VERSION.to_str().unwrap();
        assert_eq!(status(version.to_owned()), 304);
        assert_eq!(status(format!("\"x\" , W/{version}")), 304);
        assert_eq!(status("*".to_owned()), 304);
        assert_eq!(status("\"x\"".to_owned()), 200);
        assert_eq!(snippet(&HeaderMap::new()).status(), 200);
    }
}
