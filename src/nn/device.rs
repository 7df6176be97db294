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
pub const KNOWN: &[&str] = &["cpu", "libtorch", "cuda:N", "vulkan", "vulkan:N"];

/// Returns the device of this name, without automatic differentiation: training turns that on (`Module::train`).
///
/// `cpu` is burn-flex, pure Rust; `libtorch` and `libtorch:cuda:N`, or `cuda:N` for short, are LibTorch on the CPU and on GPU
/// number N, in programs built with the feature `libtorch`; `vulkan` is burn-wgpu on the device that its driver likes best and
/// `vulkan:N` on GPU number N, in programs built with the feature `vulkan`.
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
        None if name == "vulkan" => vulkan(name, None),
        Some(("vulkan", index)) => vulkan(name, Some(index.parse().map_err(|_| unknown())?)),
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

#[cfg(feature = "vulkan")]
fn vulkan(_name: &str, index: Option<usize>) -> Result<Device, DeviceError> {
    use burn::tensor::DeviceKind;
    Ok(Device::vulkan(index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu)))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan(name: &str, _index: Option<usize>) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: name.to_owned(), feature: "vulkan" })
}

/// Returns the names of the devices that this program was built for and that the machine has, as far as the back ends say
/// beforehand: a Vulkan driver shows only when it is used.
pub fn visible() -> Vec<String> {
    let mut names = vec!["cpu".to_owned()];
    #[cfg(feature = "libtorch")]
    {
        names.push("libtorch".to_owned());
        names.extend((0..tch::Cuda::device_count()).map(|index| format!("libtorch:cuda:{index}")));
    }
    if cfg!(feature = "vulkan") {
        names.push("vulkan".to_owned());
    }
    names
}

/// Says whether products on a GPU may round their factors to TF32. PyTorch allows it in convolutions unless told not to.
#[cfg(feature = "libtorch")]
pub(super) fn allow_tf32(allowed: bool) {
    #[expect(unsafe_code, reason = "the crate `tch` has no function for these switches of LibTorch")]
    mod libtorch {
        use std::ffi::c_void;

        unsafe extern "C" {
            /// `at::globalContext()`
            #[link_name = "_ZN2at13globalContextEv"]
            fn global_context() -> *mut c_void;
            /// `at::Context::setAllowTF32CuDNN(bool)`
            #[link_name = "_ZN2at7Context17setAllowTF32CuDNNEb"]
            fn allow_in_cudnn(context: *mut c_void, allowed: bool);
            /// `at::Context::setAllowTF32CuBLAS(bool)`
            #[link_name = "_ZN2at7Context18setAllowTF32CuBLASEb"]
            fn allow_in_cublas(context: *mut c_void, allowed: bool);
        }

        pub(super) fn allow_tf32(allowed: bool) {
            // SAFETY: the first returns a reference to an object that lives as long as the program, the others store a flag in
            // it; arguments and results are passed as the C++ ABI of all platforms with these names does. LibTorch is linked.
            unsafe {
                allow_in_cudnn(global_context(), allowed);
                allow_in_cublas(global_context(), allowed);
            }
        }
    }
    // Without a GPU there is nothing to switch, and LibTorch 2.9 warns of these functions when they are called.
    if tch::Cuda::is_available() {
        libtorch::allow_tf32(allowed);
    }
}

/// There is no TF32 without LibTorch.
#[cfg(not(feature = "libtorch"))]
pub(super) fn allow_tf32(_allowed: bool) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_named_in_the_error() {
        assert!(named("cpu").is_ok());
        let error = named("gpu").expect_err("no such device").to_string();
        assert_eq!(error, "`gpu` is not a device; known are cpu, libtorch, cuda:N, vulkan, vulkan:N");
        for wrong in ["libtorch:cuda:x", "cuda:x", "cuda:", "cuda", "vulkan:x"] {
            assert!(matches!(named(wrong), Err(DeviceError::Unknown { .. })), "{wrong}");
        }
        for card in ["cuda:1", "libtorch:cuda:1"] {
            assert!(!matches!(named(card), Err(DeviceError::Unknown { .. })), "{card}");
        }
        assert_eq!(visible()[0], "cpu");
    }
}
