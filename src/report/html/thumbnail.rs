//! Small pictures as data URIs: photographs and maps as JPEG, masks as palette PNG.

use jpeg_encoder::{ColorType, Encoder};

use crate::image::resize::{Coordinates, Filter, Nearest, interpolate_bilinear, nearest_mask, resize_rgb};
use crate::image::{LabelMap, Maps, Rgb, codec};

/// Longest side of a picture, in pixels.
pub const SIDE: usize = 112;
/// Quality of the JPEGs: at this size more cannot be seen.
const QUALITY: u8 = 72;
/// Colours of 0, 1/4, 1/2, 3/4 and 1: matplotlib's `inferno`, which rises evenly in lightness and reads without colours, too.
const INFERNO: [[f32; 3]; 5] =
    [[0.0, 0.0, 4.0], [87.0, 16.0, 110.0], [188.0, 55.0, 84.0], [249.0, 142.0, 9.0], [252.0, 255.0, 164.0]];

/// Returns height and width of the picture of an image, the same shape and at most [`SIDE`] long; never larger than the image.
pub fn size(height: usize, width: usize) -> (usize, usize) {
    let factor = (SIDE as f64 / height.max(width) as f64).min(1.0);
    let scaled = |side: usize| ((side as f64 * factor).round() as usize).max(1);
    (scaled(height), scaled(width))
}

/// Returns an image in the size of its picture.
pub fn shrink(image: &Rgb) -> Rgb {
    let (height, width) = size(image.height(), image.width());
    resize_rgb(image, height, width, Filter::PillowBicubic)
}

/// Returns a small image as a data URI.
pub fn photograph(image: &Rgb) -> String {
    let mut bytes = Vec::new();
    let (width, height) = (u16::try_from(image.width()), u16::try_from(image.height()));
    let encoder = Encoder::new(&mut bytes, QUALITY);
    let encoded = match (width, height) {
        (Ok(width), Ok(height)) => encoder.encode(image.data(), width, height, ColorType::Rgb).is_ok(),
        _ => false,
    };
    if encoded { uri("image/jpeg", &bytes) } else { uri("image/png", &codec::encode_rgb(image)) }
}

/// Returns one channel of maps over a small image, which turns grey.
pub fn heat(small: &Rgb, maps: &Maps, channel: usize) -> String {
    let one = Maps::new(1, maps.height(), maps.width(), maps.channel(channel).to_vec());
    over(small, &one)
}

/// Returns the largest of all channels over a small image.
pub fn heat_of_all(small: &Rgb, maps: &Maps) -> String {
    let mut largest = vec![0.0_f32; maps.height() * maps.width()];
    for channel in 0..maps.channels() {
        for (value, other) in largest.iter_mut().zip(maps.channel(channel)) {
            *value = value.max(*other);
        }
    }
    over(small, &Maps::new(1, maps.height(), maps.width(), largest))
}

fn over(small: &Rgb, map: &Maps) -> String {
    let values = interpolate_bilinear(map, small.height(), small.width(), Coordinates::HalfPixel);
    let mixed = small.data().chunks_exact(3).zip(values.channel(0)).flat_map(|(pixel, value)| {
        // Rec. 601.
        let grey = 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
        let value = if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 };
        let share = 0.35 + 0.6 * value;
        inferno(value).map(|colour| (share * colour + (1.0 - share) * grey).round() as u8)
    });
    photograph(&Rgb::new(small.height(), small.width(), mixed.collect()))
}

fn inferno(value: f32) -> [f32; 3] {
    let at = value * (INFERNO.len() - 1) as f32;
    let below = (at as usize).min(INFERNO.len() - 2);
    let rest = at - below as f32;
    std::array::from_fn(|channel| INFERNO[below][channel] * (1.0 - rest) + INFERNO[below + 1][channel] * rest)
}

/// Returns a mask in the size of its picture, in the colours of VOC.
pub fn mask(mask: &LabelMap) -> String {
    let (height, width) = size(mask.height(), mask.width());
    uri("image/png", &codec::encode_mask(&nearest_mask(mask, height, width, Nearest::Pillow)))
}

/// Returns where two masks differ; nothing where their sizes do.
pub fn difference(one: &LabelMap, other: &LabelMap) -> Option<String> {
    if (one.height(), one.width()) != (other.height(), other.width()) {
        return None;
    }
    let differs = one.data().iter().zip(other.data()).map(|(one, other)| if one == other { 0 } else { 255 });
    Some(mask(&LabelMap::new(one.height(), one.width(), differs.collect())))
}

fn uri(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", base64(bytes))
}

/// Returns bytes in base 64 (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_that_of_the_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn pictures_keep_the_shape_and_never_grow() {
        assert_eq!(size(375, 500), (84, 112));
        assert_eq!(size(64, 32), (64, 32));
        assert_eq!(size(1, 5000), (1, 112));
    }
}
