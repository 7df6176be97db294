//! Maps from and to npy files. Knows no operation.

use std::path::Path;
use std::process::ExitCode;

use super::{Failure, read, refuse, write};
use crate::foreign::{npy, write as foreign};
use crate::image::Maps;

/// Reads maps, `[classes, height, width]` or `[height, width]`, of any floating-point type.
pub(super) fn maps(path: &Path) -> Result<Maps, Failure> {
    let bytes = read(path)?;
    let at = |message: String| format!("`{}`: {message}", path.display());
    let tree = npy::read(&bytes).map_err(|error| refuse(at(error.to_string()), None))?;
    let root = tree.root();
    let Some(shape) = root.shape() else {
        let help =
            "`cam.import` reads the dicts of IRN, AMN, MCTformer and ORANDNet; save the array in it with `np.save`";
        return Err(refuse(at(format!("an array is due where it has {}", root.item().word())), Some(help)));
    };
    let (channels, height, width) = match *shape {
        [channels, height, width] => (channels, height, width),
        [height, width] => (1, height, width),
        _ => {
            let message =
                format!("maps have 3 dimensions (classes, height, width) or 2, and these have {}", shape.len());
            return Err(refuse(at(message), None));
        }
    };
    if height == 0 || width == 0 {
        return Err(refuse(at(format!("these maps have no pixels: they are {width} x {height}")), None));
    }
    if let Some(dtype) = root.dtype().filter(|dtype| !dtype.is_float()) {
        let message = at(format!("numbers with a fraction are due where the type is {dtype}"));
        return Err(refuse(message, Some("convert the maps, as in `maps.astype('float32') / 255` for maps of 8 bits")));
    }
    let values = root.floats().map_err(|error| refuse(at(error.to_string()), None))?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(refuse(at(format!("these maps hold {value}, which is no score")), None));
    }
    Ok(Maps::new(channels, height, width, values))
}

/// Says that two files of maps do not fit together.
pub(super) fn apart(a: &Path, b: &Path, error: &str) -> Failure {
    let message = format!("`{}` and `{}`: {error}", a.display(), b.display());
    refuse(message, Some("resize one of them, or make both from the same image and for the same classes"))
}

/// Writes maps, `[classes, height, width]`, f32.
pub(super) fn deliver(path: &Path, maps: &Maps) -> Result<ExitCode, Failure> {
    let bytes: Vec<u8> = maps.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    write(path, &foreign::npy("<f4", &[maps.channels(), maps.height(), maps.width()], &bytes))
}
