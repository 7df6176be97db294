//! `orandflow doctor --devices`: what this program can compute on, and whether it computes there what the CPU does.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};

use super::Failure;
use super::common::deliver;

/// Runs `doctor --devices`: exit code 0 if every device that is there passes its test, else 1.
pub(crate) fn devices() -> Result<ExitCode, Failure> {
    let mut text = String::new();
    let built: Vec<&str> =
        [("nn", cfg!(feature = "nn")), ("libtorch", cfg!(feature = "libtorch")), ("vulkan", cfg!(feature = "vulkan"))]
            .into_iter()
            .filter_map(|(name, built)| built.then_some(name))
            .collect();
    let _ = writeln!(text, "orandflow {}, built with: {}", env!("CARGO_PKG_VERSION"), list(&built));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = writeln!(text, "processor: {threads} threads{}{}", processor(), memory());
    if let Some(library) = libtorch() {
        let _ = writeln!(text, "LibTorch: {library}");
    }
    match graphics() {
        Some(lines) => lines.iter().for_each(|line| {
            let _ = writeln!(text, "GPU {line}");
        }),
        None => text.push_str("GPU: nvidia-smi shows none\n"),
    }
    let faults = test(&mut text);
    deliver(&text, None)?;
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Tests each device, and returns how many fail.
#[cfg(feature = "nn")]
fn test(text: &mut String) -> usize {
    use crate::nn::{device, self_test};
    let mut faults = 0;
    for name in device::visible() {
        match crate::run::guard(|| self_test::of(&name)).unwrap_or_else(Err) {
            Ok(outcome) => {
                let verdict = if outcome.passes() { "computes rightly" } else { "FAULT: computes something else" };
                let milliseconds = outcome.time.as_secs_f64() * 1e3;
                let _ = writeln!(
                    text,
                    "device `{name}`: {verdict}, {:.1e} from the CPU, convolution with gradients in {milliseconds:.1} ms",
                    outcome.error
                );
                faults += usize::from(!outcome.passes());
            }
            Err(message) => {
                let _ = writeln!(text, "device `{name}`: FAULT: {message}");
                faults += 1;
            }
        }
    }
    faults
}

#[cfg(not(feature = "nn"))]
fn test(text: &mut String) -> usize {
    text.push_str("no device: this program was built without networks, `cargo build --release` brings them\n");
    0
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What `/proc/cpuinfo` calls the processor.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map(|(_, name)| format!(" of {}", name.trim())).unwrap_or_default()
}

/// How much memory there is and how much of it is free.
fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / f64::from(1 << 20))
    };
    match (gibibytes("MemTotal"), gibibytes("MemAvailable")) {
        (Some(total), Some(free)) => format!(", {free:.1} GiB of {total:.1} GiB memory available"),
        _ => String::new(),
    }
}

/// Where the LibTorch is that this process has loaded, and its version where a file beside it says so.
fn libtorch() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path =
        maps.lines().find_map(|line| line.split_whitespace().last().filter(|path| path.contains("libtorch_cpu")))?;
    let root = std::path::Path::new(path).parent()?.parent()?;
    let version = std::fs::read_to_string(root.join("build-version")).ok().or_else(|| {
        let text = std::fs::read_to_string(root.join("version.py")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("__version__ = "))?.trim_matches(['\'', '"']).to_owned())
    });
    Some(format!("{} at {}", version.as_deref().map_or("unknown version", str::trim), root.display()))
}

/// A line for each GPU that NVIDIA's driver shows.
fn graphics() -> Option<Vec<String>> {
    let fields = "--query-gpu=index,name,memory.total,memory.used,driver_version,compute_cap";
    let output = Command::new("nvidia-smi").args([fields, "--format=csv,noheader"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let line = |line: &str| {
        let parts: Vec<&str> = line.split(',').map(str::trim).collect();
        match parts[..] {
            [index, name, total, used, driver, capability] => Some(format!(
                "{index}: {name}, {total} memory of which {used} are used, driver {driver}, compute capability {capability}"
            )),
            _ => None,
        }
    };
    Some(text.lines().filter_map(line).collect::<Vec<String>>()).filter(|lines| !lines.is_empty())
}
