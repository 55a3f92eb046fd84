//! Clicks as they might come: links and networks in the proportions of Zipf's law, returning visitors, a few
//! thousand agents and sites. The same for the same number.

use std::ops::Range;

use prost::Message as _;
use tributary_shared::click_token::{ClickToken, Place};
use tributary_shared::clock::event_time;
use tributary_shared::events::{Click, Clicks, FetchDest};
use tributary_shared::ids::LinkId;
use tributary_shared::secrets::KeyRing;
use uuid::Uuid;

use crate::dice::roll;

/// Tenants; the first have the most programs and so the most clicks.
pub(crate) const TENANTS: u64 = 5;
const AFFILIATES: u64 = 5_000;
const PROGRAMS: u64 = 20;
/// Of a hundred clicks.
const RETURNING: u64 = 30;
const VISITORS: u64 = 1_000_000;

const AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{} Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36 Edg/{}.0.0.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{}.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{}.0) Gecko/20100101 Firefox/{}.0",
    "Mozilla/5.0 (Linux; Android 14; SM-S9{}) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.{}; +http://www.google.com/bot.html)",
];

/// A number from 1 to `most` in the proportions of Zipf's law, nearly: each power of two is as likely.
fn zipf(random: u64, most: u64) -> u64 {
    let powers = u64::from(most.ilog2()) + 1;
    let low = 1_u64 << (random % powers);
    let width = low.min(most + 1 - low);
    low + (random / powers) % width
}

fn dice(what: &str, n: u64) -> u64 {
    roll(1, what, usize::try_from(n).unwrap_or(usize::MAX))
}

/// The n-th click, at a moment, standing at a place of a journal.
fn click(keys: &KeyRing, n: u64, at_us: i64, place: Place) -> Click {
    let link = zipf(dice("link", n), 100_000);
    let program = 1 + dice("program", link) % PROGRAMS;
    let tenant = 1 + zipf(dice("tenant", program), TENANTS) % TENANTS;
    let visitor = if dice("returning", n) % 100 < RETURNING {
        dice("visitor", n) % VISITORS
    } else {
        VISITORS + n
    };
    let network = dice("network", zipf(dice("network of", visitor), 200_000)).to_be_bytes();
    let [host, ..] = dice("host", visitor).to_be_bytes();
    let agent = zipf(dice("agent", visitor), 2_000);
    let site = dice("site", link) % 1_500 + zipf(dice("page", n), 16);
    let referrer = match dice("referrer", n) % 10 {
        0..4 => String::new(),
        4..6 => "https://www.google.com/".to_owned(),
        _ => format!("https://www.site{site}.example/posts/the-best-of-{site}"),
    };
    let sub = |every: u64, text: String| {
        if link.is_multiple_of(every) {
            text
        } else {
            String::new()
        }
    };
    let name = |what: &str| {
        let (high, low) = (dice(what, visitor), dice(what, !visitor));
        [high.to_be_bytes(), low.to_be_bytes()].concat()
    };
    let at = event_time(at_us).unwrap_or_default();
    let link_id = LinkId(i64::try_from(link).unwrap_or(1));
    let which = usize::try_from(agent % 8).unwrap_or(0);
    Click {
        click_id: ClickToken::of(keys, link_id, at, place).to_string(),
        received_at_us: at_us,
        tenant_id: tenant,
        program_id: program,
        affiliate_id: 1 + dice("affiliate", link) % AFFILIATES,
        link_id: link,
        visitor_id: name("visitor id"),
        fingerprint: name("fingerprint"),
        address: vec![network[0] % 223 + 1, network[1], network[2], host],
        user_agent: AGENTS[which].replace("{}", &agent.to_string()),
        referrer,
        accept_language: format!("en-US,en;q=0.{}", agent % 10),
        sub_ids: vec![
            sub(3, format!("campaign{}", link % 50)),
            sub(9, format!("ad{}", zipf(dice("ad", n), 30))),
        ],
        utm_source: sub(4, "newsletter".to_owned()),
        utm_campaign: sub(4, format!("autumn{}", link % 7)),
        fetch_dest: FetchDest::Document.into(),
        ..Click::default()
    }
}

/// A message of topic `clicks`: these clicks of a segment, `step_us` apart from `from_us` on.
pub(crate) fn message(
    keys: &KeyRing,
    segment: [u8; 16],
    first_sequence: u32,
    clicks: Range<u64>,
    from_us: i64,
    step_us: i64,
) -> Vec<u8> {
    let made = |((n, step), sequence)| {
        let place = Place {
            segment: Uuid::from_bytes(segment),
            sequence,
        };
        click(keys, n, from_us + step_us * step, place)
    };
    Clicks {
        clicks: clicks.zip(0..).zip(first_sequence..).map(made).collect(),
        segment_id: segment.to_vec(),
        first_sequence,
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_bounds_and_proportions() {
        let drawn: Vec<u64> = (0..20_000).map(|n| zipf(dice("test", n), 1000)).collect();
        assert!(drawn.iter().all(|n| (1..=1000).contains(n)));
        let share = |most: u64| drawn.iter().filter(|n| **n <= most).count();
        assert!(share(1) > 1_500 && share(31) > 9_000 && share(31) < 11_000);
    }

    #[test]
    fn a_message_can_be_read() {
        let keys = "1:abababababababababababababababababababababababababababababababab";
        let bytes = message(
            &keys.parse().unwrap(),
            [7; 16],
            5,
            100..103,
            1_763_000_000_000_000,
            10,
        );
        let read = Clicks::decode(&*bytes).unwrap();
        assert_eq!((read.clicks.len(), read.first_sequence), (3, 5));
        assert!(
            read.clicks
                .iter()
                .all(|c| (1..=TENANTS).contains(&c.tenant_id))
        );
    }
}
