//! PyTorch's files of weights, `.pth` and kin, in the three forms that they have had: a zip archive (since 1.6), one stream of
//! pickles and raw storages (before), and a tar archive (before 0.2). Follows `torch/serialization.py` of PyTorch 2.9.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::array::{Dtype, Slice};
use super::classes::{Class, count, tensor};
use super::error::{Budget, Cursor, Error};
use super::pickle::{Machine, no_persistent};
use super::tar;
use super::tree::{Id, Node, Part, Tree, View};
use super::zip::{self, Archive};

/// The number with which a stream begins.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The version of the stream's protocol.
const PROTOCOL: i128 = 1001;

/// Whether bytes begin as one of the three forms does.
pub fn is_torch(bytes: &[u8]) -> bool {
    let is_pickle = bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|&protocol| protocol <= 5);
    // A safetensors file begins with the length of its header, which may look the same, and then the header, which is JSON.
    zip::is_zip(bytes) || tar::is_tar(bytes) || (is_pickle && bytes.get(8) != Some(&b'{'))
}

/// Reads a file of weights in any of its forms.
///
/// # Errors
/// If it is none of them, damaged, big-endian, or names anything but tensors and what stands beside them in checkpoints.
pub fn read(bytes: &[u8]) -> Result<Tree<'_>, Error> {
    let budget = Budget::of(bytes.len());
    if zip::is_zip(bytes) {
        return read_zip(bytes, budget);
    }
    if tar::is_tar(bytes) {
        return read_tar(bytes, budget);
    }
    if !is_torch(bytes) {
        return Err(Error::malformed("it is no file of PyTorch"));
    }
    let mut machine = Machine::new(budget);
    let root = read_stream(&mut machine, bytes)?;
    machine.into_tree(root)
}

/// Reads a stream that holds one storage, and returns its type, its range within `bytes`, and what is left of the budget.
pub(super) fn storage_in(bytes: &[u8], mut budget: Budget) -> Result<(Dtype, Range<usize>, Budget), Error> {
    // A machine of its own has values that are there from the start.
    budget.take(1 << 14)?;
    let mut machine = Machine::new(budget);
    machine.within = true;
    let root = read_stream(&mut machine, bytes)?;
    match machine.node(root) {
        Node::Storage(Part { storage, dtype, offset: 0 }) => {
            let data = machine.storages[*storage].bytes();
            let start = data.as_ptr() as usize - bytes.as_ptr() as usize;
            Ok((*dtype, start..start + data.len(), machine.budget))
        }
        other => Err(super::pickle::misplaced("a storage", other)),
    }
}

/// A storage that has been named, with the number of its elements.
#[derive(Clone, Copy, Debug)]
struct Named {
    number: usize,
    dtype: Dtype,
    count: usize,
}

/// Storages by key, as persistent ids name them.
#[derive(Default)]
struct Storages {
    by_key: BTreeMap<String, Named>,
}

