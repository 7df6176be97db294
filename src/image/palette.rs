//! The VOC colour map, which gives every mask index its colour, and masks laid over images. Knows no class names.

use super::{LabelMap, Rgb};

/// Returns the 256 colours of the VOC development kit, `[256, 3]` as one run of bytes.
///
/// The formula is that of the kit's `VOClabelcolormap.m`: the bits of an index, three at a time from the lowest, become the
/// bits of red, green and blue from the highest down. Index 0 is black, 1 is (128, 0, 0), 255 is (224, 224, 192).
pub const fn voc_palette() -> [u8; 768] {
    let mut palette = [0; 768];
    let mut index = 0;
    while index < 256 {
        let mut bits = index;
        let mut place = 7;
        while bits > 0 {
            let mut colour = 0;
            while colour < 3 {
                palette[index * 3 + colour] |= (((bits >> colour) & 1) as u8) << place;
                colour += 1;
            }
            bits >>= 3;
            place -= 1;
        }
        index += 1;
    }
    palette
}

/// Lays a mask over an image: half of each pixel's colour is that of its index. The background stays as it is.
///
/// # Panics
/// If the sizes differ.
pub fn overlay(image: &Rgb, mask: &LabelMap) -> Rgb {
    const PALETTE: [u8; 768] = voc_palette();
    assert_eq!((mask.height(), mask.width()), (image.height(), image.width()), "a mask is as large as its image");
    let mut data = image.data().to_vec();
    for (pixel, &index) in data.chunks_exact_mut(3).zip(mask.data()).filter(|(_, index)| **index != 0) {
        for (channel, &colour) in pixel.iter_mut().zip(&PALETTE[usize::from(index) * 3..][..3]) {
            *channel = u8::midpoint(*channel, colour);
        }
    }
    Rgb::new(image.height(), image.width(), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_colours_objects_alone() {
        let image = Rgb::new(1, 2, vec![10, 20, 30, 10, 20, 30]);
        assert_eq!(overlay(&image, &LabelMap::new(1, 2, vec![0, 1])).data(), [10, 20, 30, 69, 10, 15]);
    }

    #[test]
    fn known_colours() {
        let palette = voc_palette();
        let colour = |index: usize| [palette[index * 3], palette[index * 3 + 1], palette[index * 3 + 2]];
        // From the VOC2012 kit: background, aeroplane, person, tvmonitor, void.
        assert_eq!(colour(0), [0, 0, 0]);
        assert_eq!(colour(1), [128, 0, 0]);
        assert_eq!(colour(15), [192, 128, 128]);
        assert_eq!(colour(20), [0, 64, 128]);
        assert_eq!(colour(255), [224, 224, 192]);
    }
}
