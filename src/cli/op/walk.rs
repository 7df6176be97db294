//! `orandflow op walk`: the random walk on an edge map and maps. The walk itself is in `image::walk`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::arrays::{apart, deliver, maps};
use super::{Failure, refuse};
use crate::image::Maps;
use crate::image::walk::{WalkParams, propagate};

/// Arguments of `orandflow op walk`.
#[derive(Debug, clap::Args)]
pub(crate) struct WalkArgs {
    /// The edge map, `[height, width]` or `[1, height, width]`, from 0 (no edge) to 1
    #[arg(long, value_name = "NPY")]
    edge: PathBuf,

    /// The maps, `[classes, height, width]`, as large as the edge map
    #[arg(long, value_name = "NPY")]
    cam: PathBuf,

    /// The npy file to write: f32 maps of the same shape, neither enlarged nor normalised
    #[arg(long, value_name = "NPY")]
    out: PathBuf,

    /// The power that affinities are raised to
    #[arg(long, value_name = "POWER", default_value_t = WalkParams::default().beta)]
    beta: f32,

    /// The walk takes 2 to this power steps
    #[arg(long, value_name = "T", default_value_t = WalkParams::default().exp_times)]
    exp: u32,

    /// Pixels nearer than this are neighbours
    #[arg(long, value_name = "PIXELS", default_value_t = WalkParams::default().radius)]
    radius: usize,
}

/// A disc of more than this many pixels around each would hold most of a map.
const MAX_RADIUS: usize = 32;

/// Runs `op walk`.
pub(super) fn walk(args: &WalkArgs) -> Result<ExitCode, Failure> {
    if !(1..=MAX_RADIUS).contains(&args.radius) {
        return Err(refuse(format!("`--radius {}` is not between 1 and {MAX_RADIUS}", args.radius), None));
    }
    if !(args.beta >= 0.0 && args.beta.is_finite()) {
        return Err(refuse(format!("`--beta {}` is not 0 or above", args.beta), None));
    }
    let (edge, cam) = (maps(&args.edge)?, maps(&args.cam)?);
    if let Some(value) = edge.data().iter().find(|value| !(0.0..=1.0).contains(*value)) {
        let message = format!("`{}`: edges lie in 0 to 1, and {value} does not", args.edge.display());
        return Err(refuse(message, Some("give the sigmoid of the network's output")));
    }
    if (edge.height(), edge.width()) != (cam.height(), cam.width()) {
        let size = |maps: &Maps| format!("{} x {}", maps.width(), maps.height());
        let error = format!("the edge map is {} and the maps are {}", size(&edge), size(&cam));
        return Err(apart(&args.edge, &args.cam, &error));
    }
    let params = WalkParams { radius: args.radius, beta: args.beta, exp_times: args.exp };
    let walked = propagate(&cam, &edge, &params).map_err(|error| refuse(error, None))?;
    deliver(&args.out, &walked)
}
