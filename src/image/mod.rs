//! Images and maps as plain, checked, row-major grids, and what is done to them: decoding, resizing, CRF, random walk.
//! Knows no networks, no stages and no cache.

pub mod codec;
mod grid;
pub mod palette;
pub mod resize;

pub use grid::{LabelMap, Maps, Rgb};
