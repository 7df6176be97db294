//! The machine that a pickle is a program for: a stack, a memo, and opcodes of protocols 0 to 5 (Python's `pickletools`).
//!
//! It has no call but those of `classes`. Opcodes never recurse, values refer to each other by number, and whatever is
//! allocated is first taken from the budget.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::array::Slice;
use super::classes::Class;
use super::error::{Budget, Cursor, Error, length};
use super::tree::{Id, Node, Tree};

/// Whole numbers of up to so many bytes are read; PyTorch's magic number has ten.
const MOST_INTEGER_BYTES: usize = 16;

/// What a value costs: its place in the table, which may have twice as many, and a small allocation behind it.
const NODE: u64 = 128;

/// What an array costs besides.
pub(super) const ARRAY: u64 = 256;

/// What a place in a list costs, which may have twice as many.
const PLACE: u64 = 8;

/// What an entry of the memo costs.
const MEMO: u64 = 32;

/// Values that every machine knows from the start, so that they cost nothing each time: `None`, `False`, `True`, the empty tuple
/// and the numbers 0 to 255.
const FIXED: usize = 4 + 256;
const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;
const EMPTY_TUPLE: Id = 3;
const ZERO: Id = 4;

/// What a persistent id stands for: data that lies outside of the pickle.
pub(super) type Persistent<'p, 'a> = &'p mut dyn FnMut(&mut Machine<'a>, Id) -> Result<Node<'a>, Error>;

