//! The record of a result as the action result of Bazel's remote execution API, which servers of Bazel's caches look into.
//!
//! The record itself stands where the standard output would; each blob is an output file whose path says which blob it is and
//! where it stands in the object: `blobs/DIGEST.OFFSET.LENGTH`. The message is written and read by hand: field numbers are those
//! of `build/bazel/remote/execution/v2/remote_execution.proto`, the encoding is that of Protocol Buffers.

use super::Place;
use crate::digest::Digest;
use crate::store::actions::Record;

/// `ActionResult.output_files`.
const OUTPUT_FILES: u64 = 2;
/// `ActionResult.stdout_raw`.
const STDOUT: u64 = 5;
/// `OutputFile.path`, `Digest.hash`.
const FIRST: u64 = 1;
/// `OutputFile.digest`, `Digest.size_bytes`.
const SECOND: u64 = 2;

/// Writes a record and the places of its blobs, of its action and of the listing that the action names.
pub(super) fn encode(key: Digest, record: &Record, places: &[(Digest, Place)]) -> Vec<u8> {
    let mut text = record.to_bytes();
    // The record says nothing of its key: an object under a wrong name would be a wrong result.
    text.extend_from_slice(format!("{}\n", seal(key, &text)).as_bytes());
    let mut bytes = Vec::new();
    for (digest, place) in places {
        let mut object = Vec::new();
        put_bytes(&mut object, FIRST, place.object.as_bytes());
        put_number(&mut object, SECOND, place.object_size);
        let mut file = Vec::new();
        put_bytes(&mut file, FIRST, format!("blobs/{digest}.{}.{}", place.offset, place.size).as_bytes());
        put_bytes(&mut file, SECOND, &object);
        put_bytes(&mut bytes, OUTPUT_FILES, &file);
    }
    put_bytes(&mut bytes, STDOUT, &text);
    bytes
}

/// Reads [`encode`]; `None` if anything is wrong with it.
pub(super) fn decode(key: Digest, bytes: &[u8]) -> Option<(Record, Vec<(Digest, Place)>)> {
    let (mut record, mut places) = (None, Vec::new());
    for field in fields(bytes) {
        match field? {
            (STDOUT, Value::Bytes(text)) => {
                let text = text.strip_suffix(b"\n")?;
                let (text, sealed) = text.split_at(text.iter().rposition(|byte| *byte == b'\n')? + 1);
                if sealed != seal(key, text).hex().as_bytes() {
                    return None;
                }
                record = Some(Record::from_bytes(text).ok()?);
            }
            (OUTPUT_FILES, Value::Bytes(file)) => places.push(place(file)?),
            _ => {}
        }
    }
    Some((record?, places))
}

fn seal(key: Digest, text: &[u8]) -> Digest {
    Digest::of_json(&(key, Digest::of(text)))
}

fn place(file: &[u8]) -> Option<(Digest, Place)> {
    let (mut path, mut object) = (None, None);
    for field in fields(file) {
        match field? {
            (FIRST, Value::Bytes(text)) => path = Some(std::str::from_utf8(text).ok()?),
            (SECOND, Value::Bytes(digest)) => object = Some(digest),
            _ => {}
        }
    }
    let (mut hash, mut object_size) = (None, 0);
    for field in fields(object?) {
        match field? {
            (FIRST, Value::Bytes(text)) => hash = Some(std::str::from_utf8(text).ok()?),
            (SECOND, Value::Number(size)) => object_size = size,
            _ => {}
        }
    }
    // It becomes a part of an address.
    let object = hash.filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))?.to_owned();
    let mut parts = path?.strip_prefix("blobs/")?.split('.');
    let (digest, offset, size) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let end = u64::checked_add(offset, size)?;
    (end <= object_size).then_some((digest, Place { object, object_size, offset, size }))
}

/// A value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Returns the fields of a message; `None` where it is damaged, and nothing after that.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended || rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        ended = field.is_none();
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = number(rest)?;
    let value = match tag & 7 {
        0 => Value::Number(number(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let length = number(rest)?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = tail;
    Some(head)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(first & 127).checked_shl(shift)?;
        if first & 128 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_round_trips_and_every_damage_is_seen() {
        let key = Digest::of(b"key");
        let blob = Digest::of(b"blob");
        let record = Record::whole(blob, vec![(blob, 4)], Vec::new(), Default::default());
        let place = Place { object: "0a".repeat(32), object_size: 1_000_000, offset: 300, size: 4 };
        let bytes = encode(key, &record, &[(blob, place.clone())]);
        assert_eq!(decode(key, &bytes), Some((record.clone(), vec![(blob, place.clone())])));
        assert_eq!(decode(Digest::of(b"other"), &bytes), None, "it lies under another key");
        for at in 0..bytes.len() {
            assert!(decode(key, &bytes[..at]).is_none(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // What is damaged in the places leads to bytes of another digest; the record itself must be whole.
            assert!(decode(key, &damaged).is_none_or(|(found, _)| found == record), "byte {at}");
        }
        let outside = Place { offset: 999_999, ..place };
        assert_eq!(decode(key, &encode(key, &record, &[(blob, outside)])), None);
    }

    #[test]
    fn the_encoding_is_that_of_protocol_buffers() {
        // The example of the encoding's documentation: field 1 is 150, field 2 is "testing".
        let mut bytes = Vec::new();
        put_number(&mut bytes, 1, 150);
        put_bytes(&mut bytes, 2, b"testing");
        assert_eq!(bytes, [8, 0x96, 1, 0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g']);
    }
}
