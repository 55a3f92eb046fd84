//! The log of who changed what: written in the transaction of the change, never changed itself (the database refuses it).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;

use crate::auth::Actor;
use crate::error::Problem;

/// What was done to something, as the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Created,
    Changed,
    Deleted,
    /// About a conversion, by a person.
    Decided,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Decided => "decided",
        }
    }
}

/// Somebody, at some time, for a tenant.
#[derive(Debug)]
pub(crate) struct Audit<'a> {
    pub tenant: TenantId,
    pub actor: &'a Actor,
    pub at: DateTime<Utc>,
}

/// One thing that was changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// program, rule, blocked, conversion ...
    pub kind: &'static str,
    pub id: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Audit<'_> {
    /// Writes down what was done to these, in the transaction of the change.
    pub(crate) async fn note(
        &self,
        connection: &mut PgConnection,
        action: Action,
        changes: &[Change],
    ) -> Result<(), sqlx::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO audit_log (tenant_id, at, actor, action, entity_kind, entity_id, before, after)
             SELECT $1, $2, $3, $4, kind, id, before, after
             FROM unnest($5::text[], $6::text[], $7::jsonb[], $8::jsonb[]) WITH ORDINALITY AS w (kind, id, before, after, place)
             ORDER BY place",
        )
        .bind(self.tenant)
        .bind(self.at)
        .bind(&self.actor.0)
        .bind(action.as_str())
        .bind(changes.iter().map(|change| change.kind).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.before.clone()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.after.clone()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// A thing as the API shows it.
pub(crate) fn shown(thing: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(thing).map_err(|error| {
        tracing::error!(%error, "a change could not be written down");
        Problem::internal()
    })
}

/// Of two states of a thing the fields that differ; none: nothing does.
pub(crate) fn difference(before: &Value, after: &Value) -> Option<(Value, Value)> {
    let (before, after) = (before.as_object()?, after.as_object()?);
    let names = before.keys().chain(after.keys());
    let (mut was, mut is) = (Map::new(), Map::new());
    for name in names.filter(|name| before.get(*name) != after.get(*name)) {
        let of = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
        was.insert(name.clone(), of(before));
        is.insert(name.clone(), of(after));
    }
    (!was.is_empty()).then_some((Value::Object(was), Value::Object(is)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_holds_what_differs() {
        let before = json!({"name": "a", "hold": 5, "gone": true});
        let after = json!({"name": "a", "hold": 6, "new": [1]});
        assert_eq!(
            difference(&before, &after),
            Some((
                json!({"hold": 5, "gone": true, "new": null}),
                json!({"hold": 6, "gone": null, "new": [1]})
            ))
        );
        assert_eq!(difference(&before, &before), None);
    }
}
