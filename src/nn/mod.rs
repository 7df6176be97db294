//! Networks on burn: layers, losses, optimisers, the training loop, and one file per model. Knows images as plain grids;
//! knows nothing of stages, graphs or caches.

pub mod affinity;
pub mod amn;
pub mod attribution;
pub mod cam;
pub mod convolution;
pub mod device;
pub mod forward;
pub mod fused;
pub mod init;
pub mod irn;
pub mod layers;
pub mod loss;
pub mod mct_maps;
pub mod mctformer;
pub mod optim;
pub mod orandnet;
pub mod params;
pub mod pass;
pub mod precision;
pub mod refiner;
pub mod resnet;
pub mod resnet38;
pub mod segmenter;
pub mod self_test;
pub mod train;
pub mod vit;
