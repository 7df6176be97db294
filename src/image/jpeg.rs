//! JPEG to pixels, byte for byte as Pillow and libjpeg-turbo decode them (SPEC Appendix C asks for parity from the file on).
//!
//! mozjpeg is libjpeg-turbo with another encoder: its decoder has the same accurate integer DCT and the same triangle filter for
//! subsampled colour, and without its assembly, which gives the same bytes, it builds with a C compiler alone. Errors leave the C
//! code by unwinding, which it is compiled for (`-fexceptions`, ABI `C-unwind`), and stop here: nothing unwinds out of this file.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys as sys;

use super::Rgb;

/// The first bytes of every JPEG: start of image, and the first byte of the next marker.
pub(super) const SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// The longest side that is decoded, in pixels. A few bytes can claim 65,535 x 65,535 pixels, which are 12 GiB.
const MAX_SIDE: usize = 1 << 14;

/// Decodes a JPEG, grey or colour.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    if !has_end(bytes) {
        return Err("this JPEG is truncated: it ends before its end-of-image marker; copy it again".to_owned());
    }
    guarded(|| {
        let decoder = open(bytes)?;
        let space = match decoder.color_space() {
            ColorSpace::JCS_CMYK => Some("CMYK"),
            ColorSpace::JCS_YCCK => Some("YCCK"),
            _ => None,
        };
        if let Some(space) = space {
            return Err(format!("this JPEG is {space}, which has no fixed RGB; convert it to RGB first"));
        }
        let (width, height) = decoder.size();
        let mut started = decoder.rgb().map_err(|error| damaged(&error))?;
        let data: Vec<u8> = started.read_scanlines().map_err(|error| damaged(&error))?;
        started.finish().map_err(|error| damaged(&error))?;
        if data.len() != height * width * 3 {
            return Err(format!("this JPEG has {} bytes of pixels where {width} x {height} RGB are due", data.len()));
        }
        Ok(Rgb::new(height, width, data))
    })
}

/// Returns (height, width) from the headers alone.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    guarded(|| {
        let (width, height) = open(bytes)?.size();
        Ok((height, width))
    })
}

/// Reads the headers.
fn open(bytes: &[u8]) -> Result<Decompress<&[u8]>, String> {
    let decoder = Decompress::with_err(errors()).from_mem(bytes).map_err(|error| damaged(&error))?;
    let (width, height) = decoder.size();
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(format!("this JPEG is {width} x {height}, and sides are decoded up to {MAX_SIDE} pixels"));
    }
    Ok(decoder)
}

/// What the library says when it gives up, on its way out of the C code.
struct Damage(String);

/// Runs what calls the library, and turns what it threw into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // Whatever the closure held is dropped on the way, and nothing of it is looked at afterwards.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|thrown| match thrown.downcast::<Damage>() {
        Ok(damage) => Err(damaged(&damage.0)),
        // Not the library's, so a defect of ours, which is not hidden.
        Err(other) => resume_unwind(other),
    })
}

/// The library's own error handlers, but for the two that would end the process or pass over lost pixels.
fn errors() -> sys::jpeg_error_mgr {
    let mut errors = sys::jpeg_error_mgr {
        error_exit: None,
        emit_message: None,
        output_message: None,
        format_message: None,
        reset_error_mgr: None,
        msg_code: 0,
        msg_parm: sys::msg_parm_union::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    };
    #[expect(
        unsafe_code,
        reason = "the library fills in its own functions and tables, and keeps nothing of the reference"
    )]
    // SAFETY: the struct is the library's own, and all of its fields may be anything before this call.
    unsafe {
        sys::jpeg_std_error(&mut errors);
    }
    errors.error_exit = Some(give_up);
    errors.emit_message = Some(warn);
    errors
}

/// Takes the place of `exit(1)`.
#[cold]
extern "C-unwind" fn give_up(decoder: &mut sys::jpeg_common_struct) {
    // Without the panic hook: a damaged file is no defect of the program.
    resume_unwind(Box::new(Damage(message(decoder))));
}

/// Gives up where pixels were lost, which the library itself paints grey and goes on; other oddities are let pass, as Pillow does.
extern "C-unwind" fn warn(decoder: &mut sys::jpeg_common_struct, level: c_int) {
    const LOSSES: [sys::J_MESSAGE_CODE; 4] =
        [sys::JWRN_HIT_MARKER, sys::JWRN_HUFF_BAD_CODE, sys::JWRN_JPEG_EOF, sys::JWRN_MUST_RESYNC];
    #[expect(unsafe_code, reason = "the handlers lie behind a pointer")]
    // SAFETY: the library calls this with the decoder whose handlers these are; they live as long as it does.
    let code = unsafe { (*decoder.err).msg_code };
    if level < 0 && LOSSES.contains(&code) {
        give_up(decoder);
    }
}

/// Returns the library's sentence on what happened.
fn message(decoder: &mut sys::jpeg_common_struct) -> String {
    #[expect(unsafe_code, reason = "the handlers lie behind a pointer")]
    // SAFETY: as in `warn`.
    let errors = unsafe { &*decoder.err };
    let Some(format) = errors.format_message else { return format!("code {}", errors.msg_code) };
    // `JMSG_LENGTH_MAX` is 200; the binding's type has the wrong length and forgets that the text is written.
    let mut text = [0u8; 200];
    #[expect(unsafe_code, reason = "the library writes a C string of at most 200 bytes, its end included")]
    // SAFETY: `text` is that long, is not otherwise referred to during the call, and outlives it.
    unsafe {
        let format: unsafe extern "C-unwind" fn(*mut sys::jpeg_common_struct, *mut u8) = std::mem::transmute(format);
        format(decoder, text.as_mut_ptr());
    }
    String::from_utf8_lossy(text.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

fn damaged(error: &impl std::fmt::Display) -> String {
    format!("this JPEG is damaged: {error}")
}

/// Walks the segments to the end-of-image marker. The decoder pretends that there is one where the bytes end, and a thumbnail may
/// hold an end marker of its own, so that searching for one would not do.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Entropy-coded data and fill bytes: on to the next 0xff that is neither stuffed (0x00), restart nor fill.
        let Some(skipped) = bytes.get(at..).and_then(|rest| {
            rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xd0..=0xd7 | 0xff))
        }) else {
            return false;
        };
        at += skipped + 2;
        if bytes[at - 1] == 0xd9 {
            return true;
        }
        let Some(length) = bytes.get(at..at + 2) else { return false };
        at += usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}
