//! The merchant: posts orders, some more than once, and some that must be refused.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use crate::Error;
use crate::browser::Clicked;
use crate::orders::{BadOrder, Deliveries, Flaw, Order, Orders, Via};
use crate::progress::Progress;
use crate::run_file::RunFile;

/// Orders that are being told at the same time.
const AT_ONCE: usize = 8;
/// A postback waits for Kafka; one that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What became of the orders, in the plan's order.
#[derive(Debug)]
pub(crate) struct Posted {
    /// The conversion's id, or what was wrong with an answer. None: its click had failed.
    pub(crate) good: Vec<Option<Result<String, String>>>,
    /// The refusal, or why it was none.
    pub(crate) bad: Vec<Result<String, String>>,
}

struct Shop {
    client: Client,
    url: String,
    token: String,
}

pub(crate) async fn post_all(
    system: &RunFile,
    orders: &Orders,
    clicked: &Clicked,
) -> Result<Posted, Error> {
    let shop = Shop {
        client: Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build()
            .map_err(Error::http("make a client"))?,
        url: format!("{}/postback", system.services.redirector.url),
        token: system.demo.postback_token.clone(),
    };
    let progress = Progress::new("orders", orders.good.len() + orders.bad.len());
    let good = futures::stream::iter(&orders.good)
        .map(async |order| {
            let outcome = match &clicked.click_ids[order.click] {
                Some(click_id) => Some(shop.tell(order, click_id).await),
                None => None,
            };
            progress.one_more();
            outcome
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut bad = Vec::new();
    for order in &orders.bad {
        let click_id = clicked.click_ids[order.click]
            .as_deref()
            .unwrap_or_default();
        bad.push(shop.be_refused(order, click_id).await);
        progress.one_more();
    }
    progress.finish();
    Ok(Posted { good, bad })
}

type Fields = Vec<(&'static str, String)>;

impl Shop {
    /// Tells an order as often as it says; every answer must name the same conversion.
    async fn tell(&self, order: &Order, click_id: &str) -> Result<String, String> {
        let fields: Fields = vec![
            ("order_id", order.order_id.clone()),
            ("amount", order.amount.clone()),
            ("currency", order.coin.code.to_owned()),
            ("click_id", click_id.to_owned()),
        ];
        let tell = || self.accepted(&fields, order.via);
        let answers = match order.deliveries {
            Deliveries::Once => vec![tell().await],
            Deliveries::Repeated(times) => {
                let mut answers = Vec::new();
                for _ in 0..times {
                    answers.push(tell().await);
                }
                answers
            }
            Deliveries::AtOnce(times) => {
                futures::future::join_all((0..times).map(|_| tell())).await
            }
        };
        let mut ids = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        ids.dedup();
        match ids.as_slice() {
            [id] => Ok(id.clone()),
            _ => Err(format!(
                "one order was given several ids: {}",
                ids.join(", ")
            )),
        }
    }

    async fn accepted(&self, fields: &Fields, via: Via) -> Result<String, String> {
        let (status, body) = self.send(fields, via, Some(&self.token)).await?;
        match (status, body["conversion_id"].as_str()) {
            (200, Some(id)) if body["status"] == "accepted" => Ok(id.to_owned()),
            _ => Err(format!("not accepted: {status} {body}")),
        }
    }

    async fn be_refused(&self, order: &BadOrder, click_id: &str) -> Result<String, String> {
        let mut fields: Fields = vec![
            ("order_id", order.order_id.clone()),
            ("amount", "49.90".to_owned()),
            ("currency", "USD".to_owned()),
            ("click_id", click_id.to_owned()),
        ];
        let mut put = |name: &'static str, value: Option<String>| {
            fields.retain(|(field, _)| *field != name);
            fields.extend(value.map(|value| (name, value)));
        };
        let mut token = Some(self.token.clone());
        match order.flaw {
            Flaw::Value(name, value) => put(name, Some(value.to_owned())),
            Flaw::Missing(name) => put(name, None),
            Flaw::ForgedClick => put("click_id", Some(forged(click_id))),
            Flaw::CutClick => put("click_id", Some(click_id.chars().take(40).collect())),
            Flaw::WrongToken => token = Some(self.token.chars().rev().collect()),
            Flaw::NoToken => token = None,
        }
        let (status, body) = self.send(&fields, order.via, token.as_deref()).await?;
        let said = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (error, message) = (said("error"), said("message"));
        if (400..500).contains(&status) && !error.is_empty() && !message.is_empty() {
            Ok(format!("{status} {error}: {message}"))
        } else {
            Err(format!("{:?} was answered {status} {body}", order.flaw))
        }
    }

    async fn send(
        &self,
        fields: &Fields,
        via: Via,
        token: Option<&str>,
    ) -> Result<(u16, Value), String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        if let (Some(token), Via::Get | Via::Form) = (token, via) {
            form.append_pair("token", token);
        }
        let form = form.finish();
        let request = match via {
            Via::Get => self.client.get(format!("{}?{form}", self.url)),
            Via::Form => self.form(form),
            Via::FormWithBearer => self.form(form).bearer_auth(token.unwrap_or_default()),
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|error| error.to_string())?;
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        Ok((status, body))
    }

    fn form(&self, form: String) -> RequestBuilder {
        self.client
            .post(&self.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    }
}

/// Another click id of the same form: its eleventh character is changed.
fn forged(click_id: &str) -> String {
    click_id
        .char_indices()
        .map(|(at, c)| match (at, c) {
            (10, 'A') => 'B',
            (10, _) => 'A',
            _ => c,
        })
        .collect()
}
