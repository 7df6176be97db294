//! A small data set in VOC layout in a workbench: photographs as JPEG, masks as palette PNG.

use orandflow::image::{LabelMap, codec};

use crate::workbench::Workbench;

/// Height and width of each photograph.
pub(crate) const SIZE: (usize, usize) = (24, 32);
/// The ids, in order.
pub(crate) const IDS: [&str; 4] = ["2007_000032", "2007_000039", "2007_000063", "2007_000068"];
/// The classes of `classes.txt`.
const CLASSES: &str = "background\ncat\ndog\nbird\n";

/// A JPEG with a gradient on it.
pub(crate) fn jpeg((height, width): (usize, usize)) -> Vec<u8> {
    let pixels: Vec<u8> =
        (0..height * width).flat_map(|pixel| [(pixel % width * 7) as u8, (pixel / width * 9) as u8, 90]).collect();
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder
        .encode(&pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb)
        .expect("the photograph can be encoded");
    bytes
}

/// A mask whose left half is of one index; the column in the middle is 255 and the rest background.
pub(crate) fn mask((height, width): (usize, usize), index: u8) -> Vec<u8> {
    let label = |pixel: usize| match (pixel % width).cmp(&(width / 2)) {
        std::cmp::Ordering::Less => index,
        std::cmp::Ordering::Equal => LabelMap::IGNORE,
        std::cmp::Ordering::Greater => 0,
    };
    codec::encode_mask(&LabelMap::new(height, width, (0..height * width).map(label).collect()))
}

/// A workbench with the data set in `data`: four photographs of the classes 1, 2, 3 and 1.
pub(crate) fn bench() -> Workbench {
    let bench = Workbench::new().file("data/classes.txt", CLASSES).file("data/ImageSets/Segmentation/val.txt", IDS[3]);
    bench.write("data/ImageSets/Segmentation/train.txt", IDS.join("\n"));
    for (index, id) in IDS.iter().enumerate() {
        bench.write(&format!("data/JPEGImages/{id}.jpg"), jpeg(SIZE));
        bench.write(&format!("data/SegmentationClass/{id}.png"), mask(SIZE, (index % 3) as u8 + 1));
    }
    bench
}

/// The stage that reads it, with further lines.
pub(crate) fn stage(name: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"dataset.voc\"\nroot = \"data\"\nsplit = \"train\"\n{more}\n")
}

/// As [`stage`], with ground truth.
pub(crate) fn scored(name: &str) -> String {
    stage(name, "masks = \"SegmentationClass\"")
}

/// Returns the message of the stage that failed in a run, with its time hidden.
pub(crate) fn failure(stderr: &str) -> String {
    let lines = stderr.lines().skip_while(|line| !line.contains(" failed after "));
    let message =
        lines.take_while(|line| !line.contains("skipped")).map(|line| match line.split_once(" failed after ") {
            Some((stage, _)) => format!("{stage} failed after [TIME]"),
            None => line.to_owned(),
        });
    message.collect::<Vec<_>>().join("\n")
}
