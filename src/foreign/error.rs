//! What can be wrong with a foreign file, the memory that reading one may take, and a cursor over its bytes.

/// Why a file cannot be read. Every message is a fragment that follows the file's name and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end too early.
    #[error("it is cut off: {0} is incomplete")]
    Truncated(&'static str),
    /// A pickle asks for a class or function that is not among those that such files need.
    #[error(
        "it asks for `{0}`, which files of arrays and weights do not need; it was not run, and the file is not read"
    )]
    Refused(String),
    /// The bytes contradict themselves or their format.
    #[error("{0}")]
    Malformed(String),
    /// The format has it, and it is not read here.
    #[error("{0}")]
    Unsupported(String),
    /// Reading it would take more memory than its size justifies.
    #[error("it would grow to more than {0} bytes when it is read, out of proportion to its size")]
    TooLarge(u64),
}

impl Error {
    /// Makes an [`Error::Malformed`].
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::Malformed(message.into())
    }

    /// Makes an [`Error::Unsupported`].
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(message.into())
    }
}

/// How many bytes of memory each byte of a file may take: f16 weights that are stored once and named three times come to 6,
/// pickled small integers to about as many as this.
const PER_BYTE: u64 = 32;

/// What any file may take besides, in bytes.
const FREE: u64 = 16 << 20;

/// The memory that may still be taken.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    /// Grants what a file of `length` bytes may take: 32 times its length and 16 MiB.
    pub fn of(length: usize) -> Self {
        let limit = (length as u64).saturating_mul(PER_BYTE).saturating_add(FREE);
        Self { limit, left: limit }
    }

    /// Takes `bytes`, before they are allocated.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or(Error::TooLarge(self.limit))?;
        Ok(())
    }

    /// Takes room for `count` values of `size` bytes.
    pub(super) fn take_values(&mut self, count: usize, size: usize) -> Result<(), Error> {
        self.take((count as u64).saturating_mul(size as u64))
    }
}

/// Reads bytes from the front.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns how many bytes have been read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Takes `count` bytes; `what` names them in an error.
    pub(super) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or(Error::Truncated(what))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        Ok(self.take(N, what)?.try_into().expect("`take` returns as many bytes as asked for"))
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Takes a text up to a line feed, which is taken as well and not returned.
    pub(super) fn line(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(Error::Truncated(what))?;
        self.at += end + 1;
        Ok(&rest[..end])
    }
}

/// Returns a length as `usize`; one that does not fit cannot be the length of anything in memory.
pub(super) fn length(value: u64, what: &'static str) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::Truncated(what))
}
