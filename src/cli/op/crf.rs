//! `orandflow op crf`: the dense CRF on an image and labels or probabilities. The CRF itself is in `image::crf`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::arrays::{deliver, maps};
use super::{Failure, read, refuse};
use crate::image::crf::{Bilateral, DenseCrf, Gaussian, Kernels, Unary};
use crate::image::{Rgb, codec};

const DEFAULT: Kernels = Kernels::IR_LABELS;

/// Arguments of `orandflow op crf`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("belief").required(true).args(["labels", "probs"]))]
pub(crate) struct CrfArgs {
    /// The image, JPEG or PNG
    #[arg(long, value_name = "FILE")]
    image: PathBuf,

    /// A mask of labels 0 to N - 1, palette or grey PNG (`unary_from_labels`)
    #[arg(long, value_name = "PNG", requires = "n")]
    labels: Option<PathBuf>,

    /// How many labels there are
    #[arg(long, value_name = "N", conflicts_with = "probs")]
    n: Option<u8>,

    /// How far the labels are believed, as a probability between 0 and 1
    #[arg(long, value_name = "P", default_value_t = 0.7, conflicts_with = "probs")]
    gt_prob: f32,

    /// Label 0 means unsure, and label i is class i - 1
    #[arg(long, conflicts_with = "probs")]
    zero_unsure: bool,

    /// Probabilities, `[labels, height, width]`, in place of labels (`unary_from_softmax`)
    #[arg(long, value_name = "NPY")]
    probs: Option<PathBuf>,

    /// The npy file to write: f32 probabilities, `[labels, height, width]`
    #[arg(long, value_name = "NPY")]
    out: PathBuf,

    /// Mean field iterations
    #[arg(long, value_name = "N", default_value_t = 10)]
    iterations: usize,

    /// Smoothness kernel: standard deviation, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = DEFAULT.gaussian.sxy)]
    gaussian_sxy: f32,

    /// Smoothness kernel: weight
    #[arg(long, value_name = "WEIGHT", default_value_t = DEFAULT.gaussian.compat)]
    gaussian_compat: f32,

    /// Appearance kernel: standard deviation in position, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = DEFAULT.bilateral.sxy)]
    bilateral_sxy: f32,

    /// Appearance kernel: standard deviation in colour, in steps of 8-bit RGB
    #[arg(long, value_name = "STEPS", default_value_t = DEFAULT.bilateral.srgb)]
    bilateral_srgb: f32,

    /// Appearance kernel: weight
    #[arg(long, value_name = "WEIGHT", default_value_t = DEFAULT.bilateral.compat)]
    bilateral_compat: f32,
}

/// Runs `op crf`.
pub(super) fn crf(args: &CrfArgs) -> Result<ExitCode, Failure> {
    let kernels = args.kernels()?;
    let image = codec::decode_rgb(&read(&args.image)?).map_err(|error| at(&args.image, &error))?;
    let unary = args.unary(&image)?;
    deliver(&args.out, &DenseCrf::new(&image, kernels).infer(&unary, args.iterations))
}

impl CrfArgs {
    fn kernels(&self) -> Result<Kernels, Failure> {
        for (name, value) in [
            ("gaussian-sxy", self.gaussian_sxy),
            ("bilateral-sxy", self.bilateral_sxy),
            ("bilateral-srgb", self.bilateral_srgb),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(refuse(format!("`--{name} {value}` is not above 0"), None));
            }
        }
        if !(self.gt_prob > 0.0 && self.gt_prob < 1.0) {
            let message = format!("`--gt-prob {}` is not a probability between 0 and 1", self.gt_prob);
            return Err(refuse(message, None));
        }
        Ok(Kernels {
            gaussian: Gaussian { sxy: self.gaussian_sxy, compat: self.gaussian_compat },
            bilateral: Bilateral { sxy: self.bilateral_sxy, srgb: self.bilateral_srgb, compat: self.bilateral_compat },
        })
    }

    fn unary(&self, image: &Rgb) -> Result<Unary, Failure> {
        let fits = |path: &Path, height: usize, width: usize| {
            let (image_height, image_width) = (image.height(), image.width());
            if (height, width) == (image_height, image_width) {
                return Ok(());
            }
            Err(at(path, &format!("it is {width} x {height}, and the image is {image_width} x {image_height}")))
        };
        match (&self.labels, self.n, &self.probs) {
            (Some(path), Some(count), _) => {
                let mask = codec::decode_mask(&read(path)?).map_err(|error| at(path, &error))?;
                fits(path, mask.height(), mask.width())?;
                let limit = usize::from(count) + usize::from(self.zero_unsure);
                if count == 0 {
                    return Err(refuse("`--n 0`: a CRF has at least one label".to_owned(), None));
                }
                if let Some(label) = mask.data().iter().find(|&&label| usize::from(label) >= limit) {
                    let help = match label {
                        255 => "255 marks pixels that count for nothing, which a CRF does not know",
                        _ => "number the labels of the image from 0 on, or give the number of all classes as `--n`",
                    };
                    return Err(refuse(
                        format!("`{}`: it has the label {label}, and there are {limit}", path.display()),
                        Some(help),
                    ));
                }
                Ok(Unary::from_labels(&mask, usize::from(count), self.gt_prob, self.zero_unsure))
            }
            (_, _, Some(path)) => {
                let probabilities = maps(path)?;
                fits(path, probabilities.height(), probabilities.width())?;
                if probabilities.channels() == 0 {
                    return Err(at(path, "it has no label"));
                }
                // A little beyond is rounding; `unary_from_softmax` clips it.
                let beyond = |value: &&f32| !(-1e-3..=1.0 + 1e-3).contains(*value);
                if let Some(value) = probabilities.data().iter().find(beyond) {
                    let message =
                        format!("`{}`: it has the value {value}, and probabilities lie in 0 to 1", path.display());
                    return Err(refuse(message, Some("give the softmax of a network's output")));
                }
                Ok(Unary::from_probabilities(&probabilities))
            }
            // The parser asks for one of the two; this is for those who call it otherwise.
            _ => Err(refuse("`op crf` needs `--labels` with `--n`, or `--probs`".to_owned(), None)),
        }
    }
}

fn at(path: &Path, message: &str) -> Failure {
    refuse(format!("`{}`: {message}", path.display()), None)
}
