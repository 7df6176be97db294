//! Arrays and tensors as they lie in a file: element type, shape, strides and bytes that are not copied until they are asked
//! for.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::error::{Budget, Error};

/// More dimensions than this no array of these files has (NumPy's own limit).
pub(super) const MOST_DIMENSIONS: usize = 64;

/// The type of an element; multi-byte ones are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// One byte, zero or not.
    Bool,
    /// Unsigned, of so many bytes: 1, 2, 4 or 8.
    Unsigned(u8),
    /// Signed, of so many bytes: 1, 2, 4 or 8.
    Signed(u8),
    /// IEEE half precision.
    F16,
    /// The upper half of an [`Dtype::F32`].
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Text of so many characters of four bytes, filled up with zeros.
    Text(usize),
    /// Python objects.
    Object,
}

impl Dtype {
    /// Returns the size of an element in bytes; objects have none here.
    pub fn size(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Unsigned(size) | Self::Signed(size) => usize::from(size),
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Text(characters) => characters.saturating_mul(4),
            Self::Object => 0,
        }
    }

    /// Returns whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Reads NumPy's word for a type, such as `<f4`, `|u1` or `f8`.
    pub(super) fn parse(word: &str) -> Result<Self, Error> {
        let unknown = || Error::unsupported(format!("its arrays have the type `{word}`, which is not read"));
        let kind = match word.strip_prefix(['<', '|', '=']) {
            Some(kind) => kind,
            None if word.starts_with('>') => {
                return Err(Error::unsupported(format!(
                    "its arrays have the type `{word}`, big-endian, which is not read"
                )));
            }
            None => word,
        };
        Ok(match kind {
            "b1" | "?" => Self::Bool,
            "u1" => Self::Unsigned(1),
            "u2" => Self::Unsigned(2),
            "u4" => Self::Unsigned(4),
            "u8" => Self::Unsigned(8),
            "i1" => Self::Signed(1),
            "i2" => Self::Signed(2),
            "i4" => Self::Signed(4),
            "i8" => Self::Signed(8),
            "f2" => Self::F16,
            "f4" => Self::F32,
            "f8" => Self::F64,
            "O" | "O8" | "O4" => Self::Object,
            _ => {
                let characters = kind.strip_prefix('U').ok_or_else(unknown)?;
                Self::Text(characters.parse().map_err(|_| unknown())?)
            }
        })
    }

    /// Returns the type of a storage class of PyTorch, such as `FloatStorage`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "FloatStorage" => Self::F32,
            "DoubleStorage" => Self::F64,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::Signed(8),
            "IntStorage" => Self::Signed(4),
            "ShortStorage" => Self::Signed(2),
            "CharStorage" => Self::Signed(1),
            "ByteStorage" | "UntypedStorage" => Self::Unsigned(1),
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }
}

/// NumPy's and PyTorch's name of the type.
impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => formatter.write_str("bool"),
            Self::Unsigned(size) => write!(formatter, "uint{}", 8 * u32::from(*size)),
            Self::Signed(size) => write!(formatter, "int{}", 8 * u32::from(*size)),
            Self::F16 => formatter.write_str("float16"),
            Self::Bf16 => formatter.write_str("bfloat16"),
            Self::F32 => formatter.write_str("float32"),
            Self::F64 => formatter.write_str("float64"),
            Self::Text(_) => formatter.write_str("str"),
            Self::Object => formatter.write_str("object"),
        }
    }
}

/// Bytes of the file itself, or bytes that were made while it was read.
#[derive(Clone, Debug)]
pub(super) enum Slice<'a> {
    Input(&'a [u8]),
    Made(Rc<[u8]>, Range<usize>),
}

impl<'a> Slice<'a> {
    pub(super) fn made(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::Made(bytes.into(), range)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Input(bytes) => bytes,
            Self::Made(bytes, range) => &bytes[range.clone()],
        }
    }

    /// Returns a part. The range must lie within.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Input(bytes) => Self::Input(&bytes[range]),
            Self::Made(bytes, whole) => {
                assert!(range.end <= whole.len(), "a part lies within the whole");
                Self::Made(Rc::clone(bytes), whole.start + range.start..whole.start + range.end)
            }
        }
    }
}

/// Where an array's elements are.
#[derive(Clone, Debug)]
pub(super) enum Place<'a> {
    /// Bytes of its own.
    Own(Slice<'a>),
    /// A storage that other tensors may share, by its number.
    Storage(usize),
}

/// An array or a tensor.
#[derive(Clone, Debug)]
pub(super) struct Array<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
    /// In elements.
    pub(super) offset: usize,
    pub(super) place: Place<'a>,
}

