//! A list as CSV: one column a field, nested fields as `rule.percent`, several amounts of money as
//! `12.50 USD; 3.00 EUR`, and lists of anything larger as JSON.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::error::Problem;

/// What a table is sent as.
pub(crate) const MEDIA_TYPE: &str = "text/csv; charset=utf-8";

/// `items` as a table. The first item names the columns; without items the table is empty.
pub(crate) fn table<T: Serialize>(items: &[T]) -> Result<Response, Problem> {
    let text = write(items).map_err(|error| {
        tracing::error!(%error, "a list could not be written as CSV");
        Problem::internal()
    })?;
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

fn write<T: Serialize>(items: &[T]) -> Result<Vec<u8>, WriteError> {
    let mut table = Table::default();
    for item in items {
        table.add(item)?;
    }
    table.take()
}

/// Why an item could not be written: it is no plain data.
pub(crate) type WriteError = Box<dyn std::error::Error + Send + Sync>;

/// A table that grows line by line, and of which what is written can be taken away at any time.
#[derive(Debug)]
pub(crate) struct Table {
    writer: csv::Writer<Vec<u8>>,
    named: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            writer: csv::Writer::from_writer(Vec::new()),
            named: false,
        }
    }
}

impl Table {
    /// Adds a line, and before the first one the columns' names.
    pub(crate) fn add<T: Serialize>(&mut self, item: &T) -> Result<(), WriteError> {
        let mut cells = Vec::new();
        flatten(String::new(), &serde_json::to_value(item)?, &mut cells);
        if !self.named {
            self.writer
                .write_record(cells.iter().map(|(name, _)| name))?;
            self.named = true;
        }
        self.writer
            .write_record(cells.iter().map(|(_, cell)| cell))?;
        Ok(self.writer.flush()?)
    }

    /// Bytes that wait to be taken.
    pub(crate) fn len(&self) -> usize {
        self.writer.get_ref().len()
    }

    pub(crate) fn take(&mut self) -> Result<Vec<u8>, WriteError> {
        let next = csv::Writer::from_writer(Vec::new());
        let written = std::mem::replace(&mut self.writer, next);
        Ok(written
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)?)
    }
}

fn flatten(name: String, value: &Value, cells: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if name.is_empty() || !is_money(value) => {
            for (field, value) in fields {
                let name = if name.is_empty() {
                    field.clone()
                } else {
                    format!("{name}.{field}")
                };
                flatten(name, value, cells);
            }
        }
        other => cells.push((name, cell(other))),
    }
}

fn is_money(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|o| o.len() == 2 && o.contains_key("amount") && o.contains_key("currency"))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => harmless(text),
        Value::Array(values) if values.iter().any(|v| v.is_object() && !is_money(v)) => {
            value.to_string()
        }
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join("; "),
        Value::Object(fields) => {
            let part = |name| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{} {}", part("amount"), part("currency"))
        }
        other => other.to_string(),
    }
}

/// A spreadsheet runs what begins like a formula, and an order id comes from outside.
pub(crate) fn harmless(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula && text.parse::<rust_decimal::Decimal>().is_err() {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_become_columns() {
        let items = [
            json!({"id": 1, "rule": {"id": 2, "percent": "10"}, "split": [{"to": "a", "weight": 1}], "revenue": [{"amount": "1.00", "currency": "USD"}, {"amount": "5", "currency": "JPY"}], "x": null}),
            json!({"id": 2, "rule": {"id": 2, "percent": "-3"}, "split": [], "revenue": [], "x": "=1+1,\"y\""}),
        ];
        let text = String::from_utf8(write(&items).unwrap()).unwrap();
        assert_eq!(
            text,
            "id,rule.id,rule.percent,split,revenue,x\n1,2,10,\"[{\"\"to\"\":\"\"a\"\",\"\"weight\"\":1}]\",1.00 USD; 5 JPY,\n2,2,-3,,,\"'=1+1,\"\"y\"\"\"\n"
        );
    }
}
