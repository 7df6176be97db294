//! MATLAB's mat files of level 5 (the MAT-File Format document of MathWorks): finds one matrix of small whole numbers by the names
//! that lead to it, such as `GTcls` and `Segmentation`, and skips everything else. Knows nothing of what the numbers mean.
//!
//! A file is a row of elements, each with a type and a length; a variable is one element, usually deflated as a whole. Lengths are
//! checked against what is there before anything is allocated, and the depth of structs is the number of names that were asked for.

use std::io::Read as _;

use super::array::elements;
use super::error::{Budget, Cursor, Error, length};

/// The header of a file, in bytes.
const HEADER: usize = 128;
/// Where the header has the version and the byte order.
const VERSION: usize = 124;
/// Structs and matrices of more dimensions than this are not read.
const MOST_DIMENSIONS: usize = 8;

/// Types of elements.
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// Classes of matrices.
const STRUCT: u8 = 2;
/// The first and the last class of full matrices of numbers: doubles, singles, and whole numbers of 1 to 8 bytes.
const NUMBERS: std::ops::RangeInclusive<u8> = 6..=15;

/// Flag of a matrix of complex numbers.
const COMPLEX: u8 = 0x08;

/// A matrix of numbers from 0 to 255, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// `rows * columns` values.
    pub values: Vec<u8>,
}

/// Whether bytes begin as a mat file of level 5 does.
pub fn is_mat(bytes: &[u8]) -> bool {
    matches!(bytes.get(VERSION..HEADER), Some([0, 1, b'I', b'M'] | [1, 0, b'M', b'I']))
}

/// Reads the matrix at the end of `path`: the name of a variable, then names of fields of structs.
///
/// # Errors
/// If it is no mat file of level 5, damaged, or has no matrix of whole numbers from 0 to 255 there.
pub fn read(bytes: &[u8], path: &[&str]) -> Result<Matrix, Error> {
    if bytes.starts_with(b"MATLAB 7.3") || bytes.starts_with(b"\x89HDF") {
        return Err(Error::unsupported("it is a mat file of version 7.3, which is not read: save it with `-v7`"));
    }
    match bytes.get(VERSION..HEADER) {
        Some([0, 1, b'I', b'M']) => {}
        Some([1, 0, b'M', b'I']) => return Err(Error::unsupported("its numbers are big-endian, which is not read")),
        _ => return Err(Error::malformed("it is no mat file of level 5")),
    }
    let (name, fields) = path.split_first().ok_or_else(|| Error::malformed("no variable was asked for"))?;
    let mut budget = Budget::of(bytes.len());
    let mut cursor = Cursor::new(&bytes[HEADER..]);
    while cursor.position() < bytes.len() - HEADER {
        let element = Element::take(&mut cursor)?;
        let inflated;
        let body = match element.kind {
            MATRIX => element.data,
            COMPRESSED => {
                inflated = inflate(element.data, &mut budget)?;
                inflated.as_slice()
            }
            _ => continue,
        };
        let variable = Variable::open(body)?;
        if variable.name == name.as_bytes() {
            return follow(variable, fields, &mut budget);
        }
    }
    Err(Error::malformed(format!("it has no variable `{name}`")))
}

/// An element of a file or of another element.
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

impl<'a> Element<'a> {
    /// Takes an element and what fills it up to a multiple of 8 bytes.
    fn take(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        const WHAT: &str = "an element";
        let first = cursor.u32(WHAT)?;
        // Up to four bytes of data lie within the tag, which has the length in its upper half then.
        if first >> 16 != 0 {
            let held = cursor.take(4, WHAT)?;
            let data = held.get(..(first >> 16) as usize).ok_or_else(|| Error::malformed("a short element is long"))?;
            return Ok(Self { kind: first & 0xffff, data });
        }
        let size = length(cursor.u32(WHAT)?.into(), WHAT)?;
        let data = cursor.take(size, WHAT)?;
        // A deflated variable is followed by the next one at once, and the last element by nothing.
        if first != COMPRESSED && size % 8 != 0 {
            let _ = cursor.take(8 - size % 8, WHAT);
        }
        Ok(Self { kind: first, data })
    }
}

/// Inflates a variable and returns what is in its element.
fn inflate(packed: &[u8], budget: &mut Budget) -> Result<Vec<u8>, Error> {
    let damaged = || Error::malformed("a deflated variable is damaged");
    let mut inflating = flate2::read::ZlibDecoder::new(packed);
    let mut tag = [0; 8];
    inflating.read_exact(&mut tag).map_err(|_| damaged())?;
    let mut cursor = Cursor::new(&tag);
    let (kind, size) = (cursor.u32("a tag")?, cursor.u32("a tag")?);
    if kind != MATRIX {
        return Err(Error::malformed("a deflated variable is no matrix"));
    }
    // Deflate packs at most 1032 to 1 (zlib's technical notes), which no size out of the air can exceed.
    if size as usize / 1032 > packed.len() {
        return Err(Error::malformed(format!("a deflated variable cannot have {size} bytes")));
    }
    budget.take(size.into())?;
    let mut body = Vec::with_capacity(size as usize);
    // Reading on to the end of the stream has its checksum compared.
    let rest = inflating.by_ref().take(u64::from(size)).read_to_end(&mut body);
    if rest.is_err() || body.len() != size as usize || !matches!(inflating.read(&mut [0]), Ok(0)) {
        return Err(damaged());
    }
    Ok(body)
}