impl<'a> Array<'a> {
    /// Makes an array whose elements lie densely in `data`, in C or Fortran order.
    pub(super) fn dense(dtype: Dtype, shape: Vec<usize>, fortran: bool, data: Slice<'a>) -> Result<Self, Error> {
        let count = elements(&shape)?;
        let due = count.checked_mul(dtype.size());
        if due != Some(data.bytes().len()) {
            return Err(Error::malformed(format!(
                "an array of shape {shape:?} has {} bytes of data where {} are due",
                data.bytes().len(),
                due.map_or("more than memory holds".to_owned(), |due| due.to_string())
            )));
        }
        let mut strides = vec![0; shape.len()];
        let mut stride = 1_usize;
        let mut walk = |axis: usize| {
            strides[axis] = stride;
            // The product of all sides but empty ones may be more than the number of elements, which is 0 then.
            stride = stride.saturating_mul(shape[axis]);
        };
        let axes: &mut dyn Iterator<Item = usize> =
            if fortran { &mut (0..shape.len()) } else { &mut (0..shape.len()).rev() };
        axes.for_each(&mut walk);
        Ok(Self { dtype, shape, strides, offset: 0, place: Place::Own(data) })
    }

    /// Returns the number of elements.
    pub(super) fn count(&self) -> usize {
        elements(&self.shape).unwrap_or(usize::MAX)
    }

    /// Refuses an array that reaches beyond the `bytes` that hold its elements.
    pub(super) fn check_within(&self, bytes: usize) -> Result<(), Error> {
        let beyond = || {
            Error::malformed(format!(
                "a tensor of shape {:?} with strides {:?} from {} lies outside of its {bytes} bytes",
                self.shape, self.strides, self.offset
            ))
        };
        if elements(&self.shape)? == 0 {
            return Ok(());
        }
        let mut last = self.offset;
        for (side, stride) in self.shape.iter().zip(&self.strides) {
            last = (side - 1).checked_mul(*stride).and_then(|reach| last.checked_add(reach)).ok_or_else(beyond)?;
        }
        let end = last.checked_add(1).and_then(|end| end.checked_mul(self.dtype.size())).ok_or_else(beyond)?;
        if end <= bytes { Ok(()) } else { Err(beyond()) }
    }

    /// Calls `each` with the bytes of every element, in C order. `data` has been checked with [`Self::check_within`].
    pub(super) fn walk(&self, data: &[u8], mut each: impl FnMut(&[u8])) {
        let size = self.dtype.size();
        let count = self.count();
        if count == 0 || size == 0 {
            return;
        }
        if self.is_dense() {
            data[self.offset * size..][..count * size].chunks_exact(size).for_each(each);
            return;
        }
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        loop {
            each(&data[at * size..][..size]);
            // Counts like a clock: the last axis moves, and a full one starts anew and moves the next.
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
    }

    fn is_dense(&self) -> bool {
        let mut stride = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&side, &own)| {
            let fits = side == 1 || own == stride;
            stride *= side;
            fits
        })
    }

    /// Reads floating-point elements as f32, in C order.
    pub(super) fn floats(&self, data: &[u8], budget: &mut Budget) -> Result<Vec<f32>, Error> {
        budget.take_values(self.count(), size_of::<f32>())?;
        let mut values = Vec::with_capacity(self.count());
        let two = |bytes: &[u8]| [bytes[0], bytes[1]];
        let four = |bytes: &[u8]| [bytes[0], bytes[1], bytes[2], bytes[3]];
        match self.dtype {
            Dtype::F32 => self.walk(data, |bytes| values.push(f32::from_le_bytes(four(bytes)))),
            Dtype::F16 => self.walk(data, |bytes| values.push(half::f16::from_le_bytes(two(bytes)).to_f32())),
            Dtype::Bf16 => self.walk(data, |bytes| values.push(half::bf16::from_le_bytes(two(bytes)).to_f32())),
            Dtype::F64 => self.walk(data, |bytes| {
                let eight: [u8; 8] = bytes.try_into().expect("an element of F64 has eight bytes");
                values.push(f64::from_le_bytes(eight) as f32);
            }),
            other => {
                return Err(Error::malformed(format!("numbers with a fraction are due where the type is {other}")));
            }
        }
        Ok(values)
    }

    /// Reads whole numbers, in C order.
    pub(super) fn integers(&self, data: &[u8], budget: &mut Budget) -> Result<Vec<i64>, Error> {
        budget.take_values(self.count(), size_of::<i64>())?;
        let mut values = Vec::with_capacity(self.count());
        let mut outside = false;
        match self.dtype {
            Dtype::Bool => self.walk(data, |bytes| values.push(i64::from(bytes[0] != 0))),
            Dtype::Unsigned(_) => self.walk(data, |bytes| match i64::try_from(unsigned(bytes)) {
                Ok(value) => values.push(value),
                Err(_) => outside = true,
            }),
            Dtype::Signed(_) => self.walk(data, |bytes| values.push(signed(bytes))),
            other => return Err(Error::malformed(format!("whole numbers are due where the type is {other}"))),
        }
        if outside { Err(Error::unsupported("it has whole numbers above 2^63 - 1")) } else { Ok(values) }
    }
}

/// Returns the number of elements of a shape.
pub(super) fn elements(shape: &[usize]) -> Result<usize, Error> {
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |product, side| product.checked_mul(*side))
        .ok_or_else(|| Error::malformed(format!("an array of shape {shape:?} has more elements than memory")))
}

/// Reads up to eight bytes, little-endian.
pub(super) fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads up to eight bytes in two's complement, little-endian.
pub(super) fn signed(bytes: &[u8]) -> i64 {
    let shift = 64 - 8 * bytes.len() as u32;
    ((unsigned(bytes) << shift) as i64) >> shift
}
