//! Measured values as event files of TensorBoard, a folder for each stage. Writes scalars and nothing else.
//!
//! A file is a row of TFRecords: length (u64, little endian), its masked CRC-32C, the bytes, their masked CRC-32C. The bytes are
//! an `Event` of tensorflow/core/util/event.proto in the encoding of protocol buffers: wall time (field 1, double), step
//! (field 2, varint), and either the version of the file (field 3, string) or a summary (field 5) of values with a tag (field 1,
//! string) and a number (field 2, float).

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Listener;
use crate::run::event::{Event, Stamped};

/// Writes event files into a folder, which is made with the first measured value.
pub struct TensorBoard {
    folder: PathBuf,
    /// When the run began, in seconds since 1970.
    began: f64,
    files: BTreeMap<String, Option<BufWriter<fs_err::File>>>,
}

impl TensorBoard {
    /// Makes a listener that writes below `folder`.
    pub fn new(folder: &Path) -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { folder: folder.to_owned(), began, files: BTreeMap::new() }
    }

    /// Opens the file of a stage; `None` if that fails, which is not worth stopping the run.
    fn open(&self, stage: &str) -> Option<BufWriter<fs_err::File>> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.=@".contains(c) { c } else { '_' };
        let folder = self.folder.join(stage.chars().map(plain).collect::<String>());
        fs_err::create_dir_all(&folder).ok()?;
        let name = format!("events.out.tfevents.{:010}.orandflow", self.began as u64);
        let mut file = BufWriter::new(fs_err::File::create(folder.join(name)).ok()?);
        file.write_all(&record(&version(self.began))).ok()?;
        Some(file)
    }
}

impl Listener for TensorBoard {
    fn hear(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::Metric { stage, name, step, value } => {
                if !self.files.contains_key(stage) {
                    let file = self.open(stage);
                    self.files.insert(stage.clone(), file);
                }
                if let Some(Some(file)) = self.files.get_mut(stage) {
                    let event = scalar(self.began + stamped.at, *step, name, *value as f32);
                    // The record of a run is not worth stopping it: a full disk is met by the results themselves.
                    let _ = file.write_all(&record(&event));
                }
            }
            Event::Done { stage, .. } | Event::Failed { stage, .. } => {
                // Dropping the file writes what is left in its buffer.
                self.files.remove(stage);
            }
            // Whoever looks on while the run is under way sees the curves grow.
            Event::Progress { stage, .. } => {
                if let Some(Some(file)) = self.files.get_mut(stage) {
                    let _ = file.flush();
                }
            }
            _ => {}
        }
    }
}

/// Returns the first event of a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = vec![0x09];
    event.extend(time.to_le_bytes());
    text(&mut event, 0x1a, "brain.Event:2");
    event
}

/// Returns the event of one value.
fn scalar(time: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut one = Vec::new();
    text(&mut one, 0x0a, tag);
    one.push(0x15);
    one.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, 0x0a, &one);
    let mut event = vec![0x09];
    event.extend(time.to_le_bytes());
    event.push(0x10);
    varint(&mut event, step);
    bytes(&mut event, 0x2a, &summary);
    event
}

fn text(message: &mut Vec<u8>, field: u8, text: &str) {
    bytes(message, field, text.as_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Writes a number seven bits at a time, the lowest first.
fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

/// Returns bytes as a TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked(bytes).to_le_bytes());
    record
}

/// Returns the CRC-32C, rotated and shifted as TFRecords have it (tensorflow/core/lib/hash/crc32c.h).
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Returns the cyclic redundancy check of Castagnoli's polynomial (RFC 3720, appendix B.4), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_that_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_scalar_is_encoded_field_by_field() {
        let event = scalar(1.0, 300, "loss", 0.5);
        let mut expected = vec![0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4];
        expected.extend(b"loss");
        expected.extend([0x15, 0, 0, 0, 0x3f]);
        assert_eq!(event, expected);
    }
}
