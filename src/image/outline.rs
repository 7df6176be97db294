//! Objects as COCO describes them become pixels: polygons, and runs as numbers or as text. The pixels are those of pycocotools
//! (`maskApi.c` of the COCO API: rleFrPoly, rleFrString), which tests compare. Knows nothing of classes.

use super::LabelMap;

/// Polygons are traced on a grid so much finer than pixels.
const FINE: f64 = 5.0;

/// Corners that lie further than this outside of any image, in pixels, are no corners.
const FAR: f64 = 65_536.0;

/// The pixels of one object, column by column, as COCO counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    height: usize,
    width: usize,
    inside: Vec<bool>,
}

impl Region {
    /// Makes a region without pixels.
    pub fn empty(height: usize, width: usize) -> Self {
        Self { height, width, inside: vec![false; height * width] }
    }

    /// Returns the number of pixels.
    pub fn area(&self) -> usize {
        self.inside.iter().filter(|&&inside| inside).count()
    }

    /// Adds the pixels of a polygon, whose corners are `x, y, x, y, …`.
    ///
    /// # Errors
    /// If it has fewer than two corners, half a corner, or one that is no place.
    pub fn add_polygon(&mut self, corners: &[f64]) -> Result<(), String> {
        if corners.len() < 4 || !corners.len().is_multiple_of(2) {
            return Err(format!("a polygon has {} numbers", corners.len()));
        }
        if let Some(place) = corners.iter().find(|place| place.is_nan() || place.abs() > FAR) {
            return Err(format!("a polygon has a corner at {place}"));
        }
        // Inside is where an odd number of turns came before.
        for pair in self.turns(corners).chunks(2) {
            let end = pair.get(1).copied().unwrap_or(self.inside.len());
            self.inside[pair[0]..end].fill(true);
        }
        Ok(())
    }

    /// Returns the places, sorted, at which a walk through all columns crosses the outline.
    fn turns(&self, corners: &[f64]) -> Vec<usize> {
        let fine: Vec<(i64, i64)> = corners
            .chunks_exact(2)
            .map(|corner| ((FINE * corner[0] + 0.5) as i64, (FINE * corner[1] + 0.5) as i64))
            .collect();
        let mut turns = Vec::new();
        let mut last: Option<(i64, i64)> = None;
        for (index, &start) in fine.iter().enumerate() {
            trace(start, fine[(index + 1) % fine.len()], |point| {
                if let Some(last) = last.replace(point) {
                    turns.extend(self.turn(last, point));
                }
            });
        }
        turns.sort_unstable();
        turns
    }

    /// Returns the place of a turn if a step on the fine grid crosses the middle of a column of pixels.
    fn turn(&self, from: (i64, i64), to: (i64, i64)) -> Option<usize> {
        if from.0 == to.0 {
            return None;
        }
        let x = if to.0 < from.0 { to.0 } else { to.0 - 1 };
        let x = (x as f64 + 0.5) / FINE - 0.5;
        if x.floor() != x || x < 0.0 || x > self.width as f64 - 1.0 {
            return None;
        }
        let y = (to.1.min(from.1) as f64 + 0.5) / FINE - 0.5;
        let y = y.clamp(0.0, self.height as f64).ceil();
        Some(x as usize * self.height + y as usize)
    }

    /// Adds the pixels of runs, which alternate between outside and inside, column by column.
    ///
    /// # Errors
    /// If they are not as long as the image.
    pub fn add_runs(&mut self, runs: impl IntoIterator<Item = u64>) -> Result<(), String> {
        let mut at = 0_usize;
        let mut inside = false;
        for run in runs {
            let end = usize::try_from(run).ok().and_then(|run| at.checked_add(run));
            let Some(end) = end.filter(|end| *end <= self.inside.len()) else {
                return Err(format!("its runs are longer than the image, {} x {} pixels", self.width, self.height));
            };
            if inside {
                self.inside[at..end].fill(true);
            }
            (at, inside) = (end, !inside);
        }
        if at == self.inside.len() {
            return Ok(());
        }
        Err(format!("its runs have {at} pixels, and the image {} x {}", self.width, self.height))
    }

