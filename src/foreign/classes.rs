//! The classes and functions of Python that pickles of arrays and weights name, and what each of them means here. There are no
//! others.

use super::array::{Array, Dtype, MOST_DIMENSIONS, Place, Slice, signed, unsigned};
use super::error::{Cursor, Error};
use super::pickle::{ARRAY, Machine, misplaced};
use super::torch;
use super::tree::{Id, Node, Part};

/// A class or function that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `numpy.core.multiarray._reconstruct`: an array whose state follows.
    Reconstruct,
    /// `numpy.core.multiarray.scalar`: one number or text.
    Scalar,
    /// `numpy.core.numeric._frombuffer`: an array over bytes, as protocol 5 has it.
    FromBuffer,
    /// `numpy.ndarray`, which `_reconstruct` names.
    NdArray,
    /// `numpy.dtype`.
    Dtype,
    /// `_codecs.encode`: how protocol 2 keeps bytes.
    Encode,
    /// `bytes` or `bytearray`.
    Bytes,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`, or `torch.nn.parameter.Parameter` itself in files of PyTorch 0.1 to 0.3.
    Parameter,
    /// `torch.FloatTensor` and kin, which files of PyTorch 0.1 make tensors with.
    TensorType,
    /// `torch.storage._load_from_bytes`: a storage as a stream of its own.
    LoadFromBytes,
    /// A storage class of `torch`.
    Storage(Dtype),
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `set` or `frozenset`.
    Set,
    /// `torch.Size`: its argument is as good as itself.
    Same,
    /// `copyreg._reconstructor`, by which old protocols make objects.
    Reconstructor,
    /// A class whose objects stand in checkpoints and do not matter.
    Opaque,
}

impl Class {
    /// Finds a class; `None` if it is not known.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Self::Reconstruct,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::Scalar,
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::FromBuffer,
            ("numpy", "ndarray") => Self::NdArray,
            ("numpy", "dtype") => Self::Dtype,
            ("_codecs", "encode") => Self::Encode,
            ("builtins" | "__builtin__", "bytes" | "bytearray") => Self::Bytes,
            ("builtins" | "__builtin__", "set" | "frozenset") => Self::Set,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_parameter") | ("torch.nn.parameter", "Parameter") => Self::Parameter,
            ("torch.storage", "_load_from_bytes") => Self::LoadFromBytes,
            ("torch", "Size") => Self::Same,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("copyreg" | "copy_reg", "_reconstructor") => Self::Reconstructor,
            ("builtins" | "__builtin__", "object")
            | ("argparse", "Namespace")
            | (
                "pathlib" | "pathlib._local",
                "Path" | "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath",
            )
            | ("torch", "device") => Self::Opaque,
            ("torch" | "torch.cuda" | "torch.storage", name) if name.ends_with("Storage") => {
                Self::Storage(Dtype::of_storage(name)?)
            }
            ("torch" | "torch.cuda", name) if is_tensor_type(name) => Self::TensorType,
            ("torch", name) if NUMBERS.contains(&name) => Self::Opaque,
            _ => return None,
        })
    }
}

/// Types of numbers that checkpoints name beside their tensors.
const NUMBERS: [&str; 10] =
    ["float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"];

fn is_tensor_type(name: &str) -> bool {
    let kind = name.strip_suffix("Tensor");
    kind == Some("") || kind.is_some_and(|kind| Dtype::of_storage(&format!("{kind}Storage")).is_some())
}

impl<'a> Machine<'a> {
    /// Calls a class or function with a tuple of arguments, and returns what it makes.
    pub(super) fn call(&mut self, class: Id, arguments: Id) -> Result<Id, Error> {
        let class = match self.node(class) {
            Node::Class(class) => *class,
            other => return Err(misplaced("a class", other)),
        };
        let arguments = match self.node(arguments) {
            Node::Tuple(arguments) => arguments.get(..arguments.len().min(8)).unwrap_or_default().to_vec(),
            other => return Err(misplaced("arguments", other)),
        };
        let argument = |number: usize| {
            arguments.get(number).copied().ok_or_else(|| Error::malformed("its pickle calls with too few arguments"))
        };
        let made = match class {
            Class::Reconstruct => match self.node(argument(0)?) {
                Node::Class(Class::NdArray) => Node::Unbuilt,
                other => return Err(misplaced("`numpy.ndarray`", other)),
            },
            Class::Dtype => Node::Dtype(Dtype::parse(self.text_of(argument(0)?)?)?),
            Class::Scalar => self.scalar(argument(0)?, argument(1)?)?,
            Class::FromBuffer => {
                let (dtype, shape) = (self.dtype_of(argument(1)?)?, self.sizes(argument(2)?)?);
                let fortran = self.text_of(argument(3)?)? == "F";
                let data = self.bytes_of(argument(0)?)?.clone();
                Node::Array(Box::new(Array::dense(dtype, shape, fortran, data)?))
            }
            Class::Encode => {
                let encoding = self.text_of(argument(1)?)?;
                if !matches!(encoding, "latin1" | "latin-1") {
                    return Err(Error::malformed("its pickle has bytes in an encoding that is not Latin-1"));
                }
                self.encoded(argument(0)?)?
            }
            Class::Bytes => match (arguments.first(), arguments.get(1)) {
                (None, _) => Node::Bytes(Slice::Input(&[])),
                (Some(bytes), None) => Node::Bytes(self.bytes_of(*bytes)?.clone()),
                (Some(text), Some(_)) => self.encoded(*text)?,
            },
            Class::Tensor => {
                let part = self.part(argument(0)?)?;
                let offset = self.size(argument(1)?)?;
                let (shape, strides) = (self.sizes(argument(2)?)?, self.sizes(argument(3)?)?);
                tensor(part, offset, shape, strides)?
            }
            Class::Parameter if arguments.is_empty() => Node::Blank,
            Class::Parameter | Class::Same => return argument(0),
            Class::TensorType => Node::Blank,
            Class::LoadFromBytes => return self.load_from_bytes(argument(0)?),
            Class::OrderedDict => match arguments.first() {
                None => Node::Dict(Vec::new()),
                Some(list) => Node::Dict(self.list_of_pairs(*list)?),
            },
            Class::Set => match arguments.first() {
                None => Node::Set(Vec::new()),
                Some(list) => {
                    let members = self.members_of(*list)?.to_vec();
                    self.take_places(members.len())?;
                    Node::Set(members)
                }
            },
            Class::Reconstructor => match self.node(argument(0)?) {
                Node::Class(Class::Opaque) => Node::Opaque,
                other => return Err(misplaced("a class without data", other)),
            },
            Class::Opaque => Node::Opaque,
            Class::NdArray | Class::Storage(_) => {
                return Err(Error::malformed("its pickle calls a class that these files only name"));
            }
        };
        self.keep(made)
    }

    /// Makes an object of a class, as `class.__new__(class, *arguments)` does.
    pub(super) fn new_object(&mut self, class: Id, arguments: Id) -> Result<Id, Error> {
        match self.node(class) {
            Node::Class(Class::Opaque | Class::OrderedDict | Class::Parameter | Class::TensorType) => {
                self.call(class, arguments)
            }
            other => Err(misplaced("a class without data", other)),
        }
    }

    /// Gives an object its state.
    pub(super) fn build(&mut self, object: Id, state: Id) -> Result<(), Error> {
        let built = match self.node(object) {
            Node::Unbuilt => self.array(state)?,
            Node::Blank => self.old_tensor(state)?,
            Node::Dtype(dtype) => {
                self.check_dtype_state(*dtype, state)?;
                return Ok(());
            }
            // Attributes, such as the `_metadata` of a state_dict, or whether a parameter is trained.
            Node::Opaque | Node::Dict(_) | Node::Array(_) => return Ok(()),
            other => return Err(misplaced("an object with a state", other)),
        };
        self.budget.take(ARRAY)?;
        self.nodes[object as usize] = built;
        Ok(())
    }

    /// Reads the state of a tensor of PyTorch's first versions (`torch/_tensor.py`, `__setstate__`): storage, offset, size and
    /// stride; or of a parameter: its tensor first of five.
    fn old_tensor(&mut self, state: Id) -> Result<Node<'a>, Error> {
        let state = self.members_of(state)?;
        match *state {
            [storage, offset, size, stride] => {
                let part = self.part(storage)?;
                let offset = self.size(offset)?;
                let (shape, strides) = (self.sizes(size)?, self.sizes(stride)?);
                tensor(part, offset, shape, strides)
            }
            [data, _, _, _, _] => match self.node(data) {
                array @ Node::Array(_) => Ok(array.clone()),
                other => Err(misplaced("a tensor", other)),
            },
            _ => Err(Error::malformed("the state of a tensor has not four or five parts")),
        }
    }

    /// Returns the part of a storage that a value is.
    fn part(&self, id: Id) -> Result<Part, Error> {
        match self.node(id) {
            Node::Storage(part) => Ok(*part),
            other => Err(misplaced("a storage", other)),
        }
    }

    /// Reads the state of a NumPy array: version, shape, type, whether in Fortran order, data.
    fn array(&mut self, state: Id) -> Result<Node<'a>, Error> {
        let state: [Id; 4] = match self.node(state) {
            Node::Tuple(state) if matches!(state.len(), 4 | 5) => {
                state[state.len() - 4..].try_into().expect("the last four of four or five")
            }
            other => return Err(misplaced("the state of an array", other)),
        };
        let [shape, dtype, fortran, data] = state;
        let (shape, dtype) = (self.sizes(shape)?, self.dtype_of(dtype)?);
        let fortran = match self.node(fortran) {
            Node::Bool(fortran) => *fortran,
            Node::Integer(fortran) => *fortran != 0,
            other => return Err(misplaced("the order of an array", other)),
        };
        if dtype != Dtype::Object {
            let data = self.bytes_of(data)?.clone();
            return Ok(Node::Array(Box::new(Array::dense(dtype, shape, fortran, data)?)));
        }
        if fortran && shape.len() > 1 {
            return Err(Error::unsupported("it has an array of objects in Fortran order"));
        }
        let items = self.members_of(data)?.to_vec();
        self.take_places(items.len())?;
        if super::array::elements(&shape)? != items.len() {
            return Err(Error::malformed(format!("an array of shape {shape:?} has {} objects", items.len())));
        }
        Ok(Node::Objects(shape, items))
    }

    /// Refuses what a type of numbers can have besides its word: another byte order, named fields, a shape of its own.
    fn check_dtype_state(&self, dtype: Dtype, state: Id) -> Result<(), Error> {
        let state = match self.node(state) {
            Node::Tuple(state) => state,
            other => return Err(misplaced("the state of a type", other)),
        };
        let order = state.get(1).map(|order| self.text_of(*order)).transpose()?.unwrap_or("<");
        if order == ">" && dtype.size() != 1 {
            return Err(Error::unsupported("its arrays are big-endian, which is not read"));
        }
        let plain = |index: usize| state.get(index).is_none_or(|id| matches!(self.node(*id), Node::None));
        if (2..5).all(plain) {
            Ok(())
        } else {
            Err(Error::unsupported("its arrays have named fields, which are not read"))
        }
    }

    /// Makes a number or text of NumPy's.
    fn scalar(&mut self, dtype: Id, data: Id) -> Result<Node<'a>, Error> {
        let dtype = self.dtype_of(dtype)?;
        let data = self.bytes_of(data)?.bytes();
        if data.len() != dtype.size() {
            return Err(Error::malformed("a number of its pickle has the wrong length"));
        }
        Ok(match dtype {
            Dtype::Bool => Node::Bool(data[0] != 0),
            Dtype::Unsigned(_) => Node::Integer(unsigned(data).into()),
            Dtype::Signed(_) => Node::Integer(signed(data).into()),
            Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64 => Node::Float,
            Dtype::Text(_) => {
                let letters = data.chunks_exact(4).map(|four| char::from_u32(unsigned(four) as u32));
                let text: Option<String> = letters.collect();
                let text = text.ok_or_else(|| Error::malformed("a text of its pickle is not Unicode"))?;
                let text = text.trim_end_matches('\0').to_owned().into_bytes();
                self.budget.take(text.len() as u64)?;
                Node::Text(Slice::made(text))
            }
            Dtype::Object => return Err(Error::malformed("a number of its pickle is an object")),
        })
    }

    /// Reads a storage that is kept as a stream of its own, once for each value that holds one.
    fn load_from_bytes(&mut self, bytes: Id) -> Result<Id, Error> {
        if self.within {
            return Err(Error::malformed("a storage within a storage"));
        }
        if let Some(id) = self.nested.get(&bytes) {
            return Ok(*id);
        }
        let slice = self.bytes_of(bytes)?.clone();
        // As often as there are values that hold the same bytes, but no longer than they are worth.
        self.budget.take(slice.bytes().len() as u64)?;
        let (dtype, range, budget) = torch::storage_in(slice.bytes(), self.budget)?;
        self.budget = budget;
        let storage = self.add_storage(slice.part(range))?;
        let id = self.keep(Node::Storage(Part { storage, dtype, offset: 0 }))?;
        self.nested.insert(bytes, id);
        Ok(id)
    }

    /// Keeps a storage and returns its number.
    pub(super) fn add_storage(&mut self, slice: Slice<'a>) -> Result<usize, Error> {
        self.budget.take_values(2, size_of::<Slice<'a>>())?;
        self.storages.push(slice);
        Ok(self.storages.len() - 1)
    }

    /// Returns a short text, which Python 2 wrote as bytes.
    pub(super) fn text_of(&self, id: Id) -> Result<&str, Error> {
        self.node(id).short_text().ok_or_else(|| misplaced("a short text", self.node(id)))
    }

    /// Returns the bytes that a text of any length keeps as Latin-1.
    fn encoded(&mut self, id: Id) -> Result<Node<'a>, Error> {
        let Node::Text(text) = self.node(id) else { return Err(misplaced("a text", self.node(id))) };
        let text = text.clone();
        // Taken before the work is done, which would otherwise be repeated at will.
        self.budget.take(text.bytes().len() as u64)?;
        let text = std::str::from_utf8(text.bytes()).expect("texts are checked when they are read");
        let bytes = text.chars().map(|letter| u8::try_from(letter).ok()).collect::<Option<Vec<u8>>>();
        let bytes = bytes.ok_or_else(|| Error::malformed("its pickle has bytes that are no Latin-1"))?;
        Ok(Node::Bytes(Slice::made(bytes)))
    }

    /// Returns bytes.
    fn bytes_of(&self, id: Id) -> Result<&Slice<'a>, Error> {
        match self.node(id) {
            Node::Bytes(slice) => Ok(slice),
            other => Err(misplaced("bytes", other)),
        }
    }

    /// Returns the members of a list or tuple.
    pub(super) fn members_of(&self, id: Id) -> Result<&[Id], Error> {
        match self.node(id) {
            Node::List(members) | Node::Tuple(members) => Ok(members),
            other => Err(misplaced("a list", other)),
        }
    }

    /// Returns the class that a value is.
    pub(super) fn class_of(&self, id: Id) -> Result<Class, Error> {
        match self.node(id) {
            Node::Class(class) => Ok(*class),
            other => Err(misplaced("a class", other)),
        }
    }

    fn dtype_of(&self, id: Id) -> Result<Dtype, Error> {
        match self.node(id) {
            Node::Dtype(dtype) => Ok(*dtype),
            other => Err(misplaced("a type of numbers", other)),
        }
    }

    /// Returns a number that counts something.
    pub(super) fn size(&self, id: Id) -> Result<usize, Error> {
        match self.node(id) {
            Node::Integer(value) => usize::try_from(*value)
                .map_err(|_| Error::malformed(format!("a size, offset or stride of its pickle is {value}"))),
            other => Err(misplaced("a size", other)),
        }
    }

    fn sizes(&mut self, id: Id) -> Result<Vec<usize>, Error> {
        let members = self.members_of(id)?;
        if members.len() > MOST_DIMENSIONS {
            return Err(Error::malformed(format!("an array of its pickle has {} dimensions", members.len())));
        }
        let sizes = members.iter().map(|id| self.size(*id)).collect::<Result<Vec<usize>, Error>>()?;
        self.budget.take_values(sizes.len(), size_of::<usize>())?;
        Ok(sizes)
    }

    fn list_of_pairs(&mut self, list: Id) -> Result<Vec<(Id, Id)>, Error> {
        let members = self.members_of(list)?;
        let pairs = members.iter().map(|pair| match *self.members_of(*pair)? {
            [key, value] => Ok((key, value)),
            _ => Err(Error::malformed("its pickle has a key without a value")),
        });
        let pairs = pairs.collect::<Result<Vec<_>, Error>>()?;
        self.take_places(2 * pairs.len())?;
        Ok(pairs)
    }
}

/// Makes a tensor over a part of a storage.
pub(super) fn tensor<'a>(part: Part, offset: usize, shape: Vec<usize>, strides: Vec<usize>) -> Result<Node<'a>, Error> {
    if shape.len() != strides.len() {
        return Err(Error::malformed("a tensor of its pickle has not one stride per side"));
    }
    let offset = part.offset.checked_add(offset).ok_or_else(|| Error::malformed("a tensor begins beyond memory"))?;
    let array = Array { dtype: part.dtype, shape, strides, offset, place: Place::Storage(part.storage) };
    Ok(Node::Array(Box::new(array)))
}

/// Reads a whole number and takes it from the front.
pub(super) fn count(cursor: &mut Cursor<'_>, what: &'static str) -> Result<usize, Error> {
    let value = i64::from_le_bytes(cursor.array(what)?);
    usize::try_from(value).map_err(|_| Error::malformed(format!("{what} has a count of {value}")))
}
