//! `orandflow op forward`: one network, one image, its outputs as named tensors. What the networks do is in `nn::forward`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, read, refuse};

/// Arguments of `orandflow op forward`.
#[derive(Debug, clap::Args)]
pub(crate) struct ForwardArgs {
    /// The network: `resnet50_cam`, `resnet50_amn`, `vit_base`, `mctformer_v1`, `mctformer_v2`, `mctformer_plus`, `orandnet`,
    /// `irn` or `resnet38_seg`
    #[arg(long, value_name = "NAME")]
    arch: String,

    /// Its weights, safetensors or a `.pth` of PyTorch, with the names of the reference's state_dict
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,

    /// The image, PNG or JPEG, which is normalised and not resized; for `orandnet` a map, a .npy of f32
    #[arg(long, value_name = "FILE")]
    image: PathBuf,

    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// `vit_base`: the class whose attribution is made, counted from 0 without the background
    #[arg(long, value_name = "N")]
    class: Option<u8>,

    /// `resnet50_amn`: the classes that the image has, counted from 0 without the background
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    labels: Vec<u8>,

    /// `mctformer_*`: how many of the last blocks the class attention is taken from; default 3, of Plus 12
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// `mctformer_*`: what maps are made of: `fused`, `patchcam` or `mct`
    #[arg(long, value_name = "WORD")]
    fuse: Option<String>,

    /// Put a value in place of one of the network's sizes or options, such as `attribution=gradient_rollout` or `precision=f64`
    /// of `vit_base`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,

    /// Where to compute: `cpu`, `libtorch` or `libtorch:cuda:N`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
}

/// Runs the network.
#[cfg(feature = "nn")]
pub(crate) fn forward(args: &ForwardArgs) -> Result<ExitCode, Failure> {
    use crate::artifact::weights;
    use crate::image::codec;
    use crate::nn::forward::{self, Arch, Input, Options};

    let arch = Arch::named(&args.arch).map_err(|message| refuse(message, None))?;
    let mut options = Options::new(arch);
    for (name, given) in [
        ("class", args.class.map(|class| class.to_string())),
        ("labels", (!args.labels.is_empty()).then(|| format!("{:?}", args.labels))),
        ("layers", args.layers.map(|layers| layers.to_string())),
        ("fuse", args.fuse.clone()),
    ] {
        if let Some(value) = given {
            options.set(name, &value).map_err(|message| refuse(message, None))?;
        }
    }
    for pair in &args.set {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| refuse(format!("`--set {pair}` has no `=`"), Some("write NAME=VALUE")))?;
        options.set(name.trim(), value.trim()).map_err(|message| refuse(message, None))?;
    }
    let device = crate::nn::device::named(&args.device).map_err(|error| refuse(error.to_string(), None))?;
    let of_file = |path: &std::path::Path, error: String| refuse(format!("`{}`: {error}", path.display()), None);
    let tensors = weights::read(&read(&args.weights)?).map_err(|error| of_file(&args.weights, error))?;
    let bytes = read(&args.image)?;
    let input =
        if arch.takes_maps() { read_npy(&bytes).map(Input::Maps) } else { codec::decode_rgb(&bytes).map(Input::Image) };
    let input = input.map_err(|error| of_file(&args.image, error))?;
    let outputs = forward::run(&options, tensors, &input, &device).map_err(|message| {
        let (weights, image) = (args.weights.display(), args.image.display());
        refuse(format!("`{weights}` on `{image}`: {message}"), None)
    })?;
    fs_err::write(&args.out, weights::encode(&outputs)).map_err(|error| Failure::Message {
        message: error.to_string(),
        help: None,
        code: 1,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Says that there are no networks.
#[cfg(not(feature = "nn"))]
pub(crate) fn forward(args: &ForwardArgs) -> Result<ExitCode, Failure> {
    let ForwardArgs { arch, weights, image, out, class, labels, layers, fuse, set, device } = args;
    let _ = (weights, image, out, class, labels, layers, fuse, set, device, read(image));
    Err(refuse(
        format!("this program was built without networks, so there is no `{arch}`"),
        Some("build it with the feature `nn`"),
    ))
}

/// Reads maps from a npy file of floats: `[H, W]`, `[K, H, W]`, or either behind dimensions of 1.
#[cfg(feature = "nn")]
fn read_npy(bytes: &[u8]) -> Result<crate::image::Maps, String> {
    let tree = crate::foreign::npy::read(bytes).map_err(|error| error.to_string())?;
    let array = tree.root();
    let shape = array.shape().ok_or("it holds no array")?;
    let data = array.floats().map_err(|error| error.to_string())?;
    let (channels, height, width) = match *shape {
        [height, width] => (1, height, width),
        [channels, height, width] | [channels, 1, height, width] | [1, channels, height, width] => {
            (channels, height, width)
        }
        _ => return Err(format!("its shape is {shape:?} where [H, W] or [K, H, W] is due")),
    };
    if channels * height * width == 0 {
        return Err("it is empty".to_owned());
    }
    Ok(crate::image::Maps::new(channels, height, width, data))
}
