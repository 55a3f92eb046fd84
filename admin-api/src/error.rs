//! What the API says when it can't do what was asked: RFC 9457 problem documents.
//!
//! [`Problem`] is the one error type of handlers. A caller's mistake says which field to change; an
//! engine that is away is a 503 with `Retry-After`; our own mistakes are logged and say nothing.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What a caller is told to wait when an engine is away, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// One field that has to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    #[schema(examples("commission_percent"))]
    pub field: String,
    pub message: String,
}

/// An error, as `application/problem+json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    #[schema(examples("about:blank"))]
    kind: &'static str,
    #[schema(examples("Unprocessable Entity"))]
    title: &'static str,
    #[schema(value_type = u16, examples(422))]
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// What to do about it.
    detail: String,
    /// The fields that have to change, when it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// `what` does not exist, or belongs to somebody else: the caller can't tell which.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    /// `field` has a value that must be unique and is taken.
    pub(crate) fn taken(field: &str, message: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::CONFLICT, "that exists already");
        problem.errors.push(FieldError {
            field: field.to_owned(),
            message: message.into(),
        });
        problem
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the request has fields that can't be taken: see errors",
        );
        problem.errors = errors;
        problem
    }

    /// Something we need is away; the caller should come back.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY_AFTER_SECONDS)
    }

    /// Our own mistake: the log has it, the caller does not.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "something went wrong on our side; it has been logged",
        )
    }

    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(database) => {
                let code = database.code().unwrap_or_default();
                match code.get(..2).unwrap_or_default() {
                    // A connection, shutdown, or limit; a statement that ran too long.
                    "08" | "53" | "57" => Self::postgres_away(&error),
                    // Data exceptions: a NUL in a text, a number out of range.
                    "22" => Self::bad_request("a value holds something that can't be stored"),
                    _ => {
                        tracing::error!(%error, %code, "PostgreSQL refused a statement");
                        Self::internal()
                    }
                }
            }
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::postgres_away(&error)
            }
            _ => {
                tracing::error!(%error, "a statement failed");
                Self::internal()
            }
        }
    }
}

impl Problem {
    fn postgres_away(error: &sqlx::Error) -> Self {
        tracing::warn!(%error, "PostgreSQL does not answer");
        Self::unavailable("the database does not answer at the moment; try again")
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "the path holds something that can't be an id: ids are positive whole numbers",
        )
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        let detail = text
            .strip_prefix("Failed to deserialize query string: ")
            .unwrap_or(&text);
        Self::bad_request(format!("the query string can't be read: {detail}"))
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "a request's body holds at most {} KiB",
                    crate::server::MAX_BODY_BYTES / 1024
                ),
            )
        } else {
            Self::bad_request("the request's body did not arrive whole")
        }
    }
}
