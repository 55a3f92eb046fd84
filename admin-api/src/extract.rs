//! What handlers take from a request, refused as a [`Problem`] that names the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use uuid::Uuid;

use crate::error::{FieldError, Problem};

/// A JSON body that was understood, and its bytes.
#[derive(Debug)]
pub(crate) struct Body<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body as Content-Type: application/json",
            ));
        }
        let bytes = Bytes::from_request(request, state).await?;
        let value = parse(&bytes)?;
        Ok(Self { value, bytes })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take the fields' values in an array as well.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            Category::Data => {
                let text = error.to_string();
                // The position means little to somebody who sent one line.
                let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
                Problem::invalid(vec![FieldError {
                    field: field_name(&path, &message),
                    message,
                }])
            }
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::bad_request(format!("the body is not JSON: {error}"))
            }
        }
    })?;
    reader
        .end()
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// Where the mistake is. A missing or unknown field stands in the message alone.
fn field_name(path: &str, message: &str) -> String {
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    match (path, named) {
        ("." | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (path, _) => path.to_owned(),
    }
}

/// Reads a field of a PATCH that null clears (with `default` beside it): none when it was left out,
/// some when it was given, null or not.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A query string that was understood.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(crate) struct Query<T>(pub T);

/// The `{id}` of a path; what can't be an id is not found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_id(parts, state, "id").await.map(Self)
    }
}

/// The positive number that stands at `{name}` in the path.
pub(crate) async fn path_id<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<i64, Problem> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::not_found("path"))?;
    params
        .iter()
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
        .filter(|id: &i64| *id > 0)
        .ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "an id in the path is a positive whole number",
            )
        })
}

/// The `{id}` of a path to something that happened; what can't be one is not found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for EventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = path_text(parts, state, "id").await?;
        Uuid::parse_str(&text).map(Self).map_err(|_| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "an id in this path is a UUID such as 0199f3a4-5b6c-7d8e-9f01-23456789abcd",
            )
        })
    }
}

/// The `{name}` of a path.
#[derive(Debug, Clone)]
pub(crate) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_text(parts, state, "name").await.map(Self)
    }
}

/// What stands at `{name}` in the path.
pub(crate) async fn path_text<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|_| Problem::not_found("path"))?;
    let found = params.iter().find(|(key, _)| *key == name);
    found
        .map(|(_, value)| value.to_owned())
        .ok_or_else(|| Problem::not_found("path"))
}

/// How the caller wants a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Csv,
}

impl<S: Send + Sync> FromRequestParts<S> for Format {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wanted = first_accepted(&parts.headers, |media| match media {
            "text/csv" => Some(Self::Csv),
            "application/json" => Some(Self::Json),
            _ => None,
        });
        Ok(wanted.unwrap_or(Self::Json))
    }
}

/// How the caller wants what there is on paper as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PaperFormat {
    Json,
    Csv,
    Pdf,
}

impl PaperFormat {
    /// How a file of it ends; none: it is no file.
    pub(crate) fn file_ending(self) -> Option<&'static str> {
        match self {
            Self::Json => None,
            Self::Csv => Some("csv"),
            Self::Pdf => Some("pdf"),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PaperFormat {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wanted = first_accepted(&parts.headers, |media| match media {
            "text/csv" => Some(Self::Csv),
            "application/json" => Some(Self::Json),
            "application/pdf" => Some(Self::Pdf),
            _ => None,
        });
        Ok(wanted.unwrap_or(Self::Json))
    }
}

/// The first that is named of those that there are; JSON where none is.
fn first_accepted<T>(headers: &HeaderMap, known: impl Fn(&str) -> Option<T>) -> Option<T> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    accept
        .unwrap_or("")
        .split(',')
        .filter_map(|range| range.split(';').next())
        .find_map(|media| known(media.trim().to_ascii_lowercase().as_str()))
}

/// The `Idempotency-Key` header, with what it is bound to.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey {
    pub key: Option<String>,
    pub path: String,
}

/// Longest key, in characters.
const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let key = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => {
                return Err(Problem::bad_request("send one Idempotency-Key, not several"));
            }
            (Some(value), None) => Some(
                value
                    .to_str()
                    .ok()
                    .filter(|text| (1..=MAX_IDEMPOTENCY_KEY_CHARS).contains(&text.len()))
                    .ok_or_else(|| {
                        Problem::bad_request(format!(
                            "an Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters"
                        ))
                    })?
                    .to_owned(),
            ),
        };
        Ok(Self {
            key,
            path: parts.uri.path().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code)]
        name: String,
        #[expect(dead_code)]
        count: i64,
    }

    #[derive(Debug, Deserialize)]
    struct Change {
        #[serde(default, deserialize_with = "given")]
        cap: Option<Option<i64>>,
    }

    #[test]
    fn null_is_not_the_same_as_nothing() {
        let cap = |body: &str| parse::<Change>(body.as_bytes()).unwrap().cap;
        assert_eq!(cap("{}"), None);
        assert_eq!(cap(r#"{"cap":null}"#), Some(None));
        assert_eq!(cap(r#"{"cap":5}"#), Some(Some(5)));
    }

    fn refused(body: &str) -> String {
        let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
        format!(
            "{} {}",
            problem.status().as_u16(),
            serde_json::to_string(&problem).unwrap()
        )
    }

    #[test]
    fn a_mistake_in_json_names_its_field() {
        assert!(
            refused(r#"{"name":"a"}"#)
                .contains(r#"{"field":"count","message":"missing field `count`"}"#)
        );
        assert!(
            refused(r#"{"name":5,"count":1}"#)
                .contains(r#""field":"name","message":"invalid type"#)
        );
        assert!(refused(r#"{"name":"a","count":1,"x":2}"#).contains(r#""field":"x""#));
        assert!(refused(r#"{"name":"a","count":9e99}"#).contains(r#""field":"count""#));
        assert!(refused(r#"{"name":"#).starts_with("400"));
        assert!(refused("").starts_with("400"));
        assert!(refused(r#"{"name":"a","count":1} 2"#).starts_with("400"));
        assert!(refused("\"a\"").starts_with("422"));
        assert!(refused(r#" ["a", 1]"#).starts_with("400"));
    }
}
