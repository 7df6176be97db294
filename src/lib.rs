//! Dataflow pipelines for weakly supervised semantic segmentation.
pub mod artifact;
pub mod cli;
pub mod data;
pub mod diag;
pub mod digest;
pub mod image;
pub mod kind;
pub mod metric;
#[cfg(feature = "nn")]
pub mod nn;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod run;
pub mod stage;
pub mod stages;
pub mod store;
