//! `orandflow predict`: pictures of one's own through a trained segmentation network. How an image becomes a mask is in
//! `nn::segmenter`, which `segment.predict` uses as well.

use std::path::PathBuf;

use super::engine::CacheDir;

/// Arguments of `predict`.
#[derive(Debug, clap::Args)]
pub(crate) struct PredictArgs {
    /// The network: a `weights.safetensors` that `orandflow export` wrote, or `FILE.toml:STAGE`, a `segment.train` stage whose result
    /// is in the cache
    weights: String,

    /// Pictures, JPEG or PNG, and folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// The folder to write to: `masks/NAME.png` (palette PNG of the picture's size), `overlays/NAME.png`, and `classes.txt`
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// Where to compute: `cpu`, `libtorch` or `cuda:N`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,

    /// Factors by which each picture is resized, as `0.5,1.0,1.5` [default: those of `segment.predict`]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scales: Vec<f64>,

    /// See each scale mirrored as well
    #[arg(long)]
    mirror: bool,

    /// Take the mean of the probabilities of all scales in place of the largest
    #[arg(long)]
    mean: bool,

    /// Shrink pictures of more pixels to so many, and enlarge what the network makes of them [default: as `segment.predict`]
    #[arg(long, value_name = "N")]
    max_pixels: Option<std::num::NonZeroUsize>,

    /// Fit each mask to the picture's colours with a dense CRF
    #[arg(long)]
    crf: bool,

    /// With `FILE.toml:STAGE`: put a value in place of the file's
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,

    #[command(flatten)]
    cache: CacheDir,
}

/// Says that there are no networks.
#[cfg(not(feature = "nn"))]
pub(crate) fn predict(_args: &PredictArgs) -> Result<std::process::ExitCode, super::Failure> {
    Err(super::Failure::Message {
        message: "this program was built without networks, so that nothing can be predicted".to_owned(),
        help: Some("build it with the feature `nn`".to_owned()),
        code: 2,
    })
}

#[cfg(feature = "nn")]
pub(crate) use networks::predict;

#[cfg(feature = "nn")]
mod networks {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;

    use rayon::prelude::*;

    use super::PredictArgs;
    use crate::artifact::export::{Folder, Source as _};
    use crate::artifact::weights::{self, NamedTensors, WeightsMeta};
    use crate::cli::Failure;
    use crate::cli::common::PipelineArgs;
    use crate::cli::export::with_result;
    use crate::cli::remote::RemoteArgs;
    use crate::data::{count, folder};
    use crate::foreign::torch;
    use crate::image::large::MAX_PIXELS;
    use crate::image::{LabelMap, Rgb, codec, palette};
    use crate::kind::Kind;
    use crate::nn::device;
    use crate::nn::precision::{self, Precision};
    use crate::nn::resnet38::{ARCH, Merge, Resnet38Config};
    use crate::nn::segmenter::{SCALES, Segmenter, Settings};

