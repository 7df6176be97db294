//! Writes what other programs read: npy arrays and dicts, `.pth` files and tar archives. The same values always give the same
//! bytes.

use std::collections::BTreeMap;

/// Encodes an array as npy 1.0, C order: magic, version, header length, header padded to a multiple of 64 bytes, data.
///
/// `descr` is NumPy's word for the type, such as `<f4`.
pub fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {}, }}", tuple_text(shape));
    const BEFORE: usize = 10;
    let length = (BEFORE + header.len() + 1).next_multiple_of(64) - BEFORE;
    header.push_str(&" ".repeat(length - header.len() - 1));
    header.push('\n');
    let length = u16::try_from(length).expect("a header with few dimensions is short");
    [b"\x93NUMPY\x01\x00", length.to_le_bytes().as_slice(), header.as_bytes(), data].concat()
}

/// Writes a shape as Python does: `(3,)` and `(3, 4)`.
fn tuple_text(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        many => format!("({})", many.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A key of a dict.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Number(u8),
}

/// A value of a dict: an array in C order.
#[derive(Clone, Debug)]
pub struct Item {
    /// Whether it is an array of NumPy or a tensor of PyTorch.
    pub library: Library,
    /// The type of its elements.
    pub element: Element,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub data: Vec<u8>,
}

/// Whose array it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// NumPy's.
    Numpy,
    /// PyTorch's, which needs PyTorch to be read.
    Torch,
}

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// Signed, 64 bits.
    I64,
}

