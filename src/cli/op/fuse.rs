//! `orandflow op or`, `and` and `average`: two sets of maps become one. The algebra itself is in `image::cam`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::arrays::{apart, deliver, maps};
use super::{Failure, refuse};
use crate::image::cam::{Normalisation, Operation, combine};

/// Arguments of `orandflow op or`, `and` and `average`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuseArgs {
    /// Maps of one method, `[classes, height, width]`
    #[arg(long, value_name = "NPY")]
    a: PathBuf,

    /// Maps of another, of the same classes and size
    #[arg(long, value_name = "NPY")]
    b: PathBuf,

    /// The npy file to write: f32 maps of the same shape
    #[arg(long, value_name = "NPY")]
    out: PathBuf,

    /// What the result is divided by
    #[arg(long, value_name = "SCOPE", default_value = "per_class")]
    normalisation: Scope,

    /// Added to every value of `b` beforehand, without clipping
    #[arg(long, value_name = "SCORE", default_value_t = 0.0, allow_negative_numbers = true)]
    offset: f32,
}

/// What a result is divided by.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scope {
    /// Each map by its own largest value
    PerClass,
    /// All maps by the largest value among them
    Global,
    /// Nothing
    None,
}

/// Runs `op or`, `op and` or `op average`.
pub(super) fn fuse(args: &FuseArgs, operation: Operation) -> Result<ExitCode, Failure> {
    if !args.offset.is_finite() {
        return Err(refuse(format!("`--offset {}` is no score", args.offset), None));
    }
    let normalisation = match args.normalisation {
        Scope::PerClass => Normalisation::PerClass,
        Scope::Global => Normalisation::Global,
        Scope::None => Normalisation::None,
    };
    let (a, b) = (maps(&args.a)?, maps(&args.b)?);
    let fused = combine(&a, &b, args.offset, operation, normalisation);
    let fused = fused.map_err(|error| apart(&args.a, &args.b, &error))?;
    deliver(&args.out, &fused)
}