impl Storages {
    /// Reads a persistent id, `("storage", class, key, location, count)` and in a stream the part that it is of another, and
    /// returns what it names. `data` gives the bytes of a storage that is named for the first time.
    fn find<'a>(
        &mut self,
        machine: &mut Machine<'a>,
        id: Id,
        data: &mut dyn FnMut(&mut Machine<'a>, &str, usize) -> Result<Slice<'a>, Error>,
    ) -> Result<Node<'a>, Error> {
        let parts = machine.members_of(id)?;
        let parts = parts.get(..parts.len().min(6)).unwrap_or_default().to_vec();
        let [word, class, key, _location, elements, ..] = parts[..] else {
            return Err(Error::malformed("a storage of its pickle has too few parts"));
        };
        if machine.text_of(word)? != "storage" {
            return Err(Error::unsupported(
                "it holds a whole network and not only its weights; save `network.state_dict()` in Python",
            ));
        }
        let Class::Storage(dtype) = machine.class_of(class)? else {
            return Err(Error::malformed("a storage of its pickle has a class that is none of a storage"));
        };
        let key = machine.text_of(key)?.to_owned();
        let elements = machine.size(elements)?;
        let offset = match parts.get(5).map(|view| (*view, machine.node(*view))) {
            None | Some((_, Node::None)) => 0,
            // (key of the view, offset, elements)
            Some((view, _)) => match *machine.members_of(view)? {
                [_, offset, _] => machine.size(offset)?,
                _ => return Err(Error::malformed("a view of a storage has not three parts")),
            },
        };
        let named = match self.by_key.get(&key) {
            Some(named) => *named,
            None => {
                machine.budget.take_values(4 + key.len(), size_of::<Named>())?;
                let size = elements.checked_mul(dtype.size()).ok_or(Error::Truncated("a storage"))?;
                let slice = data(machine, &key, size)?;
                let number = machine.add_storage(slice)?;
                let named = Named { number, dtype, count: elements };
                self.by_key.insert(key, named);
                named
            }
        };
        if named.dtype != dtype || named.count != elements {
            return Err(Error::malformed("a storage of its pickle has two types or two sizes"));
        }
        Ok(Node::Storage(Part { storage: named.number, dtype, offset }))
    }
}

fn read_zip<'a>(bytes: &'a [u8], mut budget: Budget) -> Result<Tree<'a>, Error> {
    let archive = Archive::open(bytes, &mut budget)?;
    let pickle = archive.names().find(|name| name.ends_with("/data.pkl")).ok_or_else(|| {
        Error::malformed("it is a zip archive without `data.pkl`, and so none that PyTorch has written")
    })?;
    let folder = &pickle[..pickle.len() - "data.pkl".len()];
    if archive.names().any(|name| name == format!("{folder}constants.pkl")) {
        return Err(Error::unsupported(
            "it holds a TorchScript program and not only weights; save `network.state_dict()` in Python",
        ));
    }
    if let Some(order) = archive.read(&format!("{folder}byteorder"), &mut budget)?
        && order.bytes() != b"little"
    {
        return Err(Error::unsupported("its numbers are big-endian, which is not read"));
    }
    let pickle = archive.read(pickle, &mut budget)?.expect("this name is in the archive");
    let mut machine = Machine::new(budget);
    let mut storages = Storages::default();
    let mut data = |machine: &mut Machine<'a>, key: &str, size: usize| {
        let name = format!("{folder}data/{key}");
        let slice = archive.read(&name, &mut machine.budget)?;
        let slice = slice.ok_or_else(|| Error::malformed(format!("the zip archive lacks `{name}`")))?;
        if slice.bytes().len() == size {
            return Ok(slice);
        }
        Err(Error::malformed(format!("`{name}` has {} bytes where {size} are due", slice.bytes().len())))
    };
    let find = &mut |machine: &mut Machine<'a>, id| storages.find(machine, id, &mut data);
    let root = machine.run(&pickle, &mut Cursor::new(pickle.bytes()), find)?;
    machine.into_tree(root)
}

