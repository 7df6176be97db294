//! What an edge of the graph carries. Ports match by it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Image ids with file digests, sizes, image-level labels and, where there are any, ground-truth masks.
    ImageSet,
    /// Named f32 tensors with their architecture and class list.
    Weights,
    /// Per image: the present classes and their class activation maps in [0, 1].
    CamSet,
    /// Per image: an 8-bit index mask that seeds another network; 0 = background, 255 = ignore.
    SeedSet,
    /// Per image: an 8-bit index mask; 0 = background, 255 = ignore.
    MaskSet,
    /// Per image: soft scores of the present classes after the random walk, not yet thresholded.
    ScoreSet,
    /// Confusion matrix, per-class and mean scores, and the protocol that made them.
    Metrics,
    /// Files that an outside command wrote.
    Files,
}

impl Kind {
    /// What a person calls it: `a CAM set`.
    pub fn article(self) -> &'static str {
        match self {
            Self::ImageSet => "an image set",
            Self::Weights => "a set of weights",
            Self::CamSet => "a CAM set",
            Self::SeedSet => "a seed set",
            Self::MaskSet => "a mask set",
            Self::ScoreSet => "a score set",
            Self::Metrics => "a table of metrics",
            Self::Files => "a folder of files",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}
