//! Is this click a person's? By the User-Agent: a kept list of crawlers that name themselves, and a
//! few rules for what no browser sends.
//!
//! A person taken for a bot costs an affiliate money, so a rule stands here only if no browser or
//! phone is known to match it; a bot that behaves like a browser is for the fraud signals.

use quick_cache::sync::Cache;
use regex::{Regex, RegexSet, RegexSetBuilder};

/// Agents that are remembered with their verdict.
const REMEMBERED_AGENTS: usize = 10_000;
/// Memory that the compiled list may take.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

const CRAWLERS: &str = include_str!("../data/crawlers.txt");

/// Words by which programs name what they do, and addresses of their pages and authors. `bot` not after
/// `u`: Cubot makes phones.
const NAMES_ITSELF: &str = r"(?xi)
    (?:^|[^u])bot(?:\b|[^a-z]) | crawl | spider | robot
  | feed | \brss\b | aggregat | fetch | favicon | validator | archiver | link.?check | slurp | \bDTS\ Agent
  | https?:// | \bvia\ docs\.google | [\w.-]+@[\w-]+\.[a-z]{2}
  | ^user-agent: ";

/// What each browser or phone shows somewhere; programs and libraries don't.
const BROWSER_MARK: &str = r"(?xi)
    ^Mozilla/ | ^Opera | Mozilla/\d | AppleWebKit | Dalvik | Android | \bLinks\b | \bELinks\b | \bLynx\b
  | w3m | MIDP | \bWAP\b | \bMAUI\b | Windows\ Mobile | BlackBerry | ^Nokia | ^SAMSUNG | ^SonyEricsson
  | UP\.Browser | WebKit | Gecko | KHTML ";

/// A browser's name without the brackets that say what it runs on, or with nothing in them.
const NAME_ONLY: &str = r"^(?:Mozilla|Opera)[/\x20](?:[^(]*|[\d.]+\s*\(compatible;?\s*\)?;?\)?)$";

/// What a click was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Person,
    KnownCrawler,
    NamesItself,
    NotABrowser,
    NoUserAgent,
}

impl Verdict {
    /// The reason code that is stored; empty for a person.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Person => "",
            Self::KnownCrawler => "known_crawler",
            Self::NamesItself => "names_itself",
            Self::NotABrowser => "not_a_browser",
            Self::NoUserAgent => "no_user_agent",
        }
    }
}

/// Judges User-Agents, and remembers what it judged. Threads may share one.
#[derive(Debug)]
pub struct BotList {
    crawlers: RegexSet,
    names_itself: Regex,
    browser_mark: Regex,
    name_only: Regex,
    remembered: Cache<String, Verdict>,
}

impl BotList {
    /// Compiles the list.
    ///
    /// # Errors
    /// When data/crawlers.txt holds something that is no regular expression.
    pub fn new() -> Result<Self, regex::Error> {
        let lines = CRAWLERS
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Self {
            crawlers: RegexSetBuilder::new(lines)
                .size_limit(MAX_LIST_BYTES)
                .dfa_size_limit(MAX_LIST_BYTES)
                .build()?,
            names_itself: Regex::new(NAMES_ITSELF)?,
            browser_mark: Regex::new(BROWSER_MARK)?,
            name_only: Regex::new(NAME_ONLY)?,
            remembered: Cache::new(REMEMBERED_AGENTS),
        })
    }

    /// What sent this User-Agent; empty: none was sent.
    #[must_use]
    pub fn judge(&self, user_agent: &str) -> Verdict {
        if let Some(verdict) = self.remembered.get(user_agent) {
            return verdict;
        }
        let verdict = self.look_up(user_agent);
        self.remembered.insert(user_agent.to_owned(), verdict);
        verdict
    }

    fn look_up(&self, user_agent: &str) -> Verdict {
        if user_agent.trim().is_empty() {
            Verdict::NoUserAgent
        } else if self.crawlers.is_match(user_agent) {
            Verdict::KnownCrawler
        } else if self.names_itself.is_match(user_agent) {
            Verdict::NamesItself
        } else if self.name_only.is_match(user_agent) || !self.browser_mark.is_match(user_agent) {
            Verdict::NotABrowser
        } else {
            Verdict::Person
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_apart() {
        let bots = BotList::new().unwrap();
        let cases = [
            ("", Verdict::NoUserAgent),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                Verdict::KnownCrawler,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 6_0 like Mac OS X) AppleWebKit/536.26 (KHTML, like Gecko) Version/6.0 Mobile/10A5376e Safari/8536.25 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                Verdict::KnownCrawler,
            ),
            (
                "UniversalFeedParser/4.2-pre-314-svn +http://feedparser.org/",
                Verdict::NamesItself,
            ),
            (
                "Mozilla/5.0 (compatible; Ezooms/1.0; help@moz.com)",
                Verdict::NamesItself,
            ),
            ("Ruby", Verdict::NotABrowser),
            ("Mozilla/4.0 (compatible;)", Verdict::NotABrowser),
            ("Mozilla/5.0", Verdict::NotABrowser),
            (
                "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.107 Safari/537.36",
                Verdict::Person,
            ),
            (
                "Mozilla/5.0 (Linux; Android 9; CUBOT_X18_Plus) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/90.0.4430.66 Mobile Safari/537.36",
                Verdict::Person,
            ),
            (
                "Lynx/2.8.7rel.2 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/1.0.1f",
                Verdict::Person,
            ),
            (
                "SAMSUNG-GT-E2232/1.0 Openwave/6.2.3 Profile/MIDP-2.0 Configuration/CLDC-1.1 UP.Browser/6.2.3.3.c.1.101 (GUI) MMP/2.0",
                Verdict::Person,
            ),
        ];
        for (agent, expected) in cases {
            assert_eq!(bots.judge(agent), expected, "{agent}");
            assert_eq!(bots.judge(agent), expected, "remembered: {agent}");
        }
    }

    /// Against labels that were given by reading each agent of a real log.
    #[test]
    fn the_agents_of_a_real_log_are_told_apart() {
        let bots = BotList::new().unwrap();
        let labels = include_str!("../../load-tests/data/agents.tsv");
        let mut differing = Vec::new();
        for line in labels.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let (label, agent) = (columns.next().unwrap(), columns.next().unwrap());
            let verdict = bots.judge(if agent == "-" { "" } else { agent });
            if (label == "bot") != (verdict != Verdict::Person) {
                differing.push((label, verdict, agent));
            }
        }
        assert!(differing.is_empty(), "{differing:#?}");
    }
}
