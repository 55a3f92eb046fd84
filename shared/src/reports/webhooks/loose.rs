//! Fields of bodies that others write: one that is missing, null or of another shape than expected says nothing, and
//! spoils nothing.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// A field that may say something.
#[derive(Debug)]
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Maybe<T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl Maybe<String> {
    /// What it says; an empty text says nothing.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

impl<T> Maybe<Vec<Maybe<T>>> {
    /// The elements that have the expected shape.
    pub(super) fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten().filter_map(Maybe::get)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Shape<T> {
            Expected(T),
            Other(IgnoredAny),
        }
        let shape = Option::<Shape<T>>::deserialize(from)?;
        Ok(Self(shape.and_then(|shape| match shape {
            Shape::Expected(value) => Some(value),
            Shape::Other(_) => None,
        })))
    }
}

/// Something that stands there itself or by its id.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Ref {
    Id(String),
    Whole { id: String },
}

impl Maybe<Ref> {
    pub(super) fn id(&self) -> Option<&str> {
        match self.0.as_ref()? {
            Ref::Id(id) | Ref::Whole { id } => Some(id).filter(|id| !id.is_empty()),
        }
        .map(String::as_str)
    }
}

/// An id that is a number to some and a text to others.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(u64),
    Text(String),
}

impl Maybe<Id> {
    pub(super) fn text(&self) -> Option<String> {
        match self.0.as_ref()? {
            Id::Number(number) => Some(number.to_string()),
            Id::Text(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        }
    }
}

/// What the merchant noted at an object.
pub(super) type Metadata = Maybe<BTreeMap<String, Maybe<String>>>;

impl Metadata {
    pub(super) fn of(&self, key: &str) -> Option<&str> {
        self.get()?.get(key)?.text()
    }
}
