//! Every kind of stage, and the catalogue of them. Stages know the door and the craft; they never know the engine.

#[cfg(feature = "nn")]
mod amn;
#[cfg(feature = "nn")]
mod cam_export;
mod cam_import;
#[cfg(feature = "nn")]
mod classifier;
mod command;
mod dataset_coco;
mod dataset_folder;
mod dataset_synthetic;
mod dataset_voc;
pub mod debug;
mod debug_maps;
mod evaluate;
mod fuse;
pub mod io;
#[cfg(feature = "nn")]
mod irn;
mod irn_labels;
mod mask_threshold;
#[cfg(feature = "nn")]
mod mctformer;
#[cfg(feature = "nn")]
mod orandnet;
mod resize;
#[cfg(feature = "nn")]
mod room;
#[cfg(feature = "nn")]
mod segment;
#[cfg(feature = "nn")]
mod shelf;
mod threshold_search;
#[cfg(feature = "nn")]
pub mod training;
mod weights_import;

use crate::stage::{Listed, StageKind};

/// Returns every kind of stage, in the order in which users meet them.
pub fn catalog() -> &'static [&'static dyn StageKind] {
    &[
        &Listed::<dataset_voc::DatasetVoc>::NEW,
        &Listed::<dataset_coco::DatasetCoco>::NEW,
        &Listed::<dataset_folder::DatasetFolder>::NEW,
        &Listed::<dataset_synthetic::DatasetSynthetic>::NEW,
        &Listed::<resize::Images>::NEW,
        &Listed::<weights_import::Import>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<classifier::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<cam_export::Export>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<amn::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<amn::Cams>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<mctformer::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<mctformer::Cams>::NEW,
        &Listed::<cam_import::Import>::NEW,
        &Listed::<fuse::Or>::NEW,
        &Listed::<fuse::And>::NEW,
        &Listed::<fuse::Average>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<orandnet::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<orandnet::Refine>::NEW,
        &Listed::<irn_labels::IrnLabels>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<irn::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<irn::Propagate>::NEW,
        &Listed::<mask_threshold::MaskThreshold>::NEW,
        &Listed::<resize::Masks>::NEW,
        &Listed::<threshold_search::ThresholdSearch>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<segment::Train>::NEW,
        #[cfg(feature = "nn")]
        &Listed::<segment::Predict>::NEW,
        &Listed::<evaluate::Evaluate>::NEW,
        &Listed::<command::Command>::NEW,
        &Listed::<debug::Items>::NEW,
        &Listed::<debug::Copy>::NEW,
        &Listed::<debug::Concat>::NEW,
        &Listed::<debug::Seed>::NEW,
        &Listed::<debug::Fail>::NEW,
        &Listed::<debug::Panic>::NEW,
        &Listed::<debug::Sleep>::NEW,
        &Listed::<debug::Steps>::NEW,
        &Listed::<debug::Metrics>::NEW,
        &Listed::<debug_maps::DebugMaps>::NEW,
    ]
}
