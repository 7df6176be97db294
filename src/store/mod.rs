//! `cache/`: blobs by digest and records of actions, in plain files.

pub mod manifest;