    /// Runs `predict`: all pictures are looked at before the first one is segmented, so that a damaged one costs no time and leaves
    /// nothing half done.
    pub(crate) fn predict(args: &PredictArgs) -> Result<ExitCode, Failure> {
        let settings = settings(args)?;
        // As the stage computes unless it is told otherwise.
        let _held = precision::hold(Precision::F32);
        let device = device::named(&args.device).map_err(|error| refuse(error.to_string(), None))?;
        let pictures = pictures(&args.images)?;
        let checked: Vec<Result<(), Failure>> = pictures.par_iter().map(|(_, path)| decode(path).map(|_| ())).collect();
        checked.into_iter().collect::<Result<(), _>>()?;

        let (meta, tensors) = network(args)?;
        let of_weights = |what: &str| format!("`{}`: {what}", args.weights);
        if meta.arch != ARCH {
            let message = of_weights(&format!("these are weights of `{}`, and masks come from `{ARCH}`", meta.arch));
            return Err(refuse(message, Some("name the result of a `segment.train` stage")));
        }
        let config: Resnet38Config = serde_json::from_value(meta.config)
            .map_err(|error| refuse(of_weights(&format!("the network's sizes cannot be read: {error}")), None))?;
        if config.classes != meta.classes.len() {
            let message =
                format!("the network tells {} classes apart and names {}", config.classes, meta.classes.len());
            return Err(refuse(of_weights(&message), None));
        }
        let segmenter = Segmenter::load(&config, &tensors, settings, device)
            .map_err(|mismatch| refuse(of_weights(&mismatch.to_string()), None))?;

        let mut folder = Folder::new(&args.to);
        for (name, path) in &pictures {
            let image = decode(path)?;
            let mask = segmenter.mask(&image);
            let written = folder.write(&format!("masks/{name}.png"), &codec::encode_mask(&mask)).and_then(|()| {
                folder.write(&format!("overlays/{name}.png"), &codec::encode_rgb(&palette::overlay(&image, &mask)))
            });
            written.map_err(outside)?;
            say(&format!("{name}: {}\n", shares(&mask, &meta.classes)))?;
        }
        folder.write("classes.txt", format!("{}\n", meta.classes.join("\n")).as_bytes()).map_err(outside)?;
        say(&format!("{} in {}\n", count(pictures.len(), "mask", "masks"), args.to.join("masks").display()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn settings(args: &PredictArgs) -> Result<Settings, Failure> {
        // The bounds of `segment.predict`.
        if let Some(scale) = args.scales.iter().find(|scale| !(0.05..=20.0).contains(*scale)) {
            return Err(refuse(format!("`--scales`: {scale} is not from 0.05 to 20"), None));
        }
        Ok(Settings {
            scales: if args.scales.is_empty() { SCALES.to_vec() } else { args.scales.clone() },
            mirror: args.mirror,
            merge: if args.mean { Merge::Mean } else { Merge::Max },
            max_pixels: args.max_pixels.map_or(MAX_PIXELS, std::num::NonZeroUsize::get),
            crf: args.crf,
        })
    }

    /// Returns the pictures by the names of their masks.
    fn pictures(paths: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in paths {
            let of_path = if path.is_dir() {
                folder::images(&path.display().to_string())?
            } else {
                let name = path.file_stem().and_then(|name| name.to_str());
                let name = name.ok_or_else(|| refuse(format!("`{}` is no name of a picture", path.display()), None))?;
                BTreeMap::from([(name.to_owned(), path.clone())])
            };
            for (name, path) in of_path {
                if let Some(other) = found.insert(name.clone(), path.clone()).filter(|other| *other != path) {
                    let (other, path) = (other.display(), path.display());
                    let message = format!("there are two pictures `{name}`: `{other}` and `{path}`");
                    return Err(refuse(message, Some("a mask has the name of its picture: give them to two calls")));
                }
            }
        }
        Ok(found)
    }

    fn decode(path: &Path) -> Result<Rgb, Failure> {
        let bytes = fs_err::read(path).map_err(|error| refuse(error.to_string(), None))?;
        codec::decode_rgb(&bytes).map_err(|error| refuse(format!("`{}`: {error}", path.display()), None))
    }

    /// Reads the network from a file, or finds it in the cache.
    fn network(args: &PredictArgs) -> Result<(WeightsMeta, NamedTensors), Failure> {
        if let Some((file, stage)) = args.weights.rsplit_once(':').filter(|(file, _)| file.ends_with(".toml")) {
            let pipeline = PipelineArgs { file: PathBuf::from(file), set: args.set.clone() };
            return with_result(&pipeline, stage, &args.cache, &RemoteArgs::default(), |manifest, source, _| {
                let entry = manifest.entries.get(weights::PART).filter(|_| manifest.kind == Kind::Weights);
                let entry = entry.ok_or_else(|| {
                    let message = format!("stage `{stage}` makes {}, and weights are due", manifest.kind.article());
                    refuse(message, Some("name a `segment.train` stage"))
                })?;
                let meta = serde_json::from_value(manifest.meta.clone())
                    .map_err(|error| outside(format!("the description of stage `{stage}` cannot be read: {error}")))?;
                let bytes = source.entry(entry).map_err(outside)?;
                Ok((meta, weights::decode(&bytes).map_err(outside)?))
            });
        }
        let path = Path::new(&args.weights);
        let bytes = fs_err::read(path).map_err(|error| refuse(error.to_string(), None))?;
        if torch::is_torch(&bytes) {
            let message = format!(
                "`{}`: the file is PyTorch's, which does not say which network and classes it is for",
                args.weights
            );
            let help = "bring it in with a `weights.import` stage, for this as `arch = \"resnet38_seg\"`, run that, and give FILE.toml:STAGE";
            return Err(refuse(message, Some(help)));
        }
        let wrong = |error: String| refuse(format!("`{}`: {error}", args.weights), None);
        let meta = weights::description(&bytes).map_err(wrong)?.ok_or_else(|| {
            let message = format!("`{}`: the file does not say which network and classes it is for", args.weights);
            refuse(
                message,
                Some("write it with `orandflow export FILE STAGE`, of a `segment.train` or `weights.import` stage"),
            )
        })?;
        Ok((meta, weights::decode(&bytes).map_err(wrong)?))
    }

    /// Returns which classes a mask has, with their share of its pixels, the largest first.
    fn shares(mask: &LabelMap, classes: &[String]) -> String {
        let mut counts = vec![0_usize; classes.len()];
        for &index in mask.data() {
            counts[usize::from(index)] += 1;
        }
        let mut found: Vec<(usize, &String)> =
            counts.into_iter().zip(classes).skip(1).filter(|(count, _)| *count > 0).collect();
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        if found.is_empty() {
            return classes[0].clone();
        }
        let share = |count: usize| 100.0 * count as f64 / mask.data().len() as f64;
        let words: Vec<String> = found.iter().map(|(count, name)| format!("{name} {:.1} %", share(*count))).collect();
        words.join(", ")
    }

    /// Writes a line as soon as it is known. A reader that has gone away is no failure.
    fn say(line: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(outside(error.to_string())),
            _ => Ok(()),
        }
    }

    fn refuse(message: String, help: Option<&str>) -> Failure {
        Failure::Message { message, help: help.map(str::to_owned), code: 2 }
    }

    fn outside(message: String) -> Failure {
        Failure::Message { message, help: None, code: 1 }
    }
}
