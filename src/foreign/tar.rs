//! Tar archives as PyTorch wrote them before version 0.2: plain files by name (POSIX ustar). Extended headers are passed over.

use std::collections::BTreeMap;

use super::error::{Cursor, Error, length};

const BLOCK: usize = 512;

/// Whether bytes begin as a tar archive does.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Returns the files of an archive by name.
pub(super) fn files(bytes: &[u8]) -> Result<BTreeMap<&str, &[u8]>, Error> {
    const WHAT: &str = "the tar archive";
    let mut cursor = Cursor::new(bytes);
    let mut files = BTreeMap::new();
    // Two blocks of zeros end it; so does the end of the file.
    while let Ok(header) = cursor.take(BLOCK, WHAT) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = header[148..156].iter().map(|byte| u32::from(*byte)).sum();
        if octal(&header[148..156]) != Some(u64::from(sum - own + 8 * u32::from(b' '))) {
            return Err(Error::malformed("a header of the tar archive is damaged: its checksum differs"));
        }
        let size =
            octal(&header[124..136]).ok_or_else(|| Error::malformed("a size in the tar archive is no number"))?;
        let size = length(size, WHAT)?;
        let content = cursor.take(size, WHAT)?;
        let rest = size.next_multiple_of(BLOCK) - size;
        // The last file may lack what fills up its block.
        let _ = cursor.take(rest, WHAT);
        if matches!(header[156], b'0' | 0) {
            let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
            let name =
                std::str::from_utf8(name).map_err(|_| Error::malformed("a name in the tar archive is not UTF-8"))?;
            files.insert(name.trim_start_matches("./"), content);
        }
    }
    Ok(files)
}

/// Reads an octal number that spaces or zeros end.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}
