//! What a pickle describes: values in a flat table that refer to each other by number, so that shared, nested and cyclic ones
//! cost no recursion; and a view that walks them.

use std::cell::RefCell;

use super::array::{Array, Dtype, Place, Slice};
use super::classes::Class;
use super::error::{Budget, Error};

/// The number of a value.
pub(super) type Id = u32;

/// One value.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Integer(i128),
    /// Its value is nothing that anyone has asked for.
    Float,
    /// UTF-8.
    Text(Slice<'a>),
    Bytes(Slice<'a>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// In order of insertion; of equal keys the last one counts.
    Dict(Vec<(Id, Id)>),
    Set(Vec<Id>),
    Class(Class),
    /// An array before its state is known.
    Unbuilt,
    /// A tensor before its state is known.
    Blank,
    Dtype(Dtype),
    Array(Box<Array<'a>>),
    /// An array of Python objects, in C order.
    Objects(Vec<usize>, Vec<Id>),
    /// A part of a storage of PyTorch.
    Storage(Part),
    /// An object of a class that is known and of no interest.
    Opaque,
}

/// A part of a storage, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    pub(super) offset: usize,
}

/// Names and words are no longer than this, in bytes. A longer text could be looked at again and again for little.
const LONGEST_NAME: usize = 4096;

impl Node<'_> {
    /// Returns a text, which Python 2 wrote as bytes, unless it is too long for a name.
    pub(super) fn short_text(&self) -> Option<&str> {
        match self {
            Self::Text(slice) | Self::Bytes(slice) if slice.bytes().len() <= LONGEST_NAME => {
                std::str::from_utf8(slice.bytes()).ok()
            }
            _ => None,
        }
    }

    /// What a person calls it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) => "a whole number",
            Self::Float => "a number",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dict",
            Self::Set(_) => "a set",
            Self::Class(_) => "a class",
            Self::Unbuilt => "an array without data",
            Self::Blank => "a tensor without data",
            Self::Dtype(_) => "a type of numbers",
            Self::Array(_) => "an array",
            Self::Objects(..) => "an array of objects",
            Self::Storage(_) => "a storage without a tensor",
            Self::Opaque => "an object of another program",
        }
    }
}

/// A value that has been read, with everything that it refers to.
#[derive(Debug)]
pub struct Tree<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) storages: Vec<Slice<'a>>,
    pub(super) root: Id,
    pub(super) budget: RefCell<Budget>,
}

impl<'a> Tree<'a> {
    /// Returns the outermost value.
    pub fn root(&self) -> View<'_, 'a> {
        View { tree: self, id: self.root }
    }

    /// Refuses arrays that reach beyond their data. Must be called before any is looked at.
    pub(super) fn checked(self) -> Result<Self, Error> {
        for node in &self.nodes {
            if let Node::Array(array) = node {
                array.check_within(self.data(array).bytes().len())?;
            }
        }
        Ok(self)
    }

    fn data<'tree>(&'tree self, array: &'tree Array<'a>) -> &'tree Slice<'a> {
        match &array.place {
            Place::Own(slice) => slice,
            Place::Storage(number) => &self.storages[*number],
        }
    }
}

/// One value of a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub struct View<'tree, 'a> {
    tree: &'tree Tree<'a>,
    id: Id,
}

impl<'tree, 'a> View<'tree, 'a> {
    fn node(self) -> &'tree Node<'a> {
        &self.tree.nodes[self.id as usize]
    }

    fn of(self, id: Id) -> Self {
        Self { tree: self.tree, id }
    }

    /// What a person calls it, with an article.
    pub fn word(self) -> &'static str {
        self.node().word()
    }

    /// Returns the only object of an array of objects without dimensions, which is how `np.save` keeps a dict; anything else as
    /// it is.
    pub fn item(self) -> Self {
        match self.node() {
            Node::Objects(shape, items) if shape.is_empty() && items.len() == 1 => self.of(items[0]),
            _ => self,
        }
    }

    /// Returns a text of at most 4096 bytes, which Python 2 wrote as bytes.
    pub fn text(self) -> Option<&'tree str> {
        self.node().short_text()
    }

    /// Returns a whole number.
    pub fn integer(self) -> Option<i128> {
        match self.node() {
            Node::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the entries of a dict in order; of equal keys the last one counts.
    pub fn entries(self) -> Option<impl ExactSizeIterator<Item = (Self, Self)>> {
        match self.node() {
            Node::Dict(entries) => Some(entries.iter().map(move |(key, value)| (self.of(*key), self.of(*value)))),
            _ => None,
        }
    }

    /// Returns the members of a list or tuple.
    pub fn members(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        match self.node() {
            Node::List(members) | Node::Tuple(members) => Some(members.iter().map(move |id| self.of(*id))),
            _ => None,
        }
    }

    /// Returns the value of a key of a dict.
    pub fn get(self, key: &str) -> Option<Self> {
        self.entries()?.filter(|(name, _)| name.text() == Some(key)).last().map(|(_, value)| value)
    }

    fn array(self) -> Option<&'tree Array<'a>> {
        match self.node() {
            Node::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Returns the element type of an array or tensor; `None` for anything else.
    pub fn dtype(self) -> Option<Dtype> {
        self.array().map(|array| array.dtype)
    }

    /// Returns the shape of an array or tensor; `None` for anything else.
    pub fn shape(self) -> Option<&'tree [usize]> {
        self.array().map(|array| array.shape.as_slice())
    }

    /// Returns the elements of an array or tensor of floating-point numbers, in C order.
    pub fn floats(self) -> Result<Vec<f32>, Error> {
        let array = self.array().ok_or_else(|| self.no_array())?;
        array.floats(self.tree.data(array).bytes(), &mut self.tree.budget.borrow_mut())
    }

    /// Returns the elements of an array or tensor of whole numbers, in C order.
    pub fn integers(self) -> Result<Vec<i64>, Error> {
        let array = self.array().ok_or_else(|| self.no_array())?;
        array.integers(self.tree.data(array).bytes(), &mut self.tree.budget.borrow_mut())
    }

    fn no_array(self) -> Error {
        Error::malformed(format!("an array is due where it has {}", self.word()))
    }
}
