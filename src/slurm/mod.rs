//! Carries a plan out on a cluster: a job for every stage, handed to Slurm with its dependencies, and results through the shared cache.
//!
//! The coordinator runs no stage. It submits, and then looks: into the cache first, where results are; into the files that jobs
//! write, for what they say; and at squeue and sacct last, for what became of jobs that left no result. Nothing of what it knows
//! lives in it alone, so that it can end and be started again, or be there twice.

mod coordinator;
pub mod profile;
pub mod queue;
pub mod report;
pub mod script;

pub use coordinator::{Manner, Slurm};
