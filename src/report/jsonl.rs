//! Every event as a line of JSON: into the folder of the run, or to stderr.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::Listener;
use crate::run::event::{Event, Stamped};

/// Writes every event as a line of JSON.
pub struct Jsonl<W: Write> {
    out: BufWriter<W>,
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
        Self { out: BufWriter::new(out) }
    }
}

impl<W: Write + Send> Listener for Jsonl<W> {
    fn hear(&mut self, stamped: &Stamped) {
        // The record of a run is not worth stopping it: a full disk is met by the results themselves.
        let _ = serde_json::to_writer(&mut self.out, stamped);
        let _ = self.out.write_all(b"\n");
        let often = matches!(stamped.event, Event::Progress { .. } | Event::Metric { .. } | Event::Cached { .. });
        if !often {
            let _ = self.out.flush();
        }
    }
}
