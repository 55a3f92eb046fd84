//! Which User-Agents are bots, by labels that a person gave (`data/agents.tsv`).

use std::collections::HashMap;
use std::path::Path;

use crate::Error;

const BUILT_IN: &str = include_str!("../data/agents.tsv");

/// Labels by agent.
#[derive(Debug)]
pub(crate) struct Labels(HashMap<Vec<u8>, bool>);

impl Labels {
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Error> {
        let failed = |why: String| Error::Input {
            path: path.unwrap_or(Path::new("the built-in labels")).to_owned(),
            why,
        };
        match path {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
                Self::parse(&text).map_err(failed)
            }
            None => Self::parse(BUILT_IN).map_err(failed),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut labels = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let is_bot = match columns.next() {
                Some("bot") => true,
                Some("person") => false,
                _ => return Err(format!("a line begins with bot or person: {line}")),
            };
            let agent = columns.next().ok_or(format!("no agent: {line}"))?;
            if labels.insert(agent.as_bytes().to_vec(), is_bot).is_some() {
                return Err(format!("labelled twice: {agent}"));
            }
        }
        Ok(Self(labels))
    }

    /// Whether `agent` is a bot's; none: no agent was sent.
    pub(crate) fn is_bot(&self, agent: Option<&[u8]>) -> Result<bool, Error> {
        let agent = agent.unwrap_or(b"-");
        self.0
            .get(agent)
            .copied()
            .ok_or_else(|| Error::Unlabelled(String::from_utf8_lossy(agent).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_of_the_log_is_labelled() {
        let labels = Labels::read(None).unwrap();
        let requests = crate::access_log::read(None).unwrap();
        let bots = requests
            .iter()
            .filter(|r| labels.is_bot(r.agent.as_deref()).unwrap())
            .count();
        assert_eq!(
            (labels.0.len(), labels.0.values().filter(|b| **b).count()),
            (559, 117)
        );
        assert_eq!(bots, BOT_REQUESTS);
    }

    /// Counted with awk over the log and the labels.
    const BOT_REQUESTS: usize = 2_948;

    #[test]
    fn an_agent_without_a_label_is_named() {
        let labels = Labels::parse("# head\nbot\tx/1\nperson\ty/1\twhy").unwrap();
        assert!(labels.is_bot(Some(b"x/1")).unwrap());
        assert!(!labels.is_bot(Some(b"y/1")).unwrap());
        assert!(
            labels
                .is_bot(Some(b"z/1"))
                .unwrap_err()
                .to_string()
                .ends_with("z/1")
        );
        assert!(Labels::parse("robot\tx").is_err());
        assert!(Labels::parse("bot\tx\nbot\tx").is_err());
    }
}
