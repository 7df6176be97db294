//! Reads the small arrays that are committed under `tests/fixtures/`, each beside the script that made it.

use orandflow::image::{LabelMap, Maps, Rgb};
use safetensors::SafeTensors;

/// The arrays of one fixture.
pub(crate) struct Fixture<'data>(SafeTensors<'data>);

impl<'data> Fixture<'data> {
    /// Opens the bytes of a safetensors file.
    pub(crate) fn new(bytes: &'data [u8]) -> Self {
        Self(SafeTensors::deserialize(bytes).expect("the fixture is readable"))
    }

    /// Returns the names of all arrays, sorted.
    #[cfg(feature = "nn")]
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.names().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Returns shape and bytes of an array.
    pub(crate) fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let view = self.0.tensor(name).unwrap_or_else(|error| panic!("the fixture has `{name}`: {error}"));
        (view.shape().to_vec(), view.data().to_vec())
    }

    /// Returns an array of f32, as f64.
    #[cfg(feature = "nn")]
    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        let (_, bytes) = self.bytes(name);
        bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().expect("four bytes")))).collect()
    }

    /// Returns a `[height, width, 3]` array of bytes.
    pub(crate) fn rgb(&self, name: &str) -> Rgb {
        let (shape, data) = self.bytes(name);
        Rgb::new(shape[0], shape[1], data)
    }

    /// Returns a `[height, width]` array of bytes.
    pub(crate) fn mask(&self, name: &str) -> LabelMap {
        let (shape, data) = self.bytes(name);
        LabelMap::new(shape[0], shape[1], data)
    }

    /// Returns a `[channels, height, width]` array of f32.
    pub(crate) fn maps(&self, name: &str) -> Maps {
        let (shape, data) = self.bytes(name);
        let values =
            data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
        Maps::new(shape[0], shape[1], shape[2], values)
    }
}

/// Returns the largest absolute difference.
#[track_caller]
pub(crate) fn worst(got: &Maps, want: &Maps) -> f32 {
    assert_eq!((got.channels(), got.height(), got.width()), (want.channels(), want.height(), want.width()));
    assert!(got.data().iter().all(|value| value.is_finite()), "every value is finite");
    got.data().iter().zip(want.data()).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
}

/// The image that `classifiers.py` and `training.py` draw.
#[cfg(feature = "nn")]
pub(crate) fn drawn_image(height: usize, width: usize, seed: usize) -> Rgb {
    let pixel = |r: usize, c: usize, k: usize| {
        let edge = if c > width / 3 { 90 } else { 0 };
        ((r * (3 + k) + c * (5 - k) + seed * 17 + edge + r * c / 64) % 256) as u8
    };
    let places = (0..height).flat_map(|r| (0..width).map(move |c| (r, c)));
    Rgb::new(height, width, places.flat_map(|(r, c)| [0, 1, 2].map(|k| pixel(r, c, k))).collect())
}
