//! Every kind of stage, and the catalogue of them. Stages know the door and the craft; they never know the engine.

mod dataset_synthetic;
mod dataset_voc;
pub mod debug;
pub mod io;

use crate::stage::{Listed, StageKind};

/// Returns every kind of stage, in the order in which users meet them.
pub fn catalog() -> &'static [&'static dyn StageKind] {
    &[
        &Listed::<dataset_voc::DatasetVoc>::NEW,
        &Listed::<dataset_synthetic::DatasetSynthetic>::NEW,
        &Listed::<debug::Items>::NEW,
        &Listed::<debug::Copy>::NEW,
        &Listed::<debug::Concat>::NEW,
        &Listed::<debug::Seed>::NEW,
        &Listed::<debug::Fail>::NEW,
        &Listed::<debug::Panic>::NEW,
        &Listed::<debug::Sleep>::NEW,
        &Listed::<debug::Metrics>::NEW,
    ]
}
