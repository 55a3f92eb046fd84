//! A click into the journal: the last step before the shopper is answered.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tributary_shared::click_token::Place;
use tributary_shared::events::Click;

use crate::journal::{Lane, Safety};

/// Field `clicks` of `Clicks`: with its key and length in front, a click is a `Clicks` of one, and
/// any number of them in a row are a `Clicks` of all.
const CLICKS_FIELD: u32 = 1;
/// More than any click takes: its texts are cut (redirect.rs, query.rs), together to some 3.5 KB.
const MAX_CLICK_BYTES: usize = 4096;

/// Where the next click that is recorded will stand; its token is made of that. None: there is no room, and it will
/// be lost.
pub(crate) fn next_place(lane: &mut Lane) -> Option<Place> {
    lane.next_place(MAX_CLICK_BYTES)
}

/// Writes a click. When it returns, the click survives the process, or was counted as lost. What is
/// returned must be waited for before the answer, where the settings say so.
pub(crate) fn record(lane: &mut Lane, click: &Click) -> Option<Safety> {
    let length = click.encoded_len();
    let framed = key_len(CLICKS_FIELD) + encoded_len_varint(length as u64) + length;
    debug_assert!(framed <= MAX_CLICK_BYTES);
    let waits = lane.syncs_before_reply();
    let appended = lane.append(framed, |mut out| {
        encode_key(CLICKS_FIELD, WireType::LengthDelimited, &mut out);
        encode_varint(length as u64, &mut out);
        click.encode_raw(&mut out);
    });
    match appended {
        Ok(appended) if waits => appended.safety(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_shared::events::Clicks;

    #[test]
    fn clicks_in_a_row_are_clicks() {
        let framed = |id: &str| {
            Clicks {
                clicks: vec![Click {
                    click_id: id.to_owned(),
                    ..Click::default()
                }],
                ..Clicks::default()
            }
            .encode_to_vec()
        };
        let mut row = framed("a");
        row.extend(framed("b"));
        let both = Clicks::decode(row.as_slice()).unwrap();
        let ids: Vec<&str> = both.clicks.iter().map(|c| c.click_id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
