//! Files of other programs: NumPy's npy, Python's pickles, PyTorch's `.pth`, MATLAB's mat, zip and tar. Knows their bytes and
//! nothing of images, networks, graphs or caches.
//!
//! A pickle is a program for a small machine that can call any function of Python. [`pickle`] runs the part of it that these
//! files need: it builds numbers, texts, lists, dicts, arrays and tensors, and refuses every other function by its name. No
//! file can make it run anything, recurse, or take more memory than [`error::Budget`] grants for its size.

pub mod array;
mod classes;
pub mod error;
pub mod mat;
pub mod npy;
pub mod pickle;
mod tar;
pub mod torch;
pub mod tree;
pub mod write;

mod zip;

pub use array::Dtype;
pub use error::Error;
pub use tree::{Tree, View};
