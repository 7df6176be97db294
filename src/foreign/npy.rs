//! NumPy's npy files, versions 1.0 to 3.0: plain arrays, and arrays of objects as a pickle (NumPy's `numpy.lib.format`).

use super::array::{Array, Dtype, MOST_DIMENSIONS, Slice, elements};
use super::error::{Budget, Cursor, Error, length};
use super::pickle::{Machine, no_persistent};
use super::tree::{Node, Tree};

/// What every npy file begins with.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads a file. The root of the tree is its array; [`super::View::item`] gives the dict in an array of one object.
///
/// # Errors
/// If it is no npy file, damaged, of a type that is not read, or a pickle that names anything but arrays and tensors.
pub fn read(bytes: &[u8]) -> Result<Tree<'_>, Error> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(MAGIC.len(), "its first line")? != MAGIC {
        return Err(Error::malformed("it is no npy file"));
    }
    let [major, minor] = cursor.array("its version")?;
    let header = match major {
        1 => u64::from(cursor.u16("its header")?),
        2 | 3 => u64::from(cursor.u32("its header")?),
        _ => return Err(Error::unsupported(format!("it has npy version {major}.{minor}, and 1 to 3 are read"))),
    };
    let header = cursor.take(length(header, "its header")?, "its header")?;
    let header = std::str::from_utf8(header).map_err(|_| Error::malformed("its header is not text"))?;
    let Header { dtype, fortran, shape } = Header::parse(header)?;
    let mut machine = Machine::new(Budget::of(bytes.len()));
    let root = if dtype == Dtype::Object {
        machine.run(&Slice::Input(bytes), &mut cursor, &mut no_persistent)?
    } else {
        let due = elements(&shape)?.checked_mul(dtype.size()).ok_or(Error::Truncated("its data"))?;
        let data = cursor.take(due, "its data")?;
        machine.keep(Node::Array(Box::new(Array::dense(dtype, shape, fortran, Slice::Input(data))?)))?
    };
    machine.into_tree(root)
}

/// What the header says, a dict in Python's words.
struct Header {
    dtype: Dtype,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Result<Self, Error> {
        let mut words = Words { rest: text };
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        words.expect('{')?;
        while !words.accept('}') {
            let key = words.quoted()?;
            words.expect(':')?;
            match key {
                "descr" if words.peek() == Some('[') => {
                    return Err(Error::unsupported("its array has named fields, which are not read"));
                }
                "descr" => dtype = Some(Dtype::parse(words.quoted()?)?),
                "fortran_order" => fortran = Some(words.truth()?),
                "shape" => shape = Some(words.shape()?),
                _ => return Err(damaged()),
            }
            if !words.accept(',') && words.peek() != Some('}') {
                return Err(damaged());
            }
        }
        match (dtype, fortran, shape) {
            (Some(dtype), Some(fortran), Some(shape)) => Ok(Self { dtype, fortran, shape }),
            _ => Err(damaged()),
        }
    }
}

fn damaged() -> Error {
    Error::malformed("its header is damaged")
}

/// Takes words from the front of a text.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn accept(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(sign);
        if found {
            self.rest = &self.rest[sign.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, sign: char) -> Result<(), Error> {
        if self.accept(sign) { Ok(()) } else { Err(damaged()) }
    }

    fn quoted(&mut self) -> Result<&'a str, Error> {
        let quote = self.peek().filter(|quote| matches!(quote, '\'' | '"')).ok_or_else(damaged)?;
        let (word, rest) = self.rest[1..].split_once(quote).ok_or_else(damaged)?;
        self.rest = rest;
        Ok(word)
    }

    fn truth(&mut self) -> Result<bool, Error> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn shape(&mut self) -> Result<Vec<usize>, Error> {
        self.expect('(')?;
        let mut shape = Vec::new();
        while !self.accept(')') {
            self.peek();
            let digits = self.rest.len() - self.rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            shape.push(number.parse().map_err(|_| damaged())?);
            // Python 2 wrote large numbers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if shape.len() > MOST_DIMENSIONS || (!self.accept(',') && self.peek() != Some(')')) {
                return Err(damaged());
            }
        }
        Ok(shape)
    }
}