/// The head of a matrix, and the elements that follow it.
struct Variable<'a> {
    class: u8,
    complex: bool,
    shape: Vec<usize>,
    name: &'a [u8],
    rest: Cursor<'a>,
}

impl<'a> Variable<'a> {
    fn open(body: &'a [u8]) -> Result<Self, Error> {
        let mut rest = Cursor::new(body);
        let flags = Element::take(&mut rest)?.data;
        let [class, bits, ..] = *flags else { return Err(Error::malformed("a matrix has no flags")) };
        let sides = Element::take(&mut rest)?.data;
        if sides.len() % 4 != 0 || !(2..=MOST_DIMENSIONS).contains(&(sides.len() / 4)) {
            return Err(Error::malformed("a matrix has no shape that is read"));
        }
        let side = |bytes: &[u8]| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let shape = sides.chunks_exact(4).map(|bytes| usize::try_from(side(bytes)));
        let shape = shape.collect::<Result<_, _>>().map_err(|_| Error::malformed("a matrix has a negative side"))?;
        let name = Element::take(&mut rest)?.data;
        Ok(Self { class, complex: bits & COMPLEX != 0, shape, name, rest })
    }
}

/// Goes from a variable to the field that was asked for.
fn follow(mut variable: Variable<'_>, fields: &[&str], budget: &mut Budget) -> Result<Matrix, Error> {
    for wanted in fields {
        if variable.class != STRUCT || elements(&variable.shape)? != 1 {
            return Err(Error::malformed(format!("`{wanted}` is to be a field of a struct, and there is none")));
        }
        let width = Element::take(&mut variable.rest)?.data;
        let width = match *width {
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        };
        let names = Element::take(&mut variable.rest)?.data;
        if width == 0 || names.len() % width != 0 {
            return Err(Error::malformed("a struct has damaged names of fields"));
        }
        let is_wanted = |name: &[u8]| {
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            name[..end] == *wanted.as_bytes()
        };
        let place = names.chunks_exact(width).position(is_wanted);
        let place = place.ok_or_else(|| Error::malformed(format!("its struct has no field `{wanted}`")))?;
        for _ in 0..place {
            Element::take(&mut variable.rest)?;
        }
        let field = Element::take(&mut variable.rest)?;
        if field.kind != MATRIX {
            return Err(Error::malformed(format!("the field `{wanted}` is no matrix")));
        }
        variable = Variable::open(field.data)?;
    }
    numbers(variable, budget)
}

/// Reads a full matrix of two dimensions, which lies column by column.
fn numbers(mut variable: Variable<'_>, budget: &mut Budget) -> Result<Matrix, Error> {
    let [rows, columns] = *variable.shape else {
        return Err(Error::malformed(format!("its matrix has {} dimensions where 2 are due", variable.shape.len())));
    };
    if !NUMBERS.contains(&variable.class) || variable.complex {
        return Err(Error::malformed("it has no matrix of plain numbers there"));
    }
    let element = Element::take(&mut variable.rest)?;
    // Whole numbers lie in the smallest type that holds them, whatever the class of the matrix (the document's "data compression").
    let size = match element.kind {
        1 | 2 => 1,
        3 | 4 => 2,
        5..=7 => 4,
        9 | 12 | 13 => 8,
        other => return Err(Error::malformed(format!("its numbers have the type {other}, which is not known"))),
    };
    let count = elements(&variable.shape)?;
    if count.checked_mul(size) != Some(element.data.len()) {
        let there = element.data.len();
        return Err(Error::malformed(format!("a matrix of {rows} x {columns} has {there} bytes of numbers")));
    }
    budget.take_values(count, 1)?;
    let mut values = vec![0; count];
    for (index, bytes) in element.data.chunks_exact(size).enumerate() {
        let value =
            small(element.kind, bytes).ok_or_else(|| Error::malformed("a number is not a whole one from 0 to 255"))?;
        values[index % rows * columns + index / rows] = value;
    }
    Ok(Matrix { rows, columns, values })
}

/// Returns a number that is a whole one from 0 to 255.
fn small(kind: u32, bytes: &[u8]) -> Option<u8> {
    let whole = |value: f64| (value.fract() == 0.0 && (0.0..=255.0).contains(&value)).then_some(value as u8);
    match kind {
        1 | 3 | 5 | 12 => u8::try_from(super::array::signed(bytes)).ok(),
        2 | 4 | 6 | 13 => u8::try_from(super::array::unsigned(bytes)).ok(),
        7 => whole(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        _ => whole(f64::from_le_bytes(bytes.try_into().ok()?)),
    }
}
