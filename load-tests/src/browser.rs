//! Shoppers: they click a link, keep the cookies that they are given and send them back.
//!
//! One visitor's clicks go one after the other over one connection; each connection carries many visitors.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{
    COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERER, SET_COOKIE, USER_AGENT,
};
use reqwest::{Client, Response, StatusCode};

use crate::Error;
use crate::plan::{Click, Plan};
use crate::progress::Progress;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const CLICK_COOKIE: &str = "aff_click";
const VISITOR_COOKIE: &str = "aff_visitor";
/// Characters of a click id.
const CLICK_ID_CHARS: usize = 48;
/// A redirect that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What became of the clicks.
#[derive(Debug)]
pub(crate) struct Clicked {
    /// The click id by the click's place in the plan; none where the answer was not right.
    pub(crate) click_ids: Vec<Option<String>>,
    /// Answers that were not right: the click's place in the plan, and what was wrong.
    pub(crate) problems: Vec<(usize, String)>,
    /// What each redirect took, seen by the client, shortest first.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
}

impl Clicked {
    /// Every click id that was received.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.click_ids
            .iter()
            .flatten()
            .map(String::as_str)
            .collect()
    }
}

/// One browser's cookies by name.
type Cookies = HashMap<String, String>;

pub(crate) async fn click_all(
    redirector: &str,
    plan: &Plan,
    run: &str,
    connections: u16,
) -> Result<Clicked, Error> {
    let started = Instant::now();
    let progress = Arc::new(Progress::new("clicks", plan.clicks.len()));
    let connections = usize::from(connections);
    let browsers = (0..connections).map(|n| {
        let own = plan
            .clicks
            .iter()
            .enumerate()
            .filter(move |(_, click)| click.visitor % connections == n);
        click_through(redirector, own, run, Arc::clone(&progress))
    });
    let shares = futures::future::try_join_all(browsers).await?;

    let mut clicked = Clicked {
        click_ids: vec![None; plan.clicks.len()],
        problems: Vec::new(),
        latencies: Vec::with_capacity(plan.clicks.len()),
        took: started.elapsed(),
    };
    for (at, latency, outcome) in shares.into_iter().flatten() {
        clicked.latencies.push(latency);
        match outcome {
            Ok(click_id) => clicked.click_ids[at] = Some(click_id),
            Err(why) => clicked.problems.push((at, why)),
        }
    }
    clicked.latencies.sort_unstable();
    clicked.problems.sort_unstable();
    if let Some(progress) = Arc::into_inner(progress) {
        progress.finish();
    }
    Ok(clicked)
}

type Outcome = (usize, Duration, Result<String, String>);

/// One connection and the visitors on it.
async fn click_through(
    redirector: &str,
    clicks: impl Iterator<Item = (usize, &Click)>,
    run: &str,
    progress: Arc<Progress>,
) -> Result<Vec<Outcome>, Error> {
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(1)
        .no_proxy()
        .build()
        .map_err(Error::http("make a client"))?;
    let mut jars: HashMap<usize, Cookies> = HashMap::new();
    let mut outcomes = Vec::new();
    for (at, click) in clicks {
        let jar = jars.entry(click.visitor).or_default();
        let code = click.link.url.rsplit('/').next().unwrap_or_default();
        // sub1 and sub2 mark the click, so that one that was stored without having been accepted is found.
        let url = format!(
            "{redirector}/r/{code}?sub1={run}&sub2={}",
            click.request.line
        );
        let started = Instant::now();
        let answer = client.get(url).headers(headers(click, jar)).send().await;
        let outcome = match answer {
            Ok(answer) => {
                let outcome = judge(click, jar, &answer);
                // The body is read so that the connection can be used again.
                answer
                    .bytes()
                    .await
                    .map_or_else(|error| Err(error.to_string()), |_| outcome)
            }
            Err(error) => Err(error.to_string()),
        };
        outcomes.push((at, started.elapsed(), outcome));
        progress.one_more();
    }
    Ok(outcomes)
}

fn headers(click: &Click, jar: &Cookies) -> HeaderMap {
    let request = &click.request;
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &[u8]| {
        // The log's fields hold no control characters (see access_log), the only ones refused here.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    };
    add(X_FORWARDED_FOR, request.address.to_string().as_bytes());
    if let Some(agent) = &request.agent {
        add(USER_AGENT, agent);
    }
    if let Some(referrer) = &request.referrer {
        add(REFERER, referrer);
    }
    if !jar.is_empty() {
        let pairs: Vec<String> = jar
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        add(COOKIE, pairs.join("; ").as_bytes());
    }
    headers
}

/// The click id of a right answer, whose cookies go into `jar`; or what is wrong with it.
fn judge(click: &Click, jar: &mut Cookies, answer: &Response) -> Result<String, String> {
    if answer.status() != StatusCode::FOUND {
        return Err(format!("status {} instead of 302", answer.status()));
    }
    let set: Cookies = answer
        .headers()
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split(';').next()?.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let click_id = set.get(CLICK_COOKIE).ok_or("no cookie aff_click")?.clone();
    if !is_click_id(&click_id) {
        return Err(format!("{click_id} is no click id"));
    }
    let visitor = set.get(VISITOR_COOKIE).ok_or("no cookie aff_visitor")?;
    if let Some(before) = jar.get(VISITOR_COOKIE)
        && before != visitor
    {
        return Err(format!("visitor {before} became {visitor}"));
    }
    let expected = destination(click, &click_id);
    let location = answer.headers().get(LOCATION).map(HeaderValue::as_bytes);
    if location != Some(expected.as_bytes()) {
        let found = String::from_utf8_lossy(location.unwrap_or(b"nothing"));
        return Err(format!("Location is {found} instead of {expected}"));
    }
    jar.extend(set);
    Ok(click_id)
}

fn is_click_id(text: &str) -> bool {
    text.len() == CLICK_ID_CHARS
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Where the link leads, with its macros filled in: none of the values used here needs encoding.
fn destination(click: &Click, click_id: &str) -> String {
    click
        .link
        .destination
        .replace("{click_id}", click_id)
        .replace("{affiliate_id}", &click.link.affiliate_id.to_string())
        .replace("{link_id}", &click.link.id.to_string())
}
