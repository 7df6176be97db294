//! What a stage does where its device has no memory left: smaller batches, and a message with what was asked for. Knows no network.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::stage::StageError;

/// Returns what the back end said of its memory, if that was what it gave up for: its first line, from "out of memory" on with
/// what was asked for and what there is.
fn shortage(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str))?;
    // LibTorch: "CUDA out of memory. Tried to allocate ..", "CUDA error: out of memory"; wgpu: "Out of Memory".
    let line = text.lines().find(|line| line.to_lowercase().contains("out of memory"))?;
    let start = ["CUDA out of memory", "CUDA error", "Out of Memory", "out of memory"];
    let from = start.iter().filter_map(|word| line.find(word)).min().unwrap_or(0);
    // What follows is advice on LibTorch's allocator, which is for programs that call it directly.
    let to = line.find(" If reserved").unwrap_or(line.len());
    Some(line[from..to].trim_end_matches(['"', ' ', '.', ')']).to_owned())
}

/// What is done to items: a result for each.
type Work<'a, T, R> = dyn FnMut(&[T]) -> Result<Vec<R>, StageError> + 'a;

/// Works on items in order, all at once; where the device has no room for that, on halves, and on their halves. `what` names the
/// items in warnings.
///
/// # Errors
/// If there is no room for a single item, or the work fails otherwise.
pub(super) fn halving<T, R>(
    items: &[T],
    what: &str,
    warn: &dyn Fn(String),
    work: &mut Work<'_, T, R>,
) -> Result<Vec<R>, StageError> {
    let panic = match catch_unwind(AssertUnwindSafe(|| work(items))) {
        Ok(made) => return made,
        Err(panic) => panic,
    };
    let Some(said) = shortage(&*panic) else { resume_unwind(panic) };
    if items.len() < 2 {
        return Err(no_room(&said));
    }
    let (first, second) = items.split_at(items.len() / 2);
    warn(format!("no room for {} {what} at once, so {} are tried: {said}", items.len(), second.len()));
    let mut made = halving(first, what, warn, work)?;
    made.extend(halving(second, what, warn, work)?);
    Ok(made)
}

/// Turns what a training gave up for into an error with a way out, if it was memory.
pub(super) fn training<R>(work: impl FnOnce() -> R) -> Result<R, StageError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match shortage(&*panic) {
        Some(said) => StageError::data_help(
            format!("the device has no memory left: {said}"),
            "set a smaller `batch` or `crop`, or `precision = \"bf16\"`; checkpoints are kept",
        ),
        None => resume_unwind(panic),
    })
}

fn no_room(said: &str) -> StageError {
    StageError::data_help(
        format!("the device has no memory left: {said}"),
        "an image takes more than there is: set smaller `scales`, or run this stage with `--device cpu`",
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// As burn-tch 0.22 panics: `unwrap` of an error whose text is LibTorch's.
    const LIBTORCH: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 \
        has a total capacity of 79.11 GiB of which 1.20 GiB is free. If reserved but unallocated memory is large try setting \
        PYTORCH_CUDA_ALLOC_CONF\\nException raised from malloc\")";

    #[test]
    fn what_the_back_end_says_of_memory_is_found_and_nothing_else() {
        let said = shortage(&LIBTORCH.to_owned()).expect("it is about memory");
        assert_eq!(
            said,
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is free"
        );
        assert!(shortage(&"CUDA error: out of memory").is_some());
        assert!(shortage(&"index out of bounds").is_none());
    }

    #[test]
    fn a_batch_is_halved_until_it_fits_and_order_is_kept() {
        let (sizes, warnings) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let warn = |text| warnings.borrow_mut().push(text);
        let made = halving(&[1, 2, 3, 4, 5], "images", &warn, &mut |items: &[i32]| {
            sizes.borrow_mut().push(items.len());
            assert!(items.len() <= 2, "{LIBTORCH}");
            Ok(items.iter().map(|item| item * 10).collect())
        });
        assert_eq!(made.expect("pairs fit"), [10, 20, 30, 40, 50]);
        assert_eq!(*sizes.borrow(), [5, 2, 3, 1, 2]);
        assert!(warnings.borrow()[0].starts_with("no room for 5 images at once, so 3 are tried: CUDA out of memory."));
        let error = halving(&[1], "images", &warn, &mut |_| -> Result<Vec<i32>, StageError> { panic!("{LIBTORCH}") });
        let error = error.expect_err("one does not fit").to_string();
        assert!(error.starts_with("the device has no memory left: CUDA out of memory. Tried to allocate 2.00 GiB"));
        let error = training(|| panic!("{LIBTORCH}")).expect_err("it does not fit").to_string();
        assert!(error.starts_with("the device has no memory left: CUDA"), "{error}");
    }
}
