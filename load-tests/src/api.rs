//! The admin API as the demo tenant sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::Client;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::Error;
use crate::reckon::{Coin, Sums, percent};
use crate::run_file::RunFile;
use crate::stores::{Commission, Conversion, Facts};

/// How many items a page of a list is asked for.
const PAGE: u32 = 100;

pub(crate) struct Api {
    client: Client,
    url: String,
    key: String,
}

/// The demo tenant's active links in the order of their ids, and each program's percentage.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) links: Vec<Link>,
    /// By program id, in ten-thousandths of a per cent.
    pub(crate) percents: BTreeMap<i64, i128>,
}

impl Program {
    fn affiliates(&self) -> BTreeSet<i64> {
        self.links.iter().map(|link| link.affiliate_id).collect()
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Link {
    pub(crate) id: i64,
    pub(crate) url: String,
    pub(crate) program_id: i64,
    pub(crate) affiliate_id: i64,
    pub(crate) destination: String,
    pub(crate) active: bool,
}

#[derive(Deserialize)]
struct Rate {
    id: i64,
    commission_percent: String,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Balances {
    balances: Vec<Balance>,
}

#[derive(Deserialize)]
struct Balance {
    currency: String,
    pending: String,
    available: String,
}

impl Api {
    pub(crate) fn new(system: &RunFile) -> Result<Self, Error> {
        Ok(Self {
            client: Client::builder()
                .no_proxy()
                .build()
                .map_err(Error::http("make a client"))?,
            url: system.services.admin_api.url.clone(),
            key: system.demo.api_key.clone(),
        })
    }

    pub(crate) async fn links(&self) -> Result<Program, Error> {
        let mut links: Vec<Link> = self.list("/v1/links?").await?;
        links.retain(|link| link.active);
        links.sort_by_key(|link| link.id);
        let rates: Vec<Rate> = self.list("/v1/programs?").await?;
        let percents = rates
            .iter()
            .map(|rate| Some((rate.id, percent(&rate.commission_percent)?)))
            .collect::<Option<_>>()
            .ok_or_else(|| unreadable("a program's commission_percent is no plain decimal"))?;
        if links.is_empty() {
            return Err(Error::NoLinks);
        }
        Ok(Program { links, percents })
    }

    /// What each affiliate has earned and was not paid yet, in minor units.
    pub(crate) async fn balances(&self, program: &Program) -> Result<Sums<i64>, Error> {
        let mut sums = Sums::new();
        for affiliate in program.affiliates() {
            let balances: Balances = self
                .get(&format!("/v1/affiliates/{affiliate}/balance"))
                .await?;
            for balance in balances.balances {
                // A currency that the replay doesn't use can't be changed by it.
                let Some(coin) = Coin::of(&balance.currency) else {
                    continue;
                };
                let sum = coin
                    .minor(&balance.pending)
                    .zip(coin.minor(&balance.available))
                    .map(|(pending, available)| pending + available)
                    .ok_or_else(|| unreadable("a balance is finer than its currency"))?;
                sums.insert((affiliate, balance.currency), sum);
            }
        }
        Ok(sums)
    }

    /// Every conversion and commission that came `since`.
    pub(crate) async fn orders(&self, since: DateTime<Utc>) -> Result<Facts, Error> {
        let from = since.to_rfc3339_opts(SecondsFormat::Micros, true);
        Ok(Facts {
            conversions: self
                .list::<Conversion>(&format!("/v1/conversions?from={from}&"))
                .await?,
            commissions: self
                .list::<Commission>(&format!("/v1/commissions?from={from}&"))
                .await?,
        })
    }

    /// The demo tenant's id.
    pub(crate) async fn tenant(&self) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Tenant {
            id: u64,
        }
        Ok(self.get::<Tenant>("/v1/tenant").await?.id)
    }

    /// Asks, and takes any answer that is none of an error.
    pub(crate) async fn ask(&self, path: &str) -> Result<(), Error> {
        self.get::<IgnoredAny>(path).await.map(|_| ())
    }

    /// How long each of a list's first pages took.
    pub(crate) async fn turn_pages(&self, path: &str, pages: u64) -> Result<Vec<Duration>, Error> {
        let mut taken = Vec::new();
        let mut cursor = String::new();
        for _ in 0..pages {
            let began = Instant::now();
            let page: Page<IgnoredAny> = self.get(&format!("{path}{cursor}")).await?;
            taken.push(began.elapsed());
            match page.next_cursor {
                Some(next) => cursor = following(&next),
                None => break,
            }
        }
        Ok(taken)
    }

    /// All pages of a list.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}limit={PAGE}{cursor}")).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = following(&next),
                None => return Ok(items),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let doing = || format!("GET {path} of the admin API");
        let answer = self
            .client
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.key)
            .send()
            .await
            .map_err(Error::http(doing()))?;
        let status = answer.status();
        let body = answer.text().await.map_err(Error::http(doing()))?;
        if !status.is_success() {
            return Err(Error::Answer {
                doing: doing(),
                status: status.as_u16(),
                body,
            });
        }
        serde_json::from_str(&body).map_err(|error| Error::Unreadable {
            doing: format!("read the answer to {}", doing()),
            why: format!("{error}: {body}"),
        })
    }
}

/// Asks for the page after one.
fn following(cursor: &str) -> String {
    let cursor: String = form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
    format!("&cursor={cursor}")
}

fn unreadable(why: &str) -> Error {
    Error::Unreadable {
        doing: "read an answer of the admin API".to_owned(),
        why: why.to_owned(),
    }
}
