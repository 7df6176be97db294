//! Everything that a person or a program reads of a run. Decides nothing.

pub mod draw;
