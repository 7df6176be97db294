//! Resizing as Pillow, torch and OpenCV do it, named apart: the reference programs mix all three, and they differ by more
//! than rounding. Knows sizes only; what is resized to which size is the stages' business.

mod opencv;
mod pillow;
mod torch;
mod triangle;

pub use opencv::opencv_linear;
pub use pillow::{Filter, nearest_maps, resize_rgb, scaled_size};
pub use torch::{Coordinates, interpolate_bicubic, interpolate_bilinear, scaled};
pub use triangle::shrink_maps;

use super::LabelMap;

/// Whose nearest neighbour; they pick other pixels for most ratios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// Pillow's: the pixel that the centre of the new pixel falls into (SPEC 0.3).
    Pillow,
    /// OpenCV's: the pixel that the upper left corner of the new pixel falls into (SPEC 0.5).
    OpenCv,
}

impl Nearest {
    /// Returns for each of `to` new places along an axis the one of `from` old places that it shows.
    pub fn indices(self, from: usize, to: usize) -> Vec<usize> {
        match self {
            Nearest::Pillow => pillow::nearest_indices(from, to),
            Nearest::OpenCv => opencv::nearest_indices(from, to),
        }
    }
}

/// Resizes a mask by nearest neighbour.
///
/// # Panics
/// If the mask has no pixels and the result would have some.
pub fn nearest_mask(mask: &LabelMap, height: usize, width: usize, nearest: Nearest) -> LabelMap {
    let rows = nearest.indices(mask.height(), height);
    let columns = nearest.indices(mask.width(), width);
    LabelMap::new(height, width, gather(mask.data(), mask.width(), &rows, &columns))
}

/// Picks `rows` x `columns` of a plane that is `width` wide.
fn gather<T: Copy>(plane: &[T], width: usize, rows: &[usize], columns: &[usize]) -> Vec<T> {
    let mut picked = Vec::with_capacity(rows.len() * columns.len());
    for &row in rows {
        let row = &plane[row * width..(row + 1) * width];
        picked.extend(columns.iter().map(|&column| row[column]));
    }
    picked
}
