//! Files of NumPy and PyTorch: what is read, what is refused, and that no damage to a file does more than end in an error.

use std::path::{Path, PathBuf};

use orandflow::artifact::import::{self, Layout, Outside, Target};
use orandflow::foreign::{Error, Tree, View, npy, torch, write};

/// The folder of the files that `tests/fixtures/foreign.py` has made.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign")
}

/// Returns the bytes of one of them.
pub(crate) fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect("the fixture is there")
}

/// Returns the names of all files, sorted.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}

/// The values of every array in the files.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index % 7) as f32 / 8.0).collect()
}

fn read(bytes: &[u8]) -> Result<Tree<'_>, Error> {
    if bytes.starts_with(npy::MAGIC) { npy::read(bytes) } else { torch::read(bytes) }
}

fn check(array: View<'_, '_>, shape: &[usize]) {
    assert_eq!(array.shape(), Some(shape), "{array:?}");
    assert_eq!(array.floats().expect("floats"), values(shape.iter().product()));
}

#[test]
fn dicts_of_maps_in_every_protocol() {
    for (name, channels, cam) in [
        ("amn.npy", 3, [3, 2, 2]),
        ("irn.npy", 2, [2, 2, 2]),
        ("irn.p2.npy", 2, [2, 2, 2]),
        ("orandnet_1.npy", 2, [2, 2, 2]),
    ] {
        let bytes = file(name);
        let tree = npy::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let dict = tree.root().item();
        assert_eq!(dict.get("keys").expect("keys").integers(), Ok(vec![1, 4]), "{name}");
        check(dict.get("cam").expect("cam"), &cam);
        check(dict.get("high_res").expect("high_res"), &[channels, 5, 6]);
    }
    for name in names().iter().filter(|name| name.starts_with("mctformer.")) {
        let bytes = file(name);
        let tree = npy::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let entries: Vec<_> = tree.root().item().entries().expect("a dict").collect();
        assert_eq!(entries.iter().map(|(key, _)| key.integer()).collect::<Vec<_>>(), [Some(1), Some(4)], "{name}");
        entries.iter().for_each(|(_, map)| check(*map, &[5, 6]));
    }
}

#[test]
fn labels_by_numbers_and_texts_of_numpy() {
    let bytes = file("labels.p2.npy");
    let tree = npy::read(&bytes).expect("readable");
    let entries: Vec<_> = tree.root().item().entries().expect("a dict").collect();
    assert_eq!(entries[0].0.integer(), Some(2007000032));
    check(entries[0].1, &[20]);
    assert_eq!(entries[1].0.text(), Some("2007_000039"));
    assert_eq!((entries[2].0.text(), entries[2].1.word()), (Some("x"), "a number"));
}