/// Reads one stream: magic number, version, the machine that wrote it, the value, keys of storages, and the storages.
fn read_stream<'a>(machine: &mut Machine<'a>, bytes: &'a [u8]) -> Result<Id, Error> {
    let source = Slice::Input(bytes);
    let mut cursor = Cursor::new(bytes);
    let magic = machine.run(&source, &mut cursor, &mut no_persistent)?;
    if !matches!(machine.node(magic), Node::Integer(MAGIC)) {
        return Err(Error::malformed("it is a pickle that PyTorch has not written"));
    }
    let version = machine.run(&source, &mut cursor, &mut no_persistent)?;
    if !matches!(machine.node(version), Node::Integer(PROTOCOL)) {
        return Err(Error::unsupported("it is of a version of PyTorch's format that is not read"));
    }
    let system = machine.run(&source, &mut cursor, &mut no_persistent)?;
    let Node::Dict(system) = machine.node(system) else {
        return Err(super::pickle::misplaced("a dict", machine.node(system)));
    };
    let little = system.iter().find(|(key, _)| machine.text_of(*key).is_ok_and(|key| key == "little_endian"));
    if little.is_some_and(|(_, value)| matches!(machine.node(*value), Node::Bool(false))) {
        return Err(Error::unsupported("its numbers are big-endian, which is not read"));
    }
    let mut storages = Storages::default();
    // The bytes follow the pickle; until then a storage is empty.
    let mut later = |_: &mut Machine<'a>, _: &str, _: usize| Ok(Slice::Input(&[]));
    let root = machine.run(&source, &mut cursor, &mut |machine, id| storages.find(machine, id, &mut later))?;
    let keys = machine.run(&source, &mut cursor, &mut no_persistent)?;
    let mut due: BTreeSet<&String> = storages.by_key.keys().collect();
    for key in machine.members_of(keys)?.to_vec() {
        let key = machine.text_of(key)?.to_owned();
        let named = storages.by_key.get(&key);
        let named = named.ok_or_else(|| Error::malformed("it has a storage that nothing refers to"))?;
        if !due.remove(&key) {
            return Err(Error::malformed("it has a storage twice"));
        }
        let count = count(&mut cursor, "a storage")?;
        if count != named.count {
            return Err(Error::malformed(format!("a storage has {count} elements where {} are due", named.count)));
        }
        let size = count.checked_mul(named.dtype.size()).ok_or(Error::Truncated("a storage"))?;
        machine.storages[named.number] = Slice::Input(cursor.take(size, "a storage")?);
    }
    if due.is_empty() { Ok(root) } else { Err(Error::malformed("it lacks a storage that its tensors refer to")) }
}

