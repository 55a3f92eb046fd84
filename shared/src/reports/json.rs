//! A report as JSON: its fields, each as it is written. What stands twice is refused.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Parameter;

/// The fields of an object, in order.
pub(super) struct Fields<'b>(pub(super) Vec<(Cow<'b, str>, &'b RawValue)>);

/// A name that may hold escapes.
struct Name<'b>(Cow<'b, str>);

impl<'b> Deserialize<'b> for Name<'b> {
    fn deserialize<D: Deserializer<'b>>(from: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'b> Visitor<'b> for Reads {
            type Value = Name<'b>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'b str) -> Result<Name<'b>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'b>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        from.deserialize_str(Reads)
    }
}

impl<'b> Deserialize<'b> for Fields<'b> {
    fn deserialize<D: Deserializer<'b>>(from: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'b> Visitor<'b> for Reads {
            type Value = Fields<'b>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Fields<'b>, A::Error> {
                let mut fields: Vec<(Cow<'b, str>, &'b RawValue)> = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    let known = Parameter::named(&name);
                    if let Some((parameter, place)) = known
                        && fields.iter().any(|(before, _)| *before == name)
                    {
                        return Err(de::Error::duplicate_field(parameter.names()[place]));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Reads)
    }
}

/// What a value says.
pub(super) enum Text<'b> {
    Null,
    /// A string's content, or a number as it is written.
    Said(Cow<'b, str>),
    /// As it is written.
    Other(&'b str),
}

/// A value as text: no digit passes through floating point.
pub(super) fn as_text(value: &RawValue) -> Text<'_> {
    let written = value.get();
    match written.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => Text::Said(Cow::Borrowed(written)),
        Some(b'"') => match serde_json::from_str(written) {
            Ok(text) => Text::Said(Cow::Owned(text)),
            Err(_) => Text::Other(written), // half a surrogate pair
        },
        Some(b'n') => Text::Null,
        _ => Text::Other(written),
    }
}