#[test]
fn plain_arrays_of_every_version_order_and_precision() {
    for name in ["plain.f4.npy", "plain.f2.npy", "plain.f8.npy", "plain.fortran.npy", "plain.v2.npy", "plain.v3.npy"] {
        let bytes = file(name);
        check(npy::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")).root(), &[2, 5, 6]);
    }
}

#[test]
fn weights_in_every_container() {
    let all = names();
    let is_good = |name: &&String| {
        name.ends_with(".pth")
            && ["zip", "stream", "deflated", "checkpoint", "nested", "tar", "old"]
                .iter()
                .any(|good| name.starts_with(good))
    };
    let mut seen = 0;
    for name in all.iter().filter(is_good) {
        let bytes = file(name);
        let tree = torch::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let tensors = torch::state_dict(tree.root()).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(tensors["whole"], &[3, 4]);
        let whole = values(12);
        let transposed: Vec<f32> = (0..12).map(|index| whole[index % 3 * 4 + index / 3]).collect();
        assert_eq!(tensors["transposed"].shape(), Some(&[4, 3][..]));
        assert_eq!(tensors["transposed"].floats(), Ok(transposed), "{name}");
        assert_eq!(tensors["part"].floats(), Ok(whole[5..9].to_vec()), "{name}");
        assert_eq!(tensors["count"].integers(), Ok(vec![7]), "{name}");
        if !name.starts_with("tar") && !name.starts_with("old") {
            check(tensors["alias"], &[3, 4]);
            assert_eq!(tensors["expanded"].floats(), Ok(vec![0.25; 5]), "{name}");
            for precision in ["half", "bfloat", "double"] {
                check(tensors[precision], &[4]);
            }
            check(tensors["parameter"], &[2, 2]);
        }
        seen += 1;
    }
    assert_eq!(seen, 10, "all containers are among the fixtures");
}

#[test]
fn safetensors_with_a_header_of_a_pickles_first_bytes_are_no_pickle() {
    // The length of the header, 128 or 1152, begins as a pickle of protocol 0 or 4 does.
    for length in [0x0080_u64, 0x0480] {
        let header = format!("{:<1$}", "{}", length as usize);
        let bytes = [&length.to_le_bytes()[..], header.as_bytes()].concat();
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
        assert!(!orandflow::foreign::torch::is_torch(&bytes));
    }
    assert!(orandflow::foreign::torch::is_torch(&file("stream.pth")));
}

#[test]
fn what_is_refused_is_named() {
    let refusal = |name: &str| read(&file(name)).err().unwrap_or_else(|| panic!("{name} is refused")).to_string();
    let names = ["evil.npy", "evil.pth", "evil.stream.pth", "module.pth", "big_endian.npy", "big_endian.pth"];
    let refusals: Vec<String> = names.iter().map(|name| format!("{name}: {}", refusal(name))).collect();
    insta::assert_snapshot!(refusals.join("\n"), @r"
    evil.npy: it asks for `posix.system`, which files of arrays and weights do not need; it was not run, and the file is not read
    evil.pth: it asks for `posix.system`, which files of arrays and weights do not need; it was not run, and the file is not read
    evil.stream.pth: it asks for `posix.system`, which files of arrays and weights do not need; it was not run, and the file is not read
    module.pth: it asks for `torch.nn.modules.linear.Linear`, which files of arrays and weights do not need; it was not run, and the file is not read
    big_endian.npy: its arrays have the type `>f4`, big-endian, which is not read
    big_endian.pth: its numbers are big-endian, which is not read
    ");
}

/// Reads everything that can be read of a file, also as the maps of any program, and forgets it.
fn exhaust(bytes: &[u8]) {
    if bytes.starts_with(npy::MAGIC) {
        let target = Target { id: "a", size: (5, 6), labels: &[1, 4], classes: 20 };
        for layout in [Layout::Irn, Layout::Amn, Layout::Mctformer, Layout::Plain] {
            let _ = import::read(layout, bytes, None, &target, Outside::Keep);
        }
    }
    let Ok(tree) = read(bytes) else { return };
    let look = |view: View<'_, '_>| drop((view.floats(), view.integers(), view.text()));
    let root = tree.root().item();
    look(root);
    for (key, value) in root.entries().into_iter().flatten() {
        look(key);
        look(value);
    }
    let _ = torch::state_dict(root).map(|tensors| tensors.into_values().for_each(look));
}

#[test]
fn every_cut_of_every_file_is_an_error() {
    for name in names() {
        let bytes = file(&name);
        for length in 0..bytes.len() {
            let cut = read(&bytes[..length]);
            // A tar archive ends with blocks of zeros, all of which may go.
            assert!(cut.is_err() || name == "tar.pth" && length >= 5632, "{name} cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn no_single_byte_brings_the_reader_down() {
    for name in names() {
        let bytes = file(&name);
        // Each place once, with values that make lengths huge, signs change and opcodes differ.
        for at in 0..bytes.len() {
            for value in [0, 0xff, bytes[at] ^ 0x80, bytes[at].wrapping_add(1)] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                exhaust(&damaged);
            }
        }
    }
}

/// A pickle in an npy file.
fn pickled(pickle: &[u8]) -> Vec<u8> {
    [write::npy("|O", &[], &[]).as_slice(), pickle].concat()
}

fn error(pickle: &[u8]) -> String {
    npy::read(&pickled(pickle)).expect_err("it is refused").to_string()
}

#[test]
fn small_files_that_would_grow_are_refused() {
    // A text of four gigabytes, of which nothing is there.
    assert!(error(b"\x80\x02X\xff\xff\xff\xff").contains("cut off"));
    assert!(error(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff").contains("cut off"));
    assert!(error(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f").contains("cut off"));
    // An array that claims more elements than memory has, and one whose elements take no room.
    let array = |shape: &[u8], dtype: &str| {
        let mut pickle =
            b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01".to_vec();
        pickle.extend(shape);
        pickle.extend(format!("cnumpy\ndtype\nX\x02\x00\x00\x00{dtype}").as_bytes());
        pickle.extend(b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C\x00tb.");
        pickle
    };
    let huge = array(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", "f4");
    assert!(error(&huge).contains("more elements than memory"), "{}", error(&huge));
    assert!(error(&array(b"(J\xff\xff\xff\x7ft", "f4")).contains("bytes of data"));
    assert!(error(&array(b"(J\xff\xff\xff\xfft", "f4")).contains("-1"));
    // A list of lists of lists, ten of the former in each: 10^40 members if anyone counted them.
    let mut bomb = b"\x80\x02]q\x00".to_vec();
    for depth in 0..40 {
        bomb.extend(b"](");
        (0..10).for_each(|_| bomb.extend([b'h', depth]));
        bomb.extend([b'e', b'q', depth + 1]);
    }
    bomb.push(b'.');
    assert!(npy::read(&pickled(&bomb)).is_ok(), "shared values cost nothing");
    // The same million bytes decoded again and again.
    let mut bomb = b"\x80\x02c_codecs\nencode\nq\x00X\x40\x42\x0f\x00".to_vec();
    bomb.extend(vec![b'a'; 1_000_000]);
    bomb.extend(b"X\x06\x00\x00\x00latin1\x86q\x01");
    (0..1000).for_each(|_| bomb.extend(b"h\x00h\x01R"));
    bomb.push(b'.');
    assert!(error(&bomb).contains("out of proportion"), "{}", error(&bomb));
    // A hundred thousand lists within each other, and one within itself.
    let mut deep = b"\x80\x02".to_vec();
    deep.resize(100_002, b']');
    deep.resize(200_001, b'a');
    deep.push(b'.');
    exhaust(&pickled(&deep));
    let cyclic = pickled(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.");
    let tree = npy::read(&cyclic).expect("a dict within itself is a dict");
    assert!(torch::state_dict(tree.root()).is_err());
    // Empty lists, a byte of pickle each.
    let mut many = b"\x80\x02".to_vec();
    many.resize(4_000_000, b']');
    assert!(error(&many).contains("out of proportion"), "{}", error(&many));
}

#[test]
fn the_same_bytes_are_not_read_again_and_again() {
    // The stream of a storage with a tail of zeros, copied by `bytearray` a thousand times and read from each copy.
    let file = file("amn.npy");
    let start = file.windows(4).position(|four| four == b"\x80\x02\x8a\x0a").expect("a stream begins with a number");
    let length: [u8; 4] = file[start - 4..start].try_into().expect("four bytes");
    assert_eq!(file[start - 5], b'B');
    let mut stream = file[start..][..u32::from_le_bytes(length) as usize].to_vec();
    stream.resize(200_000, 0);
    let bomb = |times: usize| {
        let mut bomb = b"\x80\x03c__builtin__\nbytearray\nq\x00ctorch.storage\n_load_from_bytes\nq\x01B".to_vec();
        bomb.extend(u32::try_from(stream.len()).expect("small").to_le_bytes());
        bomb.extend(&stream);
        bomb.extend(b"\x85q\x02");
        (0..times).for_each(|_| bomb.extend(b"h\x01h\x00h\x02R\x85R"));
        bomb.push(b'.');
        pickled(&bomb)
    };
    assert!(npy::read(&bomb(2)).is_ok());
    let refused = npy::read(&bomb(1000)).expect_err("it is refused").to_string();
    assert!(refused.contains("out of proportion"), "{refused}");
    // A name that is as long as the file.
    let names = vec![b'x'; 100_000];
    let long = [b"\x80\x02X\xa0\x86\x01\x00".as_slice(), &names, b"X\x01\x00\x00\x00y\x93."].concat();
    assert!(error(&long).contains("a short text"), "{}", error(&long));
}

#[test]
fn a_tensor_stays_within_its_storage() {
    // The offset of `part`, 5 of 12, becomes 9: elements 9 to 12 reach one beyond the storage.
    let bytes = file("stream.pth");
    let at = bytes.windows(6).position(|six| six == b"K\x05K\x04\x85q").expect("offset, size");
    let mut damaged = bytes;
    damaged[at + 1] = 9;
    assert!(torch::read(&damaged).expect_err("refused").to_string().contains("lies outside"));
    damaged[at + 1] = 8;
    assert!(torch::read(&damaged).is_ok());
}

#[test]
fn a_deflated_member_is_as_large_as_it_says() {
    let bytes = file("deflated.pth");
    // The size in the directory's entry of `data/0`, 48 bytes.
    let directory = bytes.windows(4).position(|four| four == b"PK\x01\x02").expect("a directory");
    let entry =
        bytes[directory..].windows(10).position(|ten| ten == b"zip/data/0").expect("the entry") + directory - 46;
    assert_eq!(bytes[entry + 24], 48);
    for size in [47_u32, 49, u32::MAX - 1] {
        let mut damaged = bytes.clone();
        damaged[entry + 24..entry + 28].copy_from_slice(&size.to_le_bytes());
        assert!(torch::read(&damaged).is_err(), "{size}");
    }
}

#[test]
fn what_is_written_can_be_read() {
    let floats = |count| values(count).iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    for library in [write::Library::Numpy, write::Library::Torch] {
        let item = |element, shape: &[usize], data| write::Item { library, element, shape: shape.to_vec(), data };
        let keys = [1_i64, 4].iter().flat_map(|key| key.to_le_bytes()).collect();
        let bytes = write::npy_dict(&[
            (write::Key::Text("keys"), item(write::Element::I64, &[2], keys)),
            (write::Key::Number(7), item(write::Element::F32, &[2, 300, 5], floats(3000))),
        ]);
        let tree = npy::read(&bytes).expect("readable");
        let entries: Vec<_> = tree.root().item().entries().expect("a dict").collect();
        assert_eq!((entries[0].0.text(), entries[0].1.integers()), (Some("keys"), Ok(vec![1, 4])));
        assert_eq!(entries[1].0.integer(), Some(7));
        check(entries[1].1, &[2, 300, 5]);
    }
    let entry =
        |name: &str, shape: &[usize], storage| write::Entry { name: name.to_owned(), shape: shape.to_vec(), storage };
    let storages = [
        write::Storage { element: write::Element::F32, data: floats(600) },
        write::Storage { element: write::Element::I64, data: 3_i64.to_le_bytes().to_vec() },
    ];
    let entries = [entry("a", &[2, 300], 0), entry("b", &[2, 300], 0), entry("count", &[], 1)];
    let bytes = write::pth(&entries, &storages).expect("small enough");
    let tree = torch::read(&bytes).expect("readable");
    let tensors = torch::state_dict(tree.root()).expect("tensors by name");
    check(tensors["a"], &[2, 300]);
    check(tensors["b"], &[2, 300]);
    assert_eq!((tensors["count"].shape(), tensors["count"].integers()), (Some(&[][..]), Ok(vec![3])));
}
