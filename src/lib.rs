//! Dataflow pipelines for weakly supervised semantic segmentation: a TOML file of typed stages, run so that only what is not
//! in the cache yet is done.
//!
//! # The map of the house
//!
//! There are two wings and one door. The **engine** ([`store`], [`pipeline`], [`plan`], [`run`]) knows no images and no
//! tensors; the **craft** ([`image`], [`foreign`], [`artifact`], [`data`], [`metric`] and, with the feature `nn`, `nn`) knows no graphs and
//! no cache. They meet in the traits of [`stage`] and in [`stages`], which holds one adapter for each kind of stage. Below
//! both lie the words that everybody uses: [`digest`], [`kind`] and [`diag`]. Above lie [`report`], which shows, and [`cli`],
//! which decides what is shown. Nothing imports what lies above it; `tests/it/rooms.rs` holds that.
//!
//! ```text
//! cli ──────── what was typed, one file for each verb; exit codes
//! report ───── events and diagnostics as text                stages ── every kind of stage, and their catalogue
//! slurm ────── the same on a cluster, a job for each stage          │
//! run ──────── the schedule: actions, shards, events              │
//! plan ─────── the checked graph, keys, pictures of it            │
//! pipeline ─── the file as written            stage ── the door ──┘
//! store ────── blobs by digest, records of    nn ── networks     data ── data sets     metric ── scores
//!              actions                        artifact ── results as bytes             image ── grids and codecs
//!                                                foreign ── files of other programs
//! digest, kind, diag ── names of content, types of artifacts, complaints with their place
//! ```
//!
//! # One run, from file to result
//!
//! 1. [`plan::load`] reads the file: [`pipeline::parse`] turns text and `--set` arguments into declared stages, and
//!    [`plan::lower`] checks them against [`stages::catalog`] and puts them into order. Everything that is wrong is found at
//!    once and carries its place ([`diag::Diagnostic`]); nothing has run yet.
//! 2. Each step's action is the digest of everything that determines its result: kind and revision, parameters with their
//!    defaults, the content of its inputs and, where it draws random numbers, the seed. Names, comments and order are not.
//! 3. What the [`store`] has under that key is taken from there. The rest is done, image by image in shards where the kind
//!    allows it, by [`stage::Stage::run`], which sees its [`stage::Ctx`] and nothing else.
//! 4. What happens leaves the engine as events; [`report`] shows them.
//!
//! # A kind of stage of your own
//!
//! One file in `stages/` with a parameter struct and one `impl` of [`stage::Stage`], and one line in [`stages::catalog`]. Its
//! parameters, their defaults and doc comments are the command line's help, docs/stages.md and the schema for editors.

pub mod artifact;
pub mod cli;
pub mod data;
pub mod diag;
pub mod digest;
pub mod foreign;
pub mod image;
pub mod kind;
pub mod metric;
#[cfg(feature = "nn")]
pub mod nn;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod run;
pub mod slurm;
pub mod stage;
pub mod stages;
pub mod store;
pub mod sweep;
