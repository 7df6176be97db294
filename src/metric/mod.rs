//! How well a mask fits the truth. Knows masks and maps; knows no stages and no files.

pub mod confusion;
pub mod sweep;

pub use confusion::{Confusion, Scores};
pub use sweep::{Objective, Sweep};
