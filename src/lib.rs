//! Dataflow pipelines for weakly supervised semantic segmentation.
pub mod artifact;
pub mod diag;
pub mod digest;
pub mod image;
pub mod kind;
pub mod stage;
pub mod store;
