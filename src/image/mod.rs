//! Images and maps as plain, checked, row-major grids, and what is done to them: decoding, resizing, CRF, random walk.
//! Knows no networks, no stages and no cache.

pub mod cam;
pub mod codec;
pub mod crf;
mod grid;
pub mod ir_label;
mod jpeg;
pub mod large;
pub mod normalise;
pub mod outline;
pub mod palette;
pub mod paths;
pub mod permutohedral;
pub mod resize;
pub mod walk;

pub use grid::{LabelMap, Maps, Rgb};
