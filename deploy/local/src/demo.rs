//! The demo tenant: a shop with five affiliates and twenty links, made once through the admin API.
//!
//! Each step looks first and creates what is missing, so it can be broken off anywhere and goes on at
//! the next start. What the API shows only once is written to `data/demo.json` at once; what was lost
//! all the same is made anew. After the first success nothing is touched again: what a person
//! changes or removes stays so.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::data_dir::{DataDir, write_private};
use crate::http;
use crate::run_file::DemoAccess;
use crate::secrets::Secrets;

/// The tenant's slug.
pub(crate) const TENANT: &str = "demo";
const ADMIN_EMAIL: &str = "admin@demo.example";
const PROGRAM: &str = "Demo shop";
const LINK: &str = "demo";

const WINDOW_SECONDS: u32 = 30 * 24 * 60 * 60;
const HOLD_SECONDS: u32 = 14 * 24 * 60 * 60;

/// A partner of the demo shop.
struct Affiliate {
    name: &'static str,
    email: &'static str,
    /// Code, and page of the shop.
    links: [(&'static str, &'static str); 4],
}

/// The first one's first link is [`LINK`].
const AFFILIATES: [Affiliate; 5] = [
    Affiliate {
        name: "Marta's Kitchen",
        email: "marta@kitchen.example",
        links: [
            (LINK, ""),
            ("chef-knife", "knives/chef"),
            ("cast-iron", "pans/cast-iron"),
            ("pasta-maker", "machines/pasta"),
        ],
    },
    Affiliate {
        name: "Northern Trails",
        email: "hello@northern-trails.example",
        links: [
            ("trail-stove", "outdoor/stove"),
            ("camp-mug", "outdoor/mug"),
            ("thermos", "outdoor/thermos"),
            ("winter-sale", "sale/winter"),
        ],
    },
    Affiliate {
        name: "Coffee Weekly",
        email: "editors@coffee-weekly.example",
        links: [
            ("burr-grinder", "coffee/grinder"),
            ("moka-pot", "coffee/moka"),
            ("pour-over", "coffee/pour-over"),
            ("espresso", "coffee/espresso"),
        ],
    },
    Affiliate {
        name: "Bargain Harbor",
        email: "deals@bargain-harbor.example",
        links: [
            ("ten-off", "sale/ten-off"),
            ("clearance", "sale/clearance"),
            ("bundle", "sale/bundle"),
            ("gift-card", "gift-card"),
        ],
    },
    Affiliate {
        name: "Studio Lindqvist",
        email: "studio@lindqvist.example",
        links: [
            ("ceramics", "table/ceramics"),
            ("linen", "table/linen"),
            ("oak-board", "table/oak-board"),
            ("new-in", "new"),
        ],
    },
];

/// A failed attempt is repeated: a service may be restarting.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// How long a new link may take to reach the redirector.
const LINK_LIMIT: Duration = Duration::from_secs(20);

/// The most that one page of a list holds.
const PAGE: u32 = 100;

/// `data/demo.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    api_key: Option<String>,
    postback_token: Option<String>,
    /// Everything was there once.
    complete: bool,
}

