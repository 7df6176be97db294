//! Every event as a line of JSON: into the folder of the run, or to stderr.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::Listener;
use crate::run::event::{Event, Stamped};

/// How many lines on progress are handed on at once in each second; the others wait for the next.
const OFTEN: u32 = 50;

/// Writes every event as a line of JSON.
pub struct Jsonl<W: Write> {
    out: BufWriter<W>,
    /// The second of the run that it is, and how often lines were handed on in it.
    second: (f64, u32),
}

impl Jsonl<fs_err::File> {
    /// Makes a listener that writes to a new file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self::new(fs_err::File::create(path)?))
    }
}

impl<W: Write> Jsonl<W> {
    /// Makes a listener that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out: BufWriter::new(out), second: (0.0, 0) }
    }
}

impl<W: Write + Send> Listener for Jsonl<W> {
    fn hear(&mut self, stamped: &Stamped) {
        // The record of a run is not worth stopping it: a full disk is met by the results themselves.
        let _ = serde_json::to_writer(&mut self.out, stamped);
        let _ = self.out.write_all(b"\n");
        let often = matches!(stamped.event, Event::Progress { .. } | Event::Metric { .. } | Event::Cached { .. });
        if stamped.at - self.second.0 >= 1.0 {
            self.second = (stamped.at, 0);
        }
        // Whoever watches sees slow steps at once, and fast ones cost no call of the system each.
        if !often || self.second.1 < OFTEN {
            self.second.1 += 1;
            let _ = self.out.flush();
        }
    }
}
