//! Images of many pixels: made smaller before something sees them whose memory grows with the pixels, and what that made of them
//! brought to their size again. Knows sizes; which limit holds is the stages' business.

use std::borrow::Cow;

use super::resize::{Coordinates, Filter, interpolate_bilinear, resize_rgb, scaled_size};
use super::{Maps, Rgb};

/// The pixels of the largest image that is seen as it is, where a stage is not told otherwise: 640 x 640, which no image of PASCAL VOC or
/// COCO exceeds.
pub const MAX_PIXELS: usize = 640 * 640;

/// Returns [`MAX_PIXELS`], as the default of a parameter.
pub fn max_pixels() -> usize {
    MAX_PIXELS
}

/// Returns the size that an image has with no more than `max_pixels`: its own, or the largest of its shape. It is what
/// [`scaled_size`] makes of a whole number of pixels on the longer side, as `images.resize` does; a side keeps at least one pixel.
pub fn size_within(height: usize, width: usize, max_pixels: usize) -> (usize, usize) {
    if height * width <= max_pixels {
        return (height, width);
    }
    let longest = height.max(width);
    let at = |side: usize| scaled_size(height, width, side as f64 / longest as f64);
    let fits = |&side: &usize| {
        let (height, width) = at(side);
        height * width <= max_pixels
    };
    at((1..longest).rev().find(fits).unwrap_or(1))
}

/// Returns an image with no more than `max_pixels`, made smaller by Pillow's bicubic filter with antialiasing where it has more.
pub fn shrunk(image: &Rgb, max_pixels: usize) -> Cow<'_, Rgb> {
    let (height, width) = size_within(image.height(), image.width(), max_pixels);
    if (height, width) == (image.height(), image.width()) {
        return Cow::Borrowed(image);
    }
    Cow::Owned(resize_rgb(image, height, width, Filter::PillowBicubic))
}

/// Returns maps at a size, bilinear between centres of pixels; those that have it already as they are.
///
/// # Panics
/// If the maps have no pixels and the result would have some.
pub fn enlarged(maps: Maps, height: usize, width: usize) -> Maps {
    if (maps.height(), maps.width()) == (height, width) {
        return maps;
    }
    interpolate_bilinear(&maps, height, width, Coordinates::HalfPixel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_voc_and_coco_keep_their_size_and_larger_ones_their_shape() {
        for (height, width) in [(500, 500), (375, 500), (640, 640), (480, 640), (1, 409_600)] {
            assert_eq!(size_within(height, width, MAX_PIXELS), (height, width));
        }
        // 739 x 554 = 409,406, and 740 x 555 = 410,700.
        assert_eq!(size_within(3000, 4000, MAX_PIXELS), (554, 739));
        assert_eq!(size_within(4000, 3000, MAX_PIXELS), (739, 554));
        assert_eq!(size_within(641, 640, MAX_PIXELS), (640, 639));
        assert_eq!(size_within(1, 9000, 100), (1, 100));
        assert_eq!(size_within(5, 7, 1), (1, 1));
    }

    #[test]
    fn no_size_exceeds_the_limit_and_one_more_pixel_would() {
        for (height, width) in [(48, 48), (97, 31), (30, 1000), (3000, 4000), (4001, 17)] {
            for limit in [40, 333, 1000, 2303] {
                let (rows, columns) = size_within(height, width, limit);
                assert!(rows * columns <= limit, "{height} x {width} within {limit}: {rows} x {columns}");
                let (side, longest) = (rows.max(columns), height.max(width));
                if side < longest {
                    let (rows, columns) = scaled_size(height, width, (side + 1) as f64 / longest as f64);
                    assert!(rows * columns > limit, "{height} x {width} within {limit}: {rows} x {columns} fits");
                }
            }
        }
    }

    #[test]
    fn what_fits_is_handed_on() {
        let image = Rgb::new(4, 6, (0..72).collect());
        assert!(matches!(shrunk(&image, 24), Cow::Borrowed(_)));
        let small = shrunk(&image, 23);
        assert_eq!((small.height(), small.width()), (3, 5));
        let maps = Maps::new(1, 1, 2, vec![0.0, 1.0]);
        assert_eq!(enlarged(maps.clone(), 1, 2), maps);
        assert_eq!(enlarged(maps, 1, 4).data(), [0.0, 0.25, 0.75, 1.0]);
    }
}