impl Kept {
    fn load(data: &DataDir) -> Self {
        // A damaged file is as good as none: its keys are made anew.
        std::fs::read(data.join("demo.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn save(&self, data: &DataDir) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).map_err(|why| Error::Demo(why.to_string()))?;
        write_private(&data.join("demo.json"), &text)
    }
}

/// Sees to the demo tenant and waits until its link redirects.
pub(crate) async fn set_up(
    data: &DataDir,
    secrets: &Secrets,
    admin_url: &str,
    redirect_url: &str,
) -> Result<DemoAccess, Error> {
    let mut attempt = 1;
    let (api_key, postback_token) = loop {
        match seed(data, secrets, admin_url).await {
            Ok(keys) => break keys,
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
        sleep(PAUSE).await;
    };
    let link_url = format!("{redirect_url}/r/{LINK}");
    until_it_redirects(&link_url).await?;
    Ok(DemoAccess {
        tenant: TENANT.to_owned(),
        admin_email: ADMIN_EMAIL.to_owned(),
        admin_password: secrets.admin_password.clone(),
        api_key,
        link_url,
        postback_token,
    })
}

async fn seed(
    data: &DataDir,
    secrets: &Secrets,
    admin_url: &str,
) -> Result<(String, String), Error> {
    let mut kept = Kept::load(data);
    let owner = Api {
        url: admin_url,
        key: &secrets.owner_key,
    };
    let tenant = owner
        .find_or_create(
            &format!("/v1/tenants?slug={TENANT}"),
            "slug",
            &json!({"slug": TENANT, "name": "Demo shop"}),
        )
        .await?;
    let tenant = format!("/v1/tenants/{}", id(&tenant)?);

    let api_key = match &kept.api_key {
        Some(key) if owner.with_key(key).accepts_key().await? => key.clone(),
        _ => {
            let body = json!({"name": "demo", "role": "admin"});
            let key = owner
                .create_secret(&format!("{tenant}/api-keys"), "key", &body)
                .await?;
            kept.api_key = Some(key.clone());
            // The links belong to the tenant that this key opens.
            kept.complete = false;
            kept.save(data)?;
            key
        }
    };
    let tokens = format!("{tenant}/postback-tokens");
    let postback_token = match &kept.postback_token {
        Some(token) if owner.lists_prefix_of(&tokens, token).await? => token.clone(),
        _ => {
            let body = json!({"name": "demo"});
            let token = owner.create_secret(&tokens, "token", &body).await?;
            kept.postback_token = Some(token.clone());
            kept.save(data)?;
            token
        }
    };
    if !kept.complete {
        let user = json!({
            "email": ADMIN_EMAIL, "password": secrets.admin_password, "role": "admin",
        });
        owner
            .find_or_create(&format!("{tenant}/users"), "email", &user)
            .await?;
        seed_catalogue(&owner.with_key(&api_key)).await?;
        kept.complete = true;
        kept.save(data)?;
    }
    Ok((api_key, postback_token))
}

/// Program, affiliates and links.
async fn seed_catalogue(api: &Api<'_>) -> Result<(), Error> {
    let program = json!({
        "name": PROGRAM,
        "currency": "USD",
        "commission_percent": "10",
        "window_seconds": WINDOW_SECONDS,
        "hold_seconds": HOLD_SECONDS,
    });
    let program = id(&api.find_or_create("/v1/programs", "name", &program).await?)?;
    for Affiliate { name, email, links } in AFFILIATES {
        let affiliate = json!({"name": name, "email": email});
        let affiliate = api
            .find_or_create("/v1/affiliates", "name", &affiliate)
            .await?;
        let affiliate = id(&affiliate)?;
        for (code, page) in links {
            let link = json!({
                "code": code,
                "program_id": program,
                "affiliate_id": affiliate,
                "destination": format!("https://shop.example/{page}?click_id={{click_id}}"),
            });
            api.find_or_create("/v1/links", "code", &link).await?;
        }
    }
    Ok(())
}

/// HEAD is answered as a click would be, and is none.
async fn until_it_redirects(link_url: &str) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let answer = match http::client().head(link_url).send().await {
            Ok(answer) if answer.status() == StatusCode::FOUND => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > LINK_LIMIT {
            let limit = LINK_LIMIT.as_secs();
            return Err(Error::Demo(format!(
                "{link_url} does not redirect after {limit} s ({answer})"
            )));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn id(item: &Value) -> Result<u64, Error> {
    item["id"]
        .as_u64()
        .ok_or_else(|| Error::Demo(format!("no id in {item}")))
}

/// The admin API with one key.
#[derive(Debug)]
struct Api<'a> {
    url: &'a str,
    key: &'a str,
}

impl Api<'_> {
    fn with_key<'b>(&'b self, key: &'b str) -> Api<'b> {
        Api { url: self.url, key }
    }

    /// The item whose `field` is as in `body`; `path` lists such items, and POST to it makes one.
    async fn find_or_create(&self, path: &str, field: &str, body: &Value) -> Result<Value, Error> {
        let items = self.list(path).await?;
        if let Some(item) = items.into_iter().find(|item| item[field] == body[field]) {
            return Ok(item);
        }
        let path = path.split('?').next().unwrap_or(path);
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Makes something whose secret is shown this once, and returns the secret.
    async fn create_secret(&self, path: &str, field: &str, body: &Value) -> Result<String, Error> {
        let made = self.ask(Method::POST, path, Some(body)).await?;
        made[field]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::Demo(format!("no {field} in the answer to POST {path}")))
    }

    /// Whether one of the listed items has the secret's beginning as its `prefix`.
    async fn lists_prefix_of(&self, path: &str, secret: &str) -> Result<bool, Error> {
        let items = self.list(path).await?;
        Ok(items.iter().any(|item| {
            item["prefix"]
                .as_str()
                .is_some_and(|prefix| secret.starts_with(prefix))
        }))
    }

    async fn accepts_key(&self) -> Result<bool, Error> {
        let (status, _) = self.send(Method::GET, "/v1/programs?limit=1", None).await?;
        Ok(status.is_success())
    }

    /// All pages of a list.
    async fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{mark}limit={PAGE}{cursor}");
            let mut answer = self.ask(Method::GET, &page, None).await?;
            if let Value::Array(found) = answer["items"].take() {
                items.extend(found);
            }
            match answer["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// The body of a 2xx answer.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let (status, answer) = self.send(method.clone(), path, body).await?;
        if status.is_success() {
            Ok(answer)
        } else {
            Err(Error::Demo(format!("{method} {path}: {status} {answer}")))
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Error> {
        let failed = |error: reqwest::Error| Error::Demo(error.to_string());
        let mut request = http::client()
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }
}
