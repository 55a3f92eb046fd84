//! Looks at an address on loopback: does it answer, and with what?

use std::sync::OnceLock;
use std::time::Duration;

/// The longest that a question to a process on this machine may take.
const LIMIT: Duration = Duration::from_secs(10);

/// One client for the whole process. It follows no redirect: the redirector's 302 is the answer.
pub(crate) fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        reqwest::Client::builder()
            .timeout(LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // ClickHouse waits at its stop for connections that are kept for later.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap_or_default()
    })
}

/// GET: the body of a 2xx answer; anything else as an error in words.
pub(crate) async fn get(url: &str) -> Result<String, String> {
    body(client().get(url)).await
}

/// POST: as [`get`].
pub(crate) async fn post(url: &str, content: String) -> Result<String, String> {
    body(client().post(url).body(content)).await
}

async fn body(request: reqwest::RequestBuilder) -> Result<String, String> {
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    if status.is_success() {
        Ok(text)
    } else {
        Err(format!("{status}: {}", text.trim()))
    }
}
