//! `orandflow op threshold`: maps become a mask. The vote itself is in `image::cam`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::arrays::maps;
use super::{Failure, refuse, write};
use crate::image::{cam, codec};

/// Arguments of `orandflow op threshold`.
#[derive(Debug, clap::Args)]
pub(crate) struct ThresholdArgs {
    /// The maps, `[classes, height, width]`
    #[arg(long, value_name = "NPY")]
    cam: PathBuf,

    /// The score of the background: a pixel is an object where a map exceeds it
    #[arg(long, value_name = "SCORE", default_value_t = 0.25, allow_negative_numbers = true)]
    background: f32,

    /// The classes of the maps in order, counted from 0 without the background, as `0,14`; without it 0, 1, 2 and so on
    ///
    /// Class i becomes index i + 1 of the mask, and the background 0.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    classes: Option<Vec<u8>>,

    /// The palette PNG to write
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
}

/// Runs `op threshold`.
pub(super) fn threshold(args: &ThresholdArgs) -> Result<ExitCode, Failure> {
    if !args.background.is_finite() {
        return Err(refuse(format!("`--background {}` is no score", args.background), None));
    }
    let maps = maps(&args.cam)?;
    // 255 marks pixels that count for nothing, so that the last class is 253.
    const MOST: usize = 254;
    if maps.channels() > MOST {
        let message =
            format!("`{}`: there are {} maps, and a mask has room for {MOST}", args.cam.display(), maps.channels());
        return Err(refuse(message, None));
    }
    let classes = args.classes.clone().unwrap_or_else(|| (0..maps.channels() as u8).collect());
    if classes.len() != maps.channels() {
        let message = format!("`--classes` names {} classes, and there are {} maps", classes.len(), maps.channels());
        return Err(refuse(message, None));
    }
    if let Some(class) = classes.iter().find(|&&class| usize::from(class) >= MOST) {
        return Err(refuse(
            format!("`--classes`: {class} has no index in a mask, the last class is {}", MOST - 1),
            None,
        ));
    }
    write(&args.out, &codec::encode_mask(&cam::threshold(&maps, &classes, args.background)))
}