    /// Gives the pixels a label where the mask, of the same size, has 0.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn paint_below(&self, label: u8, mask: &mut [u8]) {
        assert_eq!(mask.len(), self.inside.len(), "a mask is as large as its image");
        for (column, inside) in self.inside.chunks_exact(self.height.max(1)).enumerate() {
            for (row, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
                let pixel = &mut mask[row * self.width + column];
                if *pixel == 0 {
                    *pixel = label;
                }
            }
        }
    }

    /// Returns a mask with a label inside and 0 outside.
    pub fn mask(&self, label: u8) -> LabelMap {
        let mut data = vec![0; self.inside.len()];
        self.paint_below(label, &mut data);
        LabelMap::new(self.height, self.width, data)
    }
}

/// Calls `each` with every point of the fine grid from one corner to the next, both included. The line is computed from its lower
/// end, whichever way it is walked.
fn trace((x, y): (i64, i64), (to_x, to_y): (i64, i64), mut each: impl FnMut((i64, i64))) {
    let (width, height) = ((to_x - x).abs(), (to_y - y).abs());
    let flat = width >= height;
    let backwards = if flat { x > to_x } else { y > to_y };
    let ((x, y), (to_x, to_y)) = if backwards { ((to_x, to_y), (x, y)) } else { ((x, y), (to_x, to_y)) };
    let steps = width.max(height);
    let slope = if flat { (to_y - y) as f64 / width as f64 } else { (to_x - x) as f64 / height as f64 };
    for step in 0..=steps {
        let step = if backwards { steps - step } else { step };
        let along = slope * step as f64;
        each(if flat {
            (x + step, (y as f64 + along + 0.5) as i64)
        } else {
            ((x as f64 + along + 0.5) as i64, y + step)
        });
    }
}

/// Reads runs that COCO has packed into a text: five bits a letter from `0` on, the sixth one for "more follows", the last letter's
/// fifth one for the sign, and from the third run on the difference to the last run but one.
///
/// # Errors
/// If the text is no such thing.
pub fn unpack_runs(text: &str) -> Result<Vec<u64>, String> {
    let damaged = || "its packed runs are damaged".to_owned();
    let mut runs: Vec<i64> = Vec::new();
    let mut letters = text.bytes();
    while let Some(mut letter) = letters.next() {
        let (mut value, mut shift) = (0_i64, 0_u32);
        loop {
            let bits = i64::from(letter.checked_sub(48).filter(|bits| *bits < 64).ok_or_else(damaged)?);
            // Seven letters hold 35 bits, more than any image has pixels.
            if shift > 30 {
                return Err(damaged());
            }
            value |= (bits & 0x1f) << shift;
            shift += 5;
            if bits & 0x20 == 0 {
                if bits & 0x10 != 0 {
                    value |= -1 << shift;
                }
                break;
            }
            letter = letters.next().ok_or_else(damaged)?;
        }
        if runs.len() > 2 {
            value += runs[runs.len() - 2];
        }
        runs.push(value);
    }
    runs.into_iter().map(|run| u64::try_from(run).map_err(|_| damaged())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_outline_is_refused() {
        let mut region = Region::empty(4, 6);
        assert!(region.add_polygon(&[1.0, 2.0, 3.0]).is_err());
        assert!(region.add_polygon(&[1.0, 2.0, f64::NAN, 2.0, 3.0, 3.0]).is_err());
        assert!(region.add_polygon(&[1.0, 2.0, 1e30, 2.0, 3.0, 3.0]).is_err());
        assert!(region.add_runs([3, 20]).is_err());
        assert!(region.add_runs([3, 22]).is_err());
        assert!(region.add_runs([3, u64::MAX, 5]).is_err());
        assert!(unpack_runs("\u{e9}").is_err());
        assert!(unpack_runs("P").is_err());
        assert!(unpack_runs("oooooooooooo0").is_err());
    }

    #[test]
    fn runs_go_down_the_columns() {
        let mut region = Region::empty(2, 3);
        region.add_runs([1, 2, 3]).expect("as long as the image");
        assert_eq!(region.mask(7).data(), [0, 7, 0, 7, 0, 0]);
        assert_eq!(region.area(), 2);
        assert_eq!(unpack_runs("1231"), Ok(vec![1, 2, 3, 3]));
    }
}
