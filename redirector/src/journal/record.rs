//! A record of the journal: how it is written, and how it is found again in bytes that may be torn
//! or damaged.
//!
//! ```text
//! byte 0..4    length of the payload; 0: nothing was written here
//! byte 4..8    CRC-32C over the segment's id, the length, the sequence and the payload
//! byte 8..12   sequence: the place of the record in its segment, from 0
//! byte 12..    payload, filled up to a multiple of 4 bytes
//! ```
//!
//! Numbers are little-endian. The segment's id is in the checksum so that nobody outside can hide a
//! record inside what we store of a request.

use uuid::Uuid;

/// Bytes before a payload.
pub(crate) const HEADER_BYTES: usize = 12;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 4;
/// Longest payload, in bytes. A longer length is damage.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Bytes that a record with a payload of `length` takes.
pub(crate) fn whole_bytes(length: usize) -> usize {
    (HEADER_BYTES + length).next_multiple_of(ALIGNMENT)
}

/// What the checksums of a segment begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(segment: Uuid) -> Self {
        Self(crc32c::crc32c(segment.as_bytes()))
    }

    fn checksum(self, length: [u8; 4], sequence: [u8; 4], payload: &[u8]) -> u32 {
        let [a, b, c, d] = length;
        let [e, f, g, h] = sequence;
        let begun = crc32c::crc32c_append(self.0, &[a, b, c, d, e, f, g, h]);
        crc32c::crc32c_append(begun, payload)
    }
}

/// Writes the header of a record whose payload is there already.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a payload is at most MAX_PAYLOAD_BYTES long"
)]
pub(crate) fn write_header(header: &mut [u8], seed: Seed, sequence: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_le_bytes();
    let sequence = sequence.to_le_bytes();
    header[0..4].copy_from_slice(&length);
    header[4..8].copy_from_slice(&seed.checksum(length, sequence, payload).to_le_bytes());
    header[8..12].copy_from_slice(&sequence);
}

/// A whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'b> {
    pub(crate) sequence: u32,
    pub(crate) payload: &'b [u8],
    /// Where the next one begins.
    pub(crate) end: usize,
}

/// The records in a segment's bytes, in order. What is no whole record is stepped over: the next
/// sequence tells how many are missing.
#[derive(Debug)]
pub(crate) struct Records<'b> {
    seed: Seed,
    bytes: &'b [u8],
    at: usize,
    /// The lowest sequence that may come next: what lies behind a damage can't be older.
    next_sequence: u32,
    damaged: bool,
}

impl<'b> Records<'b> {
    /// Reads from byte `from` on, a place where a record begins.
    pub(crate) fn new(seed: Seed, bytes: &'b [u8], from: usize) -> Self {
        Self {
            seed,
            bytes,
            at: from,
            next_sequence: 0,
            damaged: false,
        }
    }

    /// Whether bytes were stepped over that are neither a record nor untouched.
    pub(crate) fn damaged(&self) -> bool {
        self.damaged
    }

    /// The record at `at`, if there is a whole one.
    fn record_at(&self, at: usize) -> Option<Record<'b>> {
        let header = self.bytes.get(at..at + HEADER_BYTES)?;
        let field = |n: usize| [header[n], header[n + 1], header[n + 2], header[n + 3]];
        let length = u32::from_le_bytes(field(0)) as usize;
        if length == 0 || length > MAX_PAYLOAD_BYTES {
            return None;
        }
        let from = at + HEADER_BYTES;
        let payload = self.bytes.get(from..from + length)?;
        let sequence = u32::from_le_bytes(field(8));
        let intact =
            u32::from_le_bytes(field(4)) == self.seed.checksum(field(0), field(8), payload);
        (intact && sequence >= self.next_sequence).then_some(Record {
            sequence,
            payload,
            end: (at + whole_bytes(length)).min(self.bytes.len()),
        })
    }
}

impl<'b> Iterator for Records<'b> {
    type Item = Record<'b>;

    fn next(&mut self) -> Option<Record<'b>> {
        while self.at + HEADER_BYTES <= self.bytes.len() {
            if let Some(record) = self.record_at(self.at) {
                self.at = record.end;
                self.next_sequence = record.sequence.saturating_add(1);
                return Some(record);
            }
            let here = &self.bytes[self.at..self.at + ALIGNMENT];
            self.damaged |= here.iter().any(|b| *b != 0);
            self.at += ALIGNMENT;
        }
        // Too short for a record, and still nobody's but a cut one's.
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.damaged |= rest.iter().any(|b| *b != 0);
        None
    }
}

/// Records in a row, as a segment holds them.
#[cfg(any(test, fuzzing))]
pub(crate) fn written(seed: Seed, payloads: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sequence, payload) in (0..).zip(payloads) {
        let payload = payload.as_ref();
        let mut header = [0; HEADER_BYTES];
        write_header(&mut header, seed, sequence, payload);
        bytes.extend(header);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seed() -> Seed {
        Seed::new(Uuid::from_u128(7))
    }

    fn read(bytes: &[u8]) -> (Vec<(u32, Vec<u8>)>, bool) {
        let mut records = Records::new(seed(), bytes, 0);
        let found = records
            .by_ref()
            .map(|r| (r.sequence, r.payload.to_vec()))
            .collect();
        (found, records.damaged())
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 1..20)
    }

    #[test]
    fn a_file_that_was_cut_anywhere_in_a_record_is_damaged() {
        let whole = written(seed(), &[b"first", b"other"]);
        let first = whole_bytes(b"first".len());
        for cut in first + 1..first + HEADER_BYTES + b"other".len() {
            let (found, damaged) = read(&whole[..cut]);
            assert_eq!((found.len(), damaged), (1, true), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(payloads in payloads(), empty in 0..200_usize) {
            let mut bytes = written(seed(), &payloads);
            bytes.resize(bytes.len() + empty * ALIGNMENT, 0);
            let (found, damaged) = read(&bytes);
            prop_assert_eq!(found, (0..).zip(payloads).collect::<Vec<_>>());
            prop_assert!(!damaged);
        }

        #[test]
        fn a_torn_end_costs_the_torn_record_only(payloads in payloads(), cut in 1..112_usize) {
            let whole = written(seed(), &payloads);
            let last = whole_bytes(payloads.last().unwrap().len());
            // A last record that ends in padding is whole without its padding.
            let torn = (whole.len() - last) + cut.min(HEADER_BYTES + payloads.last().unwrap().len() - 1);
            let mut bytes = whole[..torn].to_vec();
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT) + 256, 0);
            let (found, _) = read(&bytes);
            // A payload of zeros that was cut can't be told from a whole one, and is one.
            prop_assert!(found.len() + 1 >= payloads.len() && found.len() <= payloads.len());
            for ((sequence, payload), expected) in found.iter().zip(&payloads) {
                prop_assert_eq!(payload, expected);
                prop_assert!((*sequence as usize) < payloads.len());
            }
        }

        #[test]
        fn a_damaged_byte_costs_one_record_and_is_noticed(payloads in payloads(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = written(seed(), &payloads);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let (found, damaged) = read(&bytes);
            prop_assert!(found.len() + 1 >= payloads.len());
            if found.len() < payloads.len() {
                prop_assert!(damaged);
            }
            for (sequence, payload) in found {
                prop_assert_eq!(&payload, &payloads[sequence as usize]);
            }
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..2000), from in 0..2100_usize) {
            let mut last = None;
            for record in Records::new(seed(), &bytes, from) {
                prop_assert!(record.end <= bytes.len() && last < Some(record.sequence));
                last = Some(record.sequence);
            }
        }
    }
}
