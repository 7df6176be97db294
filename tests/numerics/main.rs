//! Numbers against independent references.

#[cfg(feature = "nn")]
mod affinity;
#[cfg(feature = "nn")]
mod amn;
mod color;
mod crf;
#[cfg(feature = "nn")]
mod differences;
mod fixture;
#[cfg(feature = "nn")]
mod irn;
mod jpeg;
#[cfg(feature = "libtorch")]
mod libtorch;
#[cfg(feature = "nn")]
mod mctformer;
#[cfg(feature = "nn")]
mod nn_classifiers;
#[cfg(feature = "nn")]
mod orandnet;
mod rand_augment;
#[cfg_attr(not(feature = "nn"), expect(dead_code, reason = "the weights of networks need networks"))]
mod reference;
mod resize;
#[cfg(feature = "nn")]
mod resnet38;
#[cfg(feature = "nn")]
mod training;
mod walk;
