//! Zip archives as PyTorch writes them: stored or deflated members, with or without the 64-bit fields (APPNOTE 6.3). Written
//! here rather than taken from a crate so that every length is bounded and one budget holds for the whole file; inflating is
//! `flate2`'s.

use std::collections::BTreeMap;
use std::io::Read;

use super::array::Slice;
use super::error::{Budget, Cursor, Error, length};

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// The end record without its comment, in bytes.
const END_LENGTH: usize = 22;
/// The locator of the 64-bit end record, in bytes.
const LOCATOR_LENGTH: usize = 20;

/// Whether bytes begin as a zip archive with a member does.
pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL)
}

/// A member.
#[derive(Clone, Copy, Debug)]
struct Member {
    method: u16,
    checksum: u32,
    packed: u64,
    size: u64,
    offset: u64,
}

/// An archive.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    members: BTreeMap<&'a str, Member>,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the end of the file.
    pub(super) fn open(bytes: &'a [u8], budget: &mut Budget) -> Result<Self, Error> {
        const WHAT: &str = "the directory of the zip archive";
        let start = find_end(bytes).ok_or(Error::Truncated(WHAT))?;
        let mut end = Cursor::new(&bytes[start..]);
        end.take(10, WHAT)?;
        let mut count = u64::from(end.u16(WHAT)?);
        let mut size = u64::from(end.u32(WHAT)?);
        let mut offset = u64::from(end.u32(WHAT)?);
        if let Some(locator) = start.checked_sub(LOCATOR_LENGTH).map(|at| &bytes[at..start])
            && locator.starts_with(LOCATOR_64)
        {
            let at = length(Cursor::new(&locator[8..]).u64(WHAT)?, WHAT)?;
            let mut end = Cursor::new(bytes.get(at..).ok_or(Error::Truncated(WHAT))?);
            if end.take(4, WHAT)? != END_64 {
                return Err(Error::malformed("the end of the zip archive is damaged"));
            }
            end.take(28, WHAT)?;
            (count, size, offset) = (end.u64(WHAT)?, end.u64(WHAT)?, end.u64(WHAT)?);
        }
        let (offset, size) = (length(offset, WHAT)?, length(size, WHAT)?);
        let range = offset..offset.checked_add(size).ok_or(Error::Truncated(WHAT))?;
        let mut directory = Cursor::new(bytes.get(range).ok_or(Error::Truncated(WHAT))?);
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let (name, member) = member(&mut directory)?;
            budget.take_values(2, size_of::<(&str, Member)>())?;
            if members.insert(name, member).is_some() {
                return Err(Error::malformed(format!("the zip archive has `{name}` twice")));
            }
        }
        Ok(Self { bytes, members })
    }

    /// Returns the names of all members, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.members.keys().copied()
    }

    /// Returns the content of a member, `None` if there is none of this name.
    pub(super) fn read(&self, name: &str, budget: &mut Budget) -> Result<Option<Slice<'a>>, Error> {
        const WHAT: &str = "a member of the zip archive";
        let Some(member) = self.members.get(name) else { return Ok(None) };
        let at = length(member.offset, WHAT)?;
        let mut cursor = Cursor::new(self.bytes.get(at..).ok_or(Error::Truncated(WHAT))?);
        if cursor.take(4, WHAT)? != LOCAL {
            return Err(Error::malformed(format!("`{name}` in the zip archive has a damaged header")));
        }
        cursor.take(22, WHAT)?;
        let (name_length, extra_length) = (cursor.u16(WHAT)?, cursor.u16(WHAT)?);
        cursor.take(usize::from(name_length) + usize::from(extra_length), WHAT)?;
        let packed = cursor.take(length(member.packed, WHAT)?, WHAT)?;
        let slice = match member.method {
            0 if member.packed == member.size => Slice::Input(packed),
            8 => {
                let size = length(member.size, WHAT)?;
                // Deflate packs at most 1032 to 1 (zlib's technical notes), which no size out of the air can exceed.
                if size as u64 / 1032 > packed.len() as u64 {
                    return Err(Error::malformed(format!("`{name}` in the zip archive cannot have {size} bytes")));
                }
                budget.take(member.size)?;
                let mut inflated = Vec::with_capacity(size);
                let inflating = flate2::read::DeflateDecoder::new(packed).take(member.size.saturating_add(1));
                let read = { inflating }.read_to_end(&mut inflated);
                if read.is_err() || inflated.len() != size {
                    return Err(Error::malformed(format!("`{name}` in the zip archive is damaged")));
                }
                Slice::made(inflated)
            }
            method => {
                let message = format!("`{name}` in the zip archive is packed by method {method}, which is not read");
                return Err(Error::unsupported(message));
            }
        };
        let mut checksum = flate2::Crc::new();
        checksum.update(slice.bytes());
        // A fuzzer does not guess checksums; an attacker computes them.
        if checksum.sum() != member.checksum && !cfg!(fuzzing) {
            return Err(Error::malformed(format!("`{name}` in the zip archive is damaged: its checksum differs")));
        }
        Ok(Some(slice))
    }
}

/// Finds the end record, which a comment of up to 65535 bytes may follow.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_LENGTH)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        let comment = usize::from(u16::from_le_bytes([bytes[at + 20], bytes[at + 21]]));
        bytes[at..].starts_with(END) && at + END_LENGTH + comment == bytes.len()
    })
}

/// Reads one entry of the directory.
fn member<'a>(directory: &mut Cursor<'a>) -> Result<(&'a str, Member), Error> {
    const WHAT: &str = "the directory of the zip archive";
    if directory.take(4, WHAT)? != CENTRAL {
        return Err(Error::malformed("the directory of the zip archive is damaged"));
    }
    directory.take(4, WHAT)?;
    let (flags, method) = (directory.u16(WHAT)?, directory.u16(WHAT)?);
    directory.take(4, WHAT)?;
    let checksum = directory.u32(WHAT)?;
    let (mut packed, mut size) = (u64::from(directory.u32(WHAT)?), u64::from(directory.u32(WHAT)?));
    let (name, extra, comment) = (directory.u16(WHAT)?, directory.u16(WHAT)?, directory.u16(WHAT)?);
    directory.take(8, WHAT)?;
    let mut offset = u64::from(directory.u32(WHAT)?);
    let name = directory.take(name.into(), WHAT)?;
    let name = std::str::from_utf8(name).map_err(|_| Error::malformed("a name in the zip archive is not UTF-8"))?;
    let mut extra = Cursor::new(directory.take(extra.into(), WHAT)?);
    directory.take(comment.into(), WHAT)?;
    if flags & 1 != 0 {
        return Err(Error::unsupported(format!("`{name}` in the zip archive is encrypted")));
    }
    while let (Ok(kind), Ok(long)) = (extra.u16(WHAT), extra.u16(WHAT)) {
        let mut field = Cursor::new(extra.take(long.into(), WHAT)?);
        if kind != 1 {
            continue;
        }
        for value in [&mut size, &mut packed, &mut offset] {
            if *value == u64::from(u32::MAX) {
                *value = field.u64(WHAT)?;
            }
        }
    }
    Ok((name, Member { method, checksum, packed, size, offset }))
}