impl Element {
    fn numpy(self) -> &'static str {
        match self {
            Self::F32 => "f4",
            Self::I64 => "i8",
        }
    }

    fn storage(self) -> &'static str {
        match self {
            Self::F32 => "FloatStorage",
            Self::I64 => "LongStorage",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// Encodes a dict of arrays as `np.save` does: an array without dimensions of one object (SPEC Appendix A), pickled by
/// protocol 3, which every Python 3 reads.
pub fn npy_dict(entries: &[(Key<'_>, Item)]) -> Vec<u8> {
    let mut pickle = Pickle::new(3);
    pickle.numpy_array(|pickle| {
        pickle.raw(b"(K\x01)");
        pickle.numpy_dtype("O8", "|", 63);
        pickle.raw(b"\x89]");
        pickle.dict(entries.len(), |pickle, index| {
            let (key, item) = &entries[index];
            match key {
                Key::Text(text) => pickle.text(text),
                Key::Number(number) => pickle.raw(&[b'K', *number]),
            }
            match item.library {
                Library::Numpy => pickle.numpy_array(|pickle| {
                    pickle.raw(b"(K\x01");
                    pickle.sizes(&item.shape);
                    pickle.numpy_dtype(item.element.numpy(), "<", 0);
                    pickle.raw(b"\x89");
                    pickle.bytes(&item.data);
                    pickle.raw(b"t");
                }),
                Library::Torch => pickle.tensor(&item.shape, |pickle| {
                    pickle.class("torch.storage", "_load_from_bytes");
                    pickle.bytes(&storage_stream(item.element, &item.data));
                    pickle.raw(b"\x85R");
                }),
            }
        });
        pickle.raw(b"at");
    });
    npy("|O", &[], &pickle.finish())
}

/// Encodes one storage as `torch.save` did before 1.6, and as tensors within other pickles still are.
fn storage_stream(element: Element, data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut add = |write: &dyn Fn(&mut Pickle)| {
        let mut pickle = Pickle::new(2);
        write(&mut pickle);
        stream.extend(pickle.finish());
    };
    // The magic number 0x1950a86a20f9469cfc6c and the version of the protocol, 1001.
    add(&|pickle| pickle.raw(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"));
    add(&|pickle| pickle.number(1001));
    add(&|pickle| {
        pickle.raw(b"}(");
        pickle.text("protocol_version");
        pickle.number(1001);
        pickle.text("little_endian");
        pickle.raw(b"\x88");
        pickle.text("type_sizes");
        pickle.raw(b"}(");
        for (name, size) in [("short", 2), ("int", 4), ("long", 4)] {
            pickle.text(name);
            pickle.number(size);
        }
        pickle.raw(b"uu");
    });
    let count = data.len() / element.size();
    add(&|pickle| pickle.storage(element, 0, count, true));
    add(&|pickle| {
        pickle.raw(b"]");
        pickle.text("0");
        pickle.raw(b"a");
    });
    stream.extend((count as u64).to_le_bytes());
    stream.extend(data);
    stream
}

/// The data of one or more tensors of a `.pth`.
#[derive(Clone, Debug)]
pub struct Storage {
    /// The type of its elements.
    pub element: Element,
    /// Its elements, little-endian.
    pub data: Vec<u8>,
}

/// A tensor of a `.pth`, which takes up a whole storage.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Which storage it takes; tensors that are one and the same take the same.
    pub storage: usize,
}

/// Encodes tensors by name as a `.pth`: the zip archive of PyTorch 1.6 and later, which `torch.load(weights_only=True)` reads.
///
/// # Errors
/// If the file would be larger than 4 GiB, for which archives need fields that are not written here.
pub fn pth(entries: &[Entry], storages: &[Storage]) -> Result<Vec<u8>, String> {
    let mut pickle = Pickle::new(2);
    pickle.class("collections", "OrderedDict");
    pickle.raw(b")R");
    if !entries.is_empty() {
        pickle.raw(b"(");
        for Entry { name, shape, storage } in entries {
            let Storage { element, data } = &storages[*storage];
            pickle.text(name);
            pickle.tensor(shape, |pickle| pickle.storage(*element, *storage, data.len() / element.size(), false));
        }
        pickle.raw(b"u");
    }
    let mut zip = Zip::default();
    // The names and their order are those of PyTorch 2.9.
    zip.add("archive/data.pkl", &pickle.finish())?;
    zip.add("archive/byteorder", b"little")?;
    for (number, storage) in storages.iter().enumerate() {
        zip.add(&format!("archive/data/{number}"), &storage.data)?;
    }
    zip.add("archive/version", b"3\n")?;
    zip.finish()
}

/// A pickle that is being written.
struct Pickle {
    bytes: Vec<u8>,
}

impl Pickle {
    fn new(protocol: u8) -> Self {
        Self { bytes: vec![0x80, protocol] }
    }

    fn finish(mut self) -> Vec<u8> {
        self.raw(b".");
        self.bytes
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn class(&mut self, module: &str, name: &str) {
        self.raw(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.raw(b"X");
        self.raw(&u32::try_from(text.len()).expect("names are short").to_le_bytes());
        self.raw(text.as_bytes());
    }

    /// Bytes, which protocols 2 and older do not know.
    fn bytes(&mut self, bytes: &[u8]) {
        match u32::try_from(bytes.len()) {
            Ok(length) => {
                self.raw(b"B");
                self.raw(&length.to_le_bytes());
            }
            Err(_) => {
                self.raw(b"\x8e");
                self.raw(&(bytes.len() as u64).to_le_bytes());
            }
        }
        self.raw(bytes);
    }

    fn number(&mut self, number: usize) {
        match i32::try_from(number) {
            Ok(small @ 0..=255) => self.raw(&[b'K', small as u8]),
            Ok(number) => {
                self.raw(b"J");
                self.raw(&number.to_le_bytes());
            }
            // One byte more than eight keeps the sign positive.
            Err(_) => {
                self.raw(b"\x8a\x09");
                self.raw(&(number as u64).to_le_bytes());
                self.raw(b"\x00");
            }
        }
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.raw(b"(");
        sizes.iter().for_each(|size| self.number(*size));
        self.raw(b"t");
    }

    fn dict(&mut self, length: usize, entry: impl Fn(&mut Self, usize)) {
        self.raw(b"}(");
        (0..length).for_each(|index| entry(self, index));
        self.raw(b"u");
    }

    /// An array of NumPy with the state that `state` writes.
    fn numpy_array(&mut self, state: impl FnOnce(&mut Self)) {
        self.class("numpy.core.multiarray", "_reconstruct");
        self.class("numpy", "ndarray");
        self.raw(b"K\x00\x85");
        self.bytes(b"b");
        self.raw(b"\x87R");
        state(self);
        self.raw(b"b");
    }

    fn numpy_dtype(&mut self, word: &str, order: &str, flags: u8) {
        self.class("numpy", "dtype");
        self.text(word);
        self.raw(b"\x89\x88\x87R(K\x03");
        self.text(order);
        self.raw(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK");
        self.raw(&[flags]);
        self.raw(b"tb");
    }

    /// A dense tensor of PyTorch over the storage that `storage` writes.
    fn tensor(&mut self, shape: &[usize], storage: impl FnOnce(&mut Self)) {
        self.class("torch._utils", "_rebuild_tensor_v2");
        self.raw(b"(");
        storage(self);
        self.number(0);
        self.sizes(shape);
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        self.sizes(&strides);
        self.raw(b"\x89");
        self.class("collections", "OrderedDict");
        self.raw(b")RtR");
    }

    /// The name of a storage, which a stream ends with the view that it is: none.
    fn storage(&mut self, element: Element, number: usize, count: usize, stream: bool) {
        self.raw(b"(");
        self.text("storage");
        self.class("torch", element.storage());
        self.text(&number.to_string());
        self.text("cpu");
        self.number(count);
        self.raw(if stream { b"NtQ" } else { b"tQ" });
    }
}

/// A zip archive that is being written, of stored members whose data begin at multiples of 64 bytes, as PyTorch wants them.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    members: u16,
}

/// Members begin at multiples of this.
const ALIGNMENT: usize = 64;
/// A local header without name and extra field, in bytes.
const LOCAL_LENGTH: usize = 30;

impl Zip {
    fn add(&mut self, name: &str, data: &[u8]) -> Result<(), String> {
        let mut checksum = flate2::Crc::new();
        checksum.update(data);
        let offset = small(self.bytes.len())?;
        // An extra field of PyTorch's kind, `FB`, fills up to the next multiple.
        let before = self.bytes.len() + LOCAL_LENGTH + name.len() + 4;
        let padding = before.next_multiple_of(ALIGNMENT) - before;
        // From the version that is needed to the length of the name: no flags, stored, midnight of 1 January 1980.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(checksum.sum().to_le_bytes());
        common.extend(small(data.len())?.to_le_bytes());
        common.extend(small(data.len())?.to_le_bytes());
        common.extend(u16::try_from(name.len()).expect("names are short").to_le_bytes());
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend((4 + padding as u16).to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(b"FB");
        self.bytes.extend((padding as u16).to_le_bytes());
        self.bytes.extend(std::iter::repeat_n(b'Z', padding));
        self.bytes.extend(data);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(&common);
        self.directory.extend([0; 12]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.members = self.members.checked_add(1).ok_or("a zip archive has at most 65535 members")?;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, String> {
        let (offset, size) = (small(self.bytes.len())?, small(self.directory.len())?);
        self.bytes.extend(&self.directory);
        self.bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
        self.bytes.extend(self.members.to_le_bytes());
        self.bytes.extend(self.members.to_le_bytes());
        self.bytes.extend(size.to_le_bytes());
        self.bytes.extend(offset.to_le_bytes());
        self.bytes.extend([0, 0]);
        Ok(self.bytes)
    }
}

fn small(length: usize) -> Result<u32, String> {
    u32::try_from(length).map_err(|_| "a `.pth` of more than 4 GiB is not written; take safetensors".to_owned())
}

/// Encodes files as a gzipped tar archive (POSIX ustar), in order of their names, without owners and times.
///
/// # Errors
/// If a name is longer than an archive can have it.
pub fn tar_gz(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, String> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut write = |bytes: &[u8]| packed.write_all(bytes).map_err(|error| error.to_string());
    for (name, content) in files {
        let mut header = [0; 512];
        let fields: [(usize, &str); 7] = [
            (0, name),
            (100, "0000644"),
            (108, "0000000"),
            (116, "0000000"),
            (124, &format!("{:011o}", content.len())),
            (136, "00000000000"),
            (257, "ustar\x0000"),
        ];
        if name.len() > 100 {
            return Err(format!("`{name}` is too long a name for a tar archive"));
        }
        for (at, text) in fields {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        header[156] = b'0';
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        write(&header)?;
        write(content)?;
        write(&vec![0; content.len().next_multiple_of(512) - content.len()])?;
    }
    write(&[0; 1024])?;
    packed.finish().map_err(|error| error.to_string())
}
