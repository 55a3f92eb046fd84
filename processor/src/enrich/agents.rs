//! Which browser, system and class of device clicked, and is it a person's? All of it from the
//! User-Agent, and remembered: few agents make most clicks.
//!
//! Names are taken from short lists, whatever an agent calls itself: a dashboard's rollup has a row for
//! each combination, and a stranger must not be able to make new ones.

use std::sync::Arc;

use quick_cache::sync::Cache;
use serde::Deserialize;
use smol_str::SmolStr;
use tributary_shared::bots::{BotList, Verdict};
use tributary_shared::device::{Device, machine};
use ua_parser::{os, user_agent};

/// uap-core's expressions for browsers and systems: data/README.md.
const EXPRESSIONS: &str = include_str!("../../data/user_agents.json");
/// Agents that are remembered: about 10 MB.
const REMEMBERED: usize = 20_000;
/// What is not on a list.
const OTHER: &str = "Other";

const BROWSERS: [&str; 32] = [
    "Amazon Silk",
    "Android",
    "Baidu Browser",
    "Brave",
    "Chrome",
    "Chrome Mobile",
    "Chrome Mobile WebView",
    "Chrome Mobile iOS",
    "Chromium",
    "DuckDuckGo Mobile",
    "Ecosia iOS",
    "Edge",
    "Edge Mobile",
    "Facebook",
    "Firefox",
    "Firefox Focus",
    "Firefox Mobile",
    "Firefox iOS",
    "Google",
    "IE",
    "IE Mobile",
    "Instagram",
    "Mobile Safari",
    "Mobile Safari UI/WKWebView",
    "Opera",
    "Opera Mini",
    "Opera Mobile",
    "Pinterest",
    "Safari",
    "Samsung Internet",
    "UC Browser",
    "Vivaldi",
];

const SYSTEMS: [&str; 14] = [
    "Android",
    "BlackBerry OS",
    "Chrome OS",
    "Debian",
    "Fedora",
    "FreeBSD",
    "KaiOS",
    "Linux",
    "Mac OS X",
    "Tizen",
    "Ubuntu",
    "Windows",
    "Windows Phone",
    "iOS",
];

/// What a User-Agent says. Empty: it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The text itself.
    pub(crate) user_agent: SmolStr,
    pub(crate) verdict: Verdict,
    pub(crate) device: SmolStr,
    pub(crate) os: SmolStr,
    pub(crate) browser: SmolStr,
}

/// Why the expressions can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    #[error("data/crawlers.txt: {0}")]
    Crawlers(#[from] regex::Error),
    #[error("data/user_agents.json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("data/user_agents.json: {0}")]
    Expression(#[from] ua_parser::Error),
    #[error("data/user_agents.json: {0}")]
    Parse(#[from] ua_parser::ParseError),
    #[error("data/user_agents.json: {0}")]
    Build(#[from] ua_parser::BuildError),
}

#[derive(Deserialize)]
struct Expressions {
    user_agent_parsers: Vec<user_agent::Parser<'static>>,
    os_parsers: Vec<os::Parser<'static>>,
}

/// Reads User-Agents.
pub(crate) struct Agents {
    bots: BotList,
    browsers: user_agent::Extractor<'static>,
    systems: os::Extractor<'static>,
    remembered: Cache<SmolStr, Arc<Agent>>,
}

impl Agents {
    pub(crate) fn new() -> Result<Self, AgentsError> {
        let expressions: Expressions = serde_json::from_str(EXPRESSIONS)?;
        Ok(Self {
            bots: BotList::new()?,
            browsers: user_agent::Builder::new()
                .push_all(expressions.user_agent_parsers)?
                .build()?,
            systems: os::Builder::new()
                .push_all(expressions.os_parsers)?
                .build()?,
            remembered: Cache::new(REMEMBERED),
        })
    }

    pub(crate) fn read(&self, user_agent: &str) -> Arc<Agent> {
        if let Some(agent) = self.remembered.get(user_agent) {
            return agent;
        }
        let agent = Arc::new(self.look_up(user_agent));
        self.remembered
            .insert(agent.user_agent.clone(), Arc::clone(&agent));
        agent
    }

    fn look_up(&self, user_agent: &str) -> Agent {
        let verdict = self.bots.judge(user_agent);
        if user_agent.trim().is_empty() {
            return Agent {
                user_agent: user_agent.into(),
                verdict,
                device: SmolStr::default(),
                os: SmolStr::default(),
                browser: SmolStr::default(),
            };
        }
        let browser = self.browsers.extract(user_agent);
        let system = self.systems.extract(user_agent);
        Agent {
            user_agent: user_agent.into(),
            verdict,
            device: SmolStr::new_static(match machine(user_agent, None, None).device {
                Some(Device::Desktop) => "desktop",
                Some(Device::Mobile) => "mobile",
                Some(Device::Tablet) => "tablet",
                None => "",
            }),
            os: listed(&SYSTEMS, system.as_ref().map(|s| &*s.os)),
            browser: listed(&BROWSERS, browser.as_ref().map(|b| &*b.family)),
        }
    }
}

/// The name as the list has it.
fn listed(list: &[&'static str], name: Option<&str>) -> SmolStr {
    let known = name.and_then(|name| list.iter().find(|known| **known == name));
    SmolStr::new_static(known.copied().unwrap_or(OTHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_today_are_named() {
        let agents = Agents::new().unwrap();
        for (agent, device, os, browser) in [
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Mobile Safari/537.36",
                "mobile",
                "Android",
                "Chrome Mobile",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
                "mobile",
                "iOS",
                "Mobile Safari",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36 Edg/137.0.0.0",
                "desktop",
                "Windows",
                "Edge",
            ),
            (
                "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
                "desktop",
                "Ubuntu",
                "Firefox",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
                "desktop",
                "Mac OS X",
                "Safari",
            ),
            (
                "Mozilla/5.0 (X11; Strange 1) Gecko",
                "desktop",
                OTHER,
                OTHER,
            ),
            ("", "", "", ""),
        ] {
            for _ in 0..2 {
                let read = agents.read(agent);
                let said = (&*read.device, &*read.os, &*read.browser);
                assert_eq!(said, (device, os, browser), "{agent}");
            }
        }
    }

    #[test]
    fn a_stranger_cannot_name_a_browser() {
        let agents = Agents::new().unwrap();
        for n in 0..50 {
            let agent = format!("Evil{n}Browser/1.{n} (Evil{n} OS) Evil{n}Bot/2");
            let read = agents.read(&agent);
            assert!(BROWSERS.contains(&&*read.browser) || read.browser == OTHER);
            assert!(SYSTEMS.contains(&&*read.os) || read.os == OTHER);
        }
    }
}
