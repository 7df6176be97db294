//! Maps as half-precision numbers, packed without loss. Knows no images, ids or files.
//!
//! Maps are smooth, for networks make them at a sixteenth of the size. So each number, by its bits, is written as its difference
//! from what the three neighbours above and to the left lead to expect (left + above - above left, per channel), most of which are
//! near zero: the low bytes of all of them, then the high bytes, deflated.
//!
//! # Layout
//! Channels, height and width (u32, little-endian), then one zlib stream of `2 * channels * height * width` bytes.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::image::Maps;

/// Bytes before the stream.
const HEADER: usize = 12;

/// No deflated stream is longer than this many times its bytes (RFC 1951: 258 bytes for two symbols of a bit).
const MOST_DEFLATED: usize = 1032;

/// Packs maps; the same maps always give the same bytes.
///
/// # Panics
/// If a side does not fit 32 bits.
pub fn pack(maps: &Maps) -> Vec<u8> {
    let (height, width) = (maps.height(), maps.width());
    let numbers = maps.data().len();
    let mut bytes = vec![0; 2 * numbers];
    let (low, high) = bytes.split_at_mut(numbers);
    let mut halves = vec![f16::ZERO; width];
    let (mut row, mut above) = (vec![0u16; width + 1], vec![0u16; width + 1]);
    let rows = maps.data().chunks_exact(width.max(1));
    let planes = low.chunks_exact_mut(width.max(1)).zip(high.chunks_exact_mut(width.max(1)));
    for (number, (values, (low, high))) in rows.zip(planes).enumerate() {
        if number % height == 0 {
            row.fill(0);
        }
        std::mem::swap(&mut row, &mut above);
        halves.convert_from_f32_slice(values);
        for (bits, half) in row[1..].iter_mut().zip(&halves) {
            *bits = half.to_bits();
        }
        for (at, (low, high)) in low.iter_mut().zip(high).enumerate() {
            let expected = row[at].wrapping_add(above[at + 1]).wrapping_sub(above[at]);
            let [first, second] = folded(row[at + 1].wrapping_sub(expected)).to_le_bytes();
            (*low, *high) = (first, second);
        }
    }
    let side = |side: usize| u32::try_from(side).expect("sides of maps fit 32 bits").to_le_bytes();
    [&side(maps.channels())[..], &side(height), &side(width), &fdeflate::compress_to_vec(&bytes)].concat()
}

/// Returns the height and the width that packed maps name; `None` if they end before that.
pub fn size(bytes: &[u8]) -> Option<[usize; 2]> {
    let side = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    Some([side(4)?, side(8)?])
}

/// Unpacks maps.
///
/// # Errors
/// A sentence about the bytes, if they are no packed maps.
pub fn unpack(bytes: &[u8]) -> Result<Maps, String> {
    let damaged = |what: &str| format!("these packed maps are damaged: {what}");
    let (header, stream) = bytes.split_at_checked(HEADER).ok_or_else(|| damaged("they end within their header"))?;
    let side = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (channels, height, width) = (side(0), side(4), side(8));
    let due = channels.checked_mul(height).and_then(|rows| rows.checked_mul(width)).and_then(|all| all.checked_mul(2));
    let due = due
        .filter(|&due| due <= stream.len().saturating_mul(MOST_DEFLATED))
        .ok_or_else(|| damaged("they are shorter than their shape"))?;
    let bytes =
        fdeflate::decompress_to_vec_bounded(stream, due).map_err(|_| damaged("their deflated stream is broken"))?;
    if bytes.len() != due {
        return Err(damaged("they are shorter than their shape"));
    }
    let mut maps = Maps::zeros(channels, height, width);
    let (low, high) = bytes.split_at(due / 2);
    let mut halves = vec![f16::ZERO; width];
    // How far each number is above its left neighbour; the rule of `pack` says that of the row above plus what was written.
    let mut steps = vec![0u16; width];
    let planes = low.chunks_exact(width.max(1)).zip(high.chunks_exact(width.max(1)));
    for (number, (values, (low, high))) in maps.data_mut().chunks_exact_mut(width.max(1)).zip(planes).enumerate() {
        if number % height == 0 {
            steps.fill(0);
        }
        for ((step, &low), &high) in steps.iter_mut().zip(low).zip(high) {
            *step = step.wrapping_add(unfolded(u16::from_le_bytes([low, high])));
        }
        let mut bits = 0u16;
        for (half, step) in halves.iter_mut().zip(&steps) {
            bits = bits.wrapping_add(*step);
            *half = f16::from_bits(bits);
        }
        halves.convert_to_f32_slice(values);
    }
    Ok(maps)
}

/// Folds a difference so that small ones of both signs are small: 0, -1, 1, -2, .. become 0, 1, 2, 3, ..
fn folded(difference: u16) -> u16 {
    (difference << 1) ^ ((difference as i16) >> 15) as u16
}

fn unfolded(folded: u16) -> u16 {
    (folded >> 1) ^ (folded & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_but_the_half_precision_is_lost(
            (channels, height, width, bits) in (0usize..4, 1usize..9, 1usize..12).prop_flat_map(|(channels, height, width)| {
                (Just(channels), Just(height), Just(width), proptest::collection::vec(any::<u16>(), channels * height * width))
            })
        ) {
            let values = bits.iter().map(|&bits| f16::from_bits(bits).to_f32());
            let maps = Maps::new(channels, height, width, values.map(|value| if value.is_nan() { 0.0 } else { value }).collect());
            prop_assert_eq!(unpack(&pack(&maps)), Ok(maps));
        }

        #[test]
        fn damage_is_an_error_or_other_maps_and_never_a_panic(at in 0usize..60, value in any::<u8>(), cut in 0usize..60) {
            let mut bytes = pack(&Maps::new(2, 5, 7, (0..70).map(|i| (i % 9) as f32 / 9.0).collect()));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = unpack(&bytes);
            prop_assert!(unpack(&bytes[..cut.min(bytes.len() - 1)]).is_err());
        }
    }

    #[test]
    fn a_shape_that_the_bytes_cannot_hold_takes_no_memory() {
        let bytes = [[255; HEADER].as_slice(), &[0; 100]].concat();
        let error = unpack(&bytes).expect_err("2^97 numbers in 100 bytes");
        assert_eq!(error, "these packed maps are damaged: they are shorter than their shape");
    }

    #[test]
    fn smooth_maps_become_small() {
        let (height, width) = (120, 160);
        let wave = |at: usize| {
            let (y, x) = ((at / width) as f32, (at % width) as f32);
            0.5 + 0.25 * (y / 20.0).sin() + 0.25 * (x / 30.0).cos()
        };
        let maps = Maps::new(1, height, width, (0..height * width).map(wave).collect());
        // A quarter of f32 is one byte per number.
        assert!(pack(&maps).len() < height * width);
    }
}
