//! How each kind of artifact looks as bytes. Knows images and kinds; knows nothing of graphs, caches or networks.
//!
//! An image set is JSON; every other shard is one safetensors file, so that it is indexed, typed and readable from other
//! languages. Encoded masks lie in it as one-dimensional u8 tensors.

pub mod architecture;
pub mod export;
pub mod forms;
pub mod images;
pub mod import;
pub mod maps;
pub mod masks;
pub mod metrics;
pub mod packed;
pub mod weights;
