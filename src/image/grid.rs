//! The three grids that everything else works on. All are row-major, rows first.

/// An 8-bit RGB image, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    height: usize,
    width: usize,
    data: Vec<u8>,
}

/// An 8-bit index mask, `[height, width]`; 0 = background, 255 = ignore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    height: usize,
    width: usize,
    data: Vec<u8>,
}

/// Maps of several channels, `[channels, height, width]`, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
}

impl Rgb {
    /// Makes an image of its pixels.
    ///
    /// # Panics
    /// If `data` does not have `height * width * 3` bytes.
    pub fn new(height: usize, width: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), height * width * 3, "an RGB image of {height} x {width} has three bytes per pixel");
        Self { height, width, data }
    }

    /// Returns the number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the bytes, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the bytes for writing.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Returns one pixel.
    pub fn pixel(&self, row: usize, column: usize) -> [u8; 3] {
        let start = (row * self.width + column) * 3;
        [self.data[start], self.data[start + 1], self.data[start + 2]]
    }
}

impl LabelMap {
    /// The index of pixels that count for nothing.
    pub const IGNORE: u8 = 255;

    /// Makes a mask of its indices.
    ///
    /// # Panics
    /// If `data` does not have `height * width` bytes.
    pub fn new(height: usize, width: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), height * width, "a mask of {height} x {width} has one byte per pixel");
        Self { height, width, data }
    }

    /// Returns the number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the indices, `[height, width]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the indices for writing.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Returns one index.
    pub fn label(&self, row: usize, column: usize) -> u8 {
        self.data[row * self.width + column]
    }
}

impl Maps {
    /// Makes maps of their values.
    ///
    /// # Panics
    /// If `data` does not have `channels * height * width` values.
    pub fn new(channels: usize, height: usize, width: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), channels * height * width, "{channels} maps of {height} x {width}");
        Self { channels, height, width, data }
    }

    /// Makes maps of zeros.
    pub fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width, data: vec![0.0; channels * height * width] }
    }

    /// Returns the number of channels; may be zero.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns all values, `[channels, height, width]`.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Returns all values for writing.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Returns all values and forgets the shape.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Returns one channel, `[height, width]`.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let plane = self.height * self.width;
        &self.data[channel * plane..(channel + 1) * plane]
    }

    /// Returns one channel for writing.
    pub fn channel_mut(&mut self, channel: usize) -> &mut [f32] {
        let plane = self.height * self.width;
        &mut self.data[channel * plane..(channel + 1) * plane]
    }
}