/// The machine. One may run several pickles one after the other, with one table of values.
pub(super) struct Machine<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) budget: Budget,
    /// Storages of PyTorch, some of which are known only after the pickle that names them.
    pub(super) storages: Vec<Slice<'a>>,
    /// Storages that streams within this one have brought along, by the value that holds the stream.
    pub(super) nested: HashMap<Id, Id>,
    /// Whether a stream within this one is read.
    pub(super) within: bool,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Makes a machine that may take what `budget` has.
    pub(super) fn new(budget: Budget) -> Self {
        let mut nodes = Vec::with_capacity(FIXED);
        nodes.extend([Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())]);
        nodes.extend((0..256).map(Node::Integer));
        Self {
            nodes,
            budget,
            storages: Vec::new(),
            nested: HashMap::new(),
            within: false,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        }
    }

    /// Returns what has been read.
    pub(super) fn into_tree(self, root: Id) -> Result<Tree<'a>, Error> {
        Tree { nodes: self.nodes, storages: self.storages, root, budget: RefCell::new(self.budget) }.checked()
    }

    /// Returns a value.
    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    /// Keeps a value.
    pub(super) fn keep(&mut self, node: Node<'a>) -> Result<Id, Error> {
        let fixed = match &node {
            Node::None => Some(NONE),
            Node::Bool(false) => Some(FALSE),
            Node::Bool(true) => Some(TRUE),
            Node::Integer(value @ 0..256) => Some(ZERO + *value as Id),
            Node::Tuple(members) if members.is_empty() => Some(EMPTY_TUPLE),
            _ => None,
        };
        if let Some(id) = fixed {
            return Ok(id);
        }
        self.budget.take(if matches!(node, Node::Array(_)) { NODE + ARRAY } else { NODE })?;
        let id = Id::try_from(self.nodes.len()).map_err(|_| Error::unsupported("it has more than 2^32 values"))?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Takes room for `count` places in a list.
    pub(super) fn take_places(&mut self, count: usize) -> Result<(), Error> {
        self.budget.take((count as u64).saturating_mul(PLACE))
    }

    /// Runs one pickle, up to its end, and returns its value.
    ///
    /// `cursor` reads the bytes of `source` from their start; texts and data of the pickle become parts of it.
    pub(super) fn run(
        &mut self,
        source: &Slice<'a>,
        cursor: &mut Cursor<'_>,
        persistent: Persistent<'_, 'a>,
    ) -> Result<Id, Error> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            let opcode = cursor.u8("a pickle")?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode, source, cursor, &mut *persistent)?;
        }
    }

    fn step(
        &mut self,
        opcode: u8,
        source: &Slice<'a>,
        cursor: &mut Cursor<'_>,
        persistent: Persistent<'_, 'a>,
    ) -> Result<(), Error> {
        const WHAT: &str = "a pickle";
        match opcode {
            // Protocol and frames, which only say how to read ahead.
            0x80 => match cursor.u8(WHAT)? {
                0..=5 => Ok(()),
                other => Err(Error::unsupported(format!("its pickle has protocol {other}, and 0 to 5 are read"))),
            },
            0x95 => cursor.u64(WHAT).map(drop),
            // Values.
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'K' => {
                let value = cursor.u8(WHAT)?;
                self.push(Node::Integer(value.into()))
            }
            b'M' => {
                let value = cursor.u16(WHAT)?;
                self.push(Node::Integer(value.into()))
            }
            b'J' => {
                let value = cursor.u32(WHAT)? as i32;
                self.push(Node::Integer(value.into()))
            }
            0x8a => {
                let count = cursor.u8(WHAT)?.into();
                self.long(cursor, count)
            }
            0x8b => {
                let count = length(cursor.u32(WHAT)?.into(), WHAT)?;
                self.long(cursor, count)
            }
            b'I' | b'L' => {
                let node = decimal(cursor.line(WHAT)?)?;
                self.push(node)
            }
            b'F' => {
                let text = std::str::from_utf8(cursor.line(WHAT)?).ok().map(|text| text.trim().parse::<f64>());
                if !matches!(text, Some(Ok(_))) {
                    return Err(Error::malformed("its pickle has a number that is none"));
                }
                self.push(Node::Float)
            }
            b'G' => {
                cursor.take(8, WHAT)?;
                self.push(Node::Float)
            }
            b'X' => {
                let count = u64::from(cursor.u32(WHAT)?);
                self.text(source, cursor, count)
            }
            0x8c => {
                let count = cursor.u8(WHAT)?.into();
                self.text(source, cursor, count)
            }
            0x8d => {
                let count = cursor.u64(WHAT)?;
                self.text(source, cursor, count)
            }
            b'B' | b'T' => {
                let count = u64::from(cursor.u32(WHAT)?);
                self.bytes(source, cursor, count)
            }
            b'C' | b'U' => {
                let count = cursor.u8(WHAT)?.into();
                self.bytes(source, cursor, count)
            }
            0x8e | 0x96 => {
                let count = cursor.u64(WHAT)?;
                self.bytes(source, cursor, count)
            }
            b'S' => {
                let bytes = quoted(cursor.line(WHAT)?)?;
                self.budget.take(bytes.len() as u64)?;
                self.push(Node::Bytes(Slice::made(bytes)))
            }
            b'V' => {
                let text = raw_unicode(cursor.line(WHAT)?)?;
                self.budget.take(text.len() as u64)?;
                self.push(Node::Text(Slice::made(text.into_bytes())))
            }
            // Lists, tuples, dicts, sets.
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            0x8f => self.push(Node::Set(Vec::new())),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'l' => {
                let members = self.pop_mark()?;
                self.push_places(members.len(), Node::List(members))
            }
            b't' => {
                let members = self.pop_mark()?;
                self.push_places(members.len(), Node::Tuple(members))
            }
            0x91 => {
                let members = self.pop_mark()?;
                self.push_places(members.len(), Node::Set(members))
            }
            b'd' => {
                let members = self.pop_mark()?;
                let entries = pairs(&members)?;
                self.push_places(members.len(), Node::Dict(entries))
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let members = self.pop_many(count)?;
                self.push_places(count, Node::Tuple(members))
            }
            b'a' => {
                let member = self.pop()?;
                self.append(&[member])
            }
            b'e' => {
                let members = self.pop_mark()?;
                self.append(&members)
            }
            0x90 => {
                let members = self.pop_mark()?;
                self.take_places(members.len())?;
                match self.top()? {
                    Node::Set(set) => set.extend(members),
                    other => return Err(misplaced("members", other)),
                }
                Ok(())
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)
            }
            b'u' => {
                let members = self.pop_mark()?;
                self.set_items(&members)
            }
            // Stack and memo.
            b'0' => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => {
                    self.marks.pop();
                    Ok(())
                }
                _ => self.pop().map(drop),
            },
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let id = self.peek()?;
                self.stack.push(id);
                Ok(())
            }
            b'p' => {
                let index = memo_index(cursor.line(WHAT)?)?;
                self.memoise(index)
            }
            b'q' => {
                let index = cursor.u8(WHAT)?.into();
                self.memoise(index)
            }
            b'r' => {
                let index = cursor.u32(WHAT)?;
                self.memoise(index)
            }
            0x94 => {
                let index = u32::try_from(self.memo.len()).map_err(|_| Error::unsupported("its memo is too large"))?;
                self.memoise(index)
            }
            b'g' => {
                let index = memo_index(cursor.line(WHAT)?)?;
                self.recall(index)
            }
            b'h' => {
                let index = cursor.u8(WHAT)?.into();
                self.recall(index)
            }
            b'j' => {
                let index = cursor.u32(WHAT)?;
                self.recall(index)
            }
            // Classes and calls.
            b'c' => {
                let (module, name) = (cursor.line(WHAT)?, cursor.line(WHAT)?);
                self.class(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let (module, name) = (self.text_of(names[0])?.to_owned(), self.text_of(names[1])?.to_owned());
                self.class(&module, &name)
            }
            b'R' => {
                let call = self.pop_many(2)?;
                let made = self.call(call[0], call[1])?;
                self.stack.push(made);
                Ok(())
            }
            0x81 => {
                let call = self.pop_many(2)?;
                let made = self.new_object(call[0], call[1])?;
                self.stack.push(made);
                Ok(())
            }
            0x92 => {
                // Class, arguments, named arguments, which none of these classes has.
                let call = self.pop_many(3)?;
                let made = self.new_object(call[0], call[1])?;
                self.stack.push(made);
                Ok(())
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.peek()?;
                self.build(object, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let node = persistent(self, id)?;
                self.push(node)
            }
            b'P' => {
                let end = cursor.line(WHAT)?.len();
                let start = cursor.position() - 1 - end;
                let id = self.keep(Node::Bytes(source.part(start..start + end)))?;
                let node = persistent(self, id)?;
                self.push(node)
            }
            // Old classes: their names are looked at so that the refusal names them.
            b'i' => {
                let (module, name) = (cursor.line(WHAT)?, cursor.line(WHAT)?);
                Err(Error::Refused(full_name(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))))
            }
            b'o' => Err(Error::Refused("an object of an old class".to_owned())),
            0x82..=0x84 => Err(Error::Refused("a class of the extension registry".to_owned())),
            0x97 | 0x98 => Err(Error::unsupported("parts of its pickle lie outside of the file")),
            other => Err(Error::malformed(format!("its pickle has the opcode {other:#04x}, which does not exist"))),
        }
    }

    fn class(&mut self, module: &str, name: &str) -> Result<(), Error> {
        let class = Class::find(module, name).ok_or_else(|| Error::Refused(full_name(module, name)))?;
        self.push(Node::Class(class))
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), Error> {
        let id = self.keep(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_places(&mut self, count: usize, node: Node<'a>) -> Result<(), Error> {
        self.take_places(count)?;
        self.push(node)
    }

    fn long(&mut self, cursor: &mut Cursor<'_>, count: usize) -> Result<(), Error> {
        let bytes = cursor.take(count, "a whole number of a pickle")?;
        if count > MOST_INTEGER_BYTES {
            return Err(Error::unsupported(format!("it has a whole number of {count} bytes")));
        }
        // Two's complement: the sign fills what the number does not.
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [fill; MOST_INTEGER_BYTES];
        all[..count].copy_from_slice(bytes);
        self.push(Node::Integer(i128::from_le_bytes(all)))
    }

    fn text(&mut self, source: &Slice<'a>, cursor: &mut Cursor<'_>, count: u64) -> Result<(), Error> {
        let bytes = cursor.take(length(count, "a text of a pickle")?, "a text of a pickle")?;
        if std::str::from_utf8(bytes).is_err() {
            return Err(Error::malformed("a text of its pickle is not UTF-8"));
        }
        self.push(Node::Text(source.part(cursor.position() - bytes.len()..cursor.position())))
    }

    fn bytes(&mut self, source: &Slice<'a>, cursor: &mut Cursor<'_>, count: u64) -> Result<(), Error> {
        let bytes = cursor.take(length(count, "the data of a pickle")?, "the data of a pickle")?;
        self.push(Node::Bytes(source.part(cursor.position() - bytes.len()..cursor.position())))
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn peek(&self) -> Result<Id, Error> {
        if self.stack.len() <= self.floor() {
            return Err(empty_stack());
        }
        Ok(*self.stack.last().expect("the stack is longer than its floor"))
    }

    fn pop(&mut self) -> Result<Id, Error> {
        let id = self.peek()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Error> {
        let start =
            self.stack.len().checked_sub(count).filter(|start| *start >= self.floor()).ok_or_else(empty_stack)?;
        Ok(self.stack.split_off(start))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Error> {
        let mark = self.marks.pop().ok_or_else(empty_stack)?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Node<'a>, Error> {
        let id = self.peek()?;
        Ok(&mut self.nodes[id as usize])
    }

    fn append(&mut self, members: &[Id]) -> Result<(), Error> {
        self.take_places(members.len())?;
        match self.top()? {
            Node::List(list) => list.extend(members),
            // A list that a class of no interest has grown from.
            Node::Opaque => {}
            other => return Err(misplaced("members", other)),
        }
        Ok(())
    }

    fn set_items(&mut self, members: &[Id]) -> Result<(), Error> {
        self.take_places(members.len())?;
        let entries = pairs(members)?;
        match self.top()? {
            Node::Dict(dict) => dict.extend(entries),
            Node::Opaque => {}
            other => return Err(misplaced("entries", other)),
        }
        Ok(())
    }

    fn memoise(&mut self, index: u32) -> Result<(), Error> {
        let id = self.peek()?;
        self.budget.take(MEMO)?;
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Error> {
        let id = self.memo.get(&index).ok_or_else(|| Error::malformed("its pickle recalls what it has not kept"))?;
        self.stack.push(*id);
        Ok(())
    }
}

/// Refuses every persistent id, as files without storages have none.
pub(super) fn no_persistent<'a>(_: &mut Machine<'a>, _: Id) -> Result<Node<'a>, Error> {
    Err(Error::malformed("its pickle refers to data outside of it"))
}

fn full_name(module: &str, name: &str) -> String {
    // Names of any length could stand here; a message shows the beginning.
    let full: String = format!("{module}.{name}").chars().filter(|letter| !letter.is_control()).take(120).collect();
    full.replace('`', "'")
}

fn empty_stack() -> Error {
    Error::malformed("its pickle takes more from the stack than lies there")
}

pub(super) fn misplaced(what: &str, node: &Node<'_>) -> Error {
    Error::malformed(format!("its pickle has {} where it needs {what}", node.word()))
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>, Error> {
    if !members.len().is_multiple_of(2) {
        return Err(Error::malformed("its pickle has a key without a value"));
    }
    Ok(members.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn memo_index(line: &[u8]) -> Result<u32, Error> {
    let index = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
    index.ok_or_else(|| Error::malformed("its pickle has a place of the memo that is no number"))
}

/// Reads a whole number of protocol 0, `00` and `01` being truth values.
fn decimal<'a>(line: &[u8]) -> Result<Node<'a>, Error> {
    match line {
        b"00" => return Ok(Node::Bool(false)),
        b"01" => return Ok(Node::Bool(true)),
        _ => {}
    }
    let text = std::str::from_utf8(line).ok().map(|text| text.trim().trim_end_matches('L'));
    let value = text.and_then(|text| text.parse().ok());
    value.map(Node::Integer).ok_or_else(|| Error::malformed("its pickle has a whole number that is none"))
}

/// Reads a text of protocol 0 in quotes, with the escapes of Python's `repr` of bytes.
fn quoted(line: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = || Error::malformed("its pickle has a text with damaged quotes or escapes");
    let line = line.trim_ascii_end();
    let quote = *line.first().filter(|quote| matches!(quote, b'\'' | b'"')).ok_or_else(wrong)?;
    if line.len() < 2 || line.last() != Some(&quote) {
        return Err(wrong());
    }
    let mut rest = line[1..line.len() - 1].iter().copied();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().ok_or_else(wrong)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
                (digit()? * 16 + digit()?) as u8
            }
            escaped @ (b'\\' | b'\'' | b'"') => escaped,
            _ => return Err(wrong()),
        });
    }
    Ok(bytes)
}

/// Reads a text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
fn raw_unicode(line: &[u8]) -> Result<String, Error> {
    let wrong = || Error::malformed("its pickle has a text with damaged escapes");
    let mut rest = line.iter().copied().peekable();
    let mut text = String::with_capacity(line.len());
    while let Some(byte) = rest.next() {
        let digits = match (byte, rest.peek()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                continue;
            }
        };
        rest.next();
        let mut code = 0;
        for _ in 0..digits {
            let digit = rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong)?;
            code = code << 4 | digit;
        }
        text.push(char::from_u32(code).ok_or_else(wrong)?);
    }
    Ok(text)
}
