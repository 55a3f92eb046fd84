//! Lists: one page at a time, by a cursor that says where the last page ended. Rows that are added
//! meanwhile neither repeat nor hide a row.

use axum::Json;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::clock::from_micros;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::csv;
use crate::error::Problem;
use crate::extract::Format;

/// Items on a page when the caller names no number.
pub(crate) const DEFAULT_LIMIT: i64 = 50;
/// Most items on a page.
pub(crate) const MAX_LIMIT: i64 = 200;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    /// Give this as `cursor` to read on; null on the last page.
    pub next_cursor: Option<String>,
}

/// The query of a list without filters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Items on a page, 1 to 200; 50 by default.
    pub limit: Option<i64>,
    /// The last page's `next_cursor`.
    pub cursor: Option<String>,
}

/// Where a list that is sorted by id goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AfterId(pub i64);

/// Where a list that is sorted by time, newest first, goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BeforeTime(pub DateTime<Utc>, pub Uuid);

/// Where a list that is sorted by a number and a text goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AfterPair(pub i64, pub String);

/// A place in a list, written as opaque text.
pub(crate) trait Cursor: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Cursor for AfterId {
    fn write(&self) -> String {
        format!("i{}", self.0)
    }

    fn read(text: &str) -> Option<Self> {
        text.strip_prefix('i')?.parse().ok().map(Self)
    }
}

impl Cursor for AfterPair {
    fn write(&self) -> String {
        format!("p{}.{}", self.0, self.1)
    }

    fn read(text: &str) -> Option<Self> {
        let (number, text) = text.strip_prefix('p')?.split_once('.')?;
        Some(Self(number.parse().ok()?, text.to_owned()))
    }
}

impl Cursor for BeforeTime {
    fn write(&self) -> String {
        format!("t{}.{}", self.0.timestamp_micros(), self.1.simple())
    }

    fn read(text: &str) -> Option<Self> {
        let (micros, id) = text.strip_prefix('t')?.split_once('.')?;
        Some(Self(from_micros(micros.parse().ok()?)?, id.parse().ok()?))
    }
}

/// What a caller asked for: a number of items, after a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<C> {
    pub limit: i64,
    pub after: Option<C>,
}

impl<C: Cursor> Asked<C> {
    pub(crate) fn new(limit: Option<i64>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::bad_request(format!(
                "limit must be 1 to {MAX_LIMIT}"
            )));
        }
        let after = cursor
            .map(|text| {
                URL_SAFE_NO_PAD
                    .decode(text)
                    .ok()
                    .and_then(|bytes| C::read(std::str::from_utf8(&bytes).ok()?))
                    .ok_or_else(|| {
                        Problem::bad_request("cursor must be a next_cursor of this list, unchanged")
                    })
            })
            .transpose()?;
        Ok(Self { limit, after })
    }

    /// How many rows to read: one more than asked for shows whether there is another page.
    pub(crate) fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// The page made of `rows`, of which `place` says where each stands.
    pub(crate) fn page<R, T>(
        &self,
        mut rows: Vec<R>,
        place: impl Fn(&R) -> C,
        item: impl FnMut(R) -> T,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|last| URL_SAFE_NO_PAD.encode(place(last).write()));
        Page {
            items: rows.into_iter().map(item).collect(),
            next_cursor,
        }
    }
}

impl<T: Serialize> Page<T> {
    /// The page as JSON, or as CSV with the cursor in the header `Next-Cursor`.
    pub(crate) fn respond(self, format: Format) -> Result<Response, Problem> {
        if format == Format::Json {
            return Ok(Json(self).into_response());
        }
        let mut response = csv::table(&self.items)?;
        if let Some(value) = self.next_cursor.and_then(|c| HeaderValue::try_from(c).ok()) {
            response.headers_mut().insert("next-cursor", value);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_to_the_rest() {
        let first = Asked::<AfterId>::new(Some(2), None).unwrap();
        let page = first.page(vec![1, 2, 3], |row| AfterId(*row), |row| row);
        assert_eq!(page.items, [1, 2]);
        let second = Asked::<AfterId>::new(Some(2), page.next_cursor.as_deref()).unwrap();
        assert_eq!(second.after, Some(AfterId(2)));
        assert_eq!(
            second
                .page(vec![3], |row| AfterId(*row), |row| row)
                .next_cursor,
            None
        );
    }

    #[test]
    fn a_place_in_time_is_read_back() {
        let place = BeforeTime(
            from_micros(1_700_000_000_123_456).unwrap(),
            Uuid::from_u128(7),
        );
        assert_eq!(BeforeTime::read(&place.write()), Some(place));
        let place = AfterPair(7, "USD".to_owned());
        assert_eq!(AfterPair::read(&place.write()), Some(place));
    }

    #[test]
    fn foreign_cursors_and_limits_are_refused() {
        for bad in ["", "x", "aTE", "!!", "dDEuMg"] {
            assert!(Asked::<BeforeTime>::new(None, Some(bad)).is_err(), "{bad}");
        }
        for bad in [0, -1, 201] {
            assert!(Asked::<AfterId>::new(Some(bad), None).is_err(), "{bad}");
        }
    }
}
