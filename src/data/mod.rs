//! Where images, masks and labels come from, and how they are varied for training. Knows no stages and no cache.

pub mod augment;
pub mod color;

pub use color::ColorJitter;