/// Reads a tar archive: `storages`, `tensors` that lie over them, and the `pickle` that refers to tensors by number.
fn read_tar(bytes: &[u8], budget: Budget) -> Result<Tree<'_>, Error> {
    let files = tar::files(bytes)?;
    let file = |name: &str| {
        let file = files.get(name).copied();
        file.ok_or_else(|| Error::malformed(format!("it is a tar archive without `{name}`, and none of PyTorch's")))
    };
    let mut machine = Machine::new(budget);
    let bytes = file("storages")?;
    let (source, mut cursor) = (Slice::Input(bytes), Cursor::new(bytes));
    let mut storages: BTreeMap<i128, Part> = BTreeMap::new();
    let number = |machine: &Machine<'_>, id: Id| match machine.node(id) {
        Node::Integer(number) => Ok(*number),
        other => Err(super::pickle::misplaced("a number", other)),
    };
    let unknown = || Error::malformed("it refers to a storage or tensor that it does not have");

    let total = machine.run(&source, &mut cursor, &mut no_persistent)?;
    for _ in 0..machine.size(total)? {
        let triple = machine.run(&source, &mut cursor, &mut no_persistent)?;
        let [key, _location, class] = machine.members_of(triple)?[..] else { return Err(unknown()) };
        let Class::Storage(dtype) = machine.class_of(class)? else { return Err(unknown()) };
        let key = number(&machine, key)?;
        let size = count(&mut cursor, "a storage")?.checked_mul(dtype.size()).ok_or(Error::Truncated("a storage"))?;
        let storage = machine.add_storage(Slice::Input(cursor.take(size, "a storage")?))?;
        storages.insert(key, Part { storage, dtype, offset: 0 });
    }
    let views = machine.run(&source, &mut cursor, &mut no_persistent)?;
    for view in machine.members_of(views)?.to_vec() {
        let [key, of, offset, _elements] = machine.members_of(view)?[..] else { return Err(unknown()) };
        let part = *storages.get(&number(&machine, of)?).ok_or_else(unknown)?;
        let offset = part.offset.checked_add(machine.size(offset)?).ok_or_else(unknown)?;
        machine.take_places(16)?;
        storages.insert(number(&machine, key)?, Part { offset, ..part });
    }

    let bytes = file("tensors")?;
    let (source, mut cursor) = (Slice::Input(bytes), Cursor::new(bytes));
    let mut tensors: BTreeMap<i128, Node<'_>> = BTreeMap::new();
    let total = machine.run(&source, &mut cursor, &mut no_persistent)?;
    for _ in 0..machine.size(total)? {
        let triple = machine.run(&source, &mut cursor, &mut no_persistent)?;
        let [key, storage, _class] = machine.members_of(triple)?[..] else { return Err(unknown()) };
        let part = *storages.get(&number(&machine, storage)?).ok_or_else(unknown)?;
        let sides = usize::try_from(cursor.u32("a tensor")?).expect("32 bits fit");
        cursor.take(4, "a tensor")?;
        if sides > super::array::MOST_DIMENSIONS {
            return Err(Error::malformed(format!("a tensor has {sides} dimensions")));
        }
        let mut sizes = || (0..sides).map(|_| count(&mut cursor, "a tensor")).collect::<Result<Vec<usize>, Error>>();
        let (shape, strides) = (sizes()?, sizes()?);
        let offset = count(&mut cursor, "a tensor")?;
        machine.take_places(32 + 4 * sides)?;
        tensors.insert(number(&machine, key)?, tensor(part, offset, shape, strides)?);
    }

    let bytes = file("pickle")?;
    let root = machine.run(&Slice::Input(bytes), &mut Cursor::new(bytes), &mut |machine, id| {
        // As a number, or in protocol 0 as a text of its digits.
        let key = match machine.node(id) {
            Node::Integer(key) => Some(*key),
            Node::Tuple(_) => {
                return Err(Error::unsupported(
                    "it holds a whole network and not only its weights; save `network.state_dict()` in Python",
                ));
            }
            _ => machine.text_of(id)?.parse().ok(),
        };
        let node = key.and_then(|key| tensors.get(&key)).ok_or_else(unknown)?.clone();
        machine.take_places(32)?;
        Ok(node)
    })?;
    machine.into_tree(root)
}

/// Finds the tensors of a file of weights by name: the dict itself, or the one under `state_dict` or `model` within it. A prefix
/// `module.` that all names have, as training on several devices leaves it, is taken off.
///
/// # Errors
/// If there is no such dict, or something in it is neither a tensor nor a dict's attribute.
pub fn state_dict<'tree, 'a>(root: View<'tree, 'a>) -> Result<BTreeMap<&'tree str, View<'tree, 'a>>, Error> {
    let mut found = root;
    // A checkpoint holds a state_dict, and no one has nested them deeper than this.
    for _ in 0..3 {
        match ["state_dict", "model"].iter().find_map(|key| found.get(key).filter(|inner| inner.entries().is_some())) {
            Some(inner) => found = inner,
            None => break,
        }
    }
    let entries = found.entries().ok_or_else(|| {
        Error::malformed(format!("tensors by name are due where it has {}; save a state_dict in Python", found.word()))
    })?;
    let mut tensors = BTreeMap::new();
    for (name, value) in entries {
        let name = name
            .text()
            .ok_or_else(|| Error::malformed(format!("names of tensors are due where it has {}", name.word())))?;
        if value.shape().is_none() {
            return Err(Error::malformed(format!("`{}` is {} and no tensor", shown(name), value.word())));
        }
        tensors.insert(name, value);
    }
    if !tensors.is_empty() && tensors.keys().all(|name| name.starts_with("module.")) {
        return Ok(tensors.into_iter().map(|(name, value)| (&name["module.".len()..], value)).collect());
    }
    Ok(tensors)
}

fn shown(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(120).collect()
}
