//! From the word behind `--device` to a device that can compute. The only file that names a back end.

use burn::tensor::Device;

/// The device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The word is not the name of any device.
    #[error("`{name}` is not a device; known are {}", KNOWN.join(", "))]
    Unknown {
        /// The word.
        name: String,
    },
    /// The program was built without the back end.
    #[error("device `{name}` needs a program built with `cargo build --release --features {feature}`")]
    NotBuilt {
        /// The word.
        name: String,
        /// The feature that brings it.
        feature: &'static str,
    },
}

/// The words that [`named`] understands.
pub const KNOWN: &[&str] = &["cpu", "libtorch", "cuda:N"];

/// Returns the device of this name, without automatic differentiation: training turns that on (`Module::train`).
///
/// `cpu` is burn-flex, pure Rust; `libtorch` and `libtorch:cuda:N`, or `cuda:N` for short, are LibTorch on the CPU and on GPU
/// number N, in programs built with the feature `libtorch`.
///
/// # Errors
/// If the name is unknown, or this program was built without its back end.
pub fn named(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown { name: name.to_owned() };
    match name.strip_prefix("cuda:").map_or_else(|| name.split_once(':'), |_| Some(("libtorch", name))) {
        None if name == "cpu" => Ok(Device::flex()),
        None if name == "libtorch" => libtorch(name, None),
        Some(("libtorch", "cuda")) => libtorch(name, Some(0)),
        Some(("libtorch", rest)) => {
            let index = rest.strip_prefix("cuda:").and_then(|index| index.parse().ok()).ok_or_else(unknown)?;
            libtorch(name, Some(index))
        }
        _ => Err(unknown()),
    }
}

#[cfg(feature = "libtorch")]
#[expect(deprecated, reason = "burn prefers its CubeCL back ends, whose CUDA crate downloads LLVM while it builds")]
fn libtorch(_name: &str, cuda: Option<usize>) -> Result<Device, DeviceError> {
    Ok(cuda.map_or_else(Device::libtorch, Device::libtorch_cuda))
}

#[cfg(not(feature = "libtorch"))]
fn libtorch(name: &str, _cuda: Option<usize>) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: name.to_owned(), feature: "libtorch" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_named_in_the_error() {
        assert!(named("cpu").is_ok());
        let error = named("gpu").expect_err("no such device").to_string();
        assert_eq!(error, "`gpu` is not a device; known are cpu, libtorch, cuda:N");
        for wrong in ["libtorch:cuda:x", "cuda:x", "cuda:", "cuda"] {
            assert!(matches!(named(wrong), Err(DeviceError::Unknown { .. })), "{wrong}");
        }
        for card in ["cuda:1", "libtorch:cuda:1"] {
            assert!(!matches!(named(card), Err(DeviceError::Unknown { .. })), "{card}");
        }
    }
}
