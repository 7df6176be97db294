//! Encoded images in and out: JPEG and PNG to pixels, masks as palette PNG whose indices stay untouched.
//! Ignores EXIF orientation, colour profiles and transparency, as the reference programs do.

use std::io::Cursor;

use png::{BitDepth, ColorType, DeflateCompression, Filter, Transformations};

use super::palette::voc_palette;
use super::{LabelMap, Rgb, jpeg};

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decodes a JPEG (grey or colour) or a PNG (palette, grey, RGB, with or without alpha, up to 16 bits) to 8-bit RGB.
///
/// Alpha is dropped, not blended; 16-bit samples keep their high byte.
///
/// # Errors
/// A sentence about the bytes: another format, damaged, cut short, or CMYK.
pub fn decode_rgb(bytes: &[u8]) -> Result<Rgb, String> {
    if bytes.starts_with(jpeg::SIGNATURE) {
        jpeg::decode(bytes)
    } else if bytes.starts_with(PNG_SIGNATURE) {
        decode_png(bytes)
    } else {
        Err(neither(bytes))
    }
}

/// Returns (height, width) of a JPEG or PNG from its headers alone.
///
/// # Errors
/// A sentence about the bytes, if they are neither or the headers are damaged.
pub fn image_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let (height, width) = if bytes.starts_with(jpeg::SIGNATURE) {
        jpeg::size(bytes)?
    } else if bytes.starts_with(PNG_SIGNATURE) {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        let info = decoder.read_header_info().map_err(|error| damaged_png(&error))?;
        (info.height as usize, info.width as usize)
    } else {
        return Err(neither(bytes));
    };
    if height == 0 || width == 0 {
        return Err(format!("this image has no pixels: its size is {width} x {height}"));
    }
    Ok((height, width))
}

/// Decodes a mask: the indices of a palette PNG (1, 2, 4 or 8 bits) or the values of an 8-bit grey PNG, untouched.
///
/// # Errors
/// A sentence about the bytes: no PNG, damaged, or colours where indices are due.
pub fn decode_mask(bytes: &[u8]) -> Result<LabelMap, String> {
    if !bytes.starts_with(PNG_SIGNATURE) {
        return Err("a mask must be a palette or 8-bit grey PNG, and this file is no PNG".to_owned());
    }
    let (image, info) = read_png(bytes, Transformations::IDENTITY)?;
    let (height, width) = (info.height as usize, info.width as usize);
    let depth = match (info.color_type, info.bit_depth) {
        (ColorType::Indexed, depth) => depth as usize,
        (ColorType::Grayscale, BitDepth::Eight) => 8,
        (color, depth) => {
            return Err(format!(
                "a mask must be a palette or 8-bit grey PNG, and this one is {}-bit {}; save the class indices instead",
                depth as usize,
                color_name(color)
            ));
        }
    };
    if depth == 8 {
        return Ok(LabelMap::new(height, width, image));
    }
    let per_byte = 8 / depth;
    let limit = (1u8 << depth) - 1;
    let mut data = Vec::with_capacity(height * width);
    for row in image.chunks_exact(info.line_size) {
        data.extend((0..width).map(|x| (row[x / per_byte] >> (8 - depth * (x % per_byte + 1))) & limit));
    }
    Ok(LabelMap::new(height, width, data))
}

/// Encodes a mask as an 8-bit palette PNG with the VOC colours; the same mask always gives the same bytes.
///
/// # Panics
/// If the mask has no pixels, which PNG cannot hold.
pub fn encode_mask(mask: &LabelMap) -> Vec<u8> {
    const PALETTE: [u8; 768] = voc_palette();
    write_png(mask.height(), mask.width(), mask.data(), |encoder| {
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(PALETTE.as_slice());
        // Masks are flat: rows mostly repeat the row above, so that hardly anything but zeros is left. For these, fdeflate takes a
        // twentieth of the time that usual levels take, and gives files of 4 to 5 kB where those give 2 to 3.
        encoder.set_filter(Filter::Up);
        encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    })
}

/// Encodes an image as an 8-bit RGB PNG.
///
/// # Panics
/// If the image has no pixels, which PNG cannot hold.
pub fn encode_rgb(image: &Rgb) -> Vec<u8> {
    write_png(image.height(), image.width(), image.data(), |encoder| {
        encoder.set_color(ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
    })
}

fn decode_png(bytes: &[u8]) -> Result<Rgb, String> {
    let (image, info) = read_png(bytes, Transformations::EXPAND | Transformations::STRIP_16)?;
    let (height, width) = (info.height as usize, info.width as usize);
    let data = match info.color_type {
        ColorType::Rgb => image,
        ColorType::Rgba => image.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        ColorType::Grayscale => image.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => image.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        ColorType::Indexed => return Err("this palette PNG could not be expanded to colours".to_owned()),
    };
    Ok(Rgb::new(height, width, data))
}

fn read_png(bytes: &[u8], transformations: Transformations) -> Result<(Vec<u8>, png::OutputInfo), String> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(transformations);
    let mut reader = decoder.read_info().map_err(|error| damaged_png(&error))?;
    let size = reader.output_buffer_size().ok_or("this PNG is too large for memory")?;
    let mut image = vec![0; size];
    let info = reader.next_frame(&mut image).map_err(|error| damaged_png(&error))?;
    image.truncate(info.buffer_size());
    Ok((image, info))
}

fn write_png(
    height: usize,
    width: usize,
    data: &[u8],
    settings: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
) -> Vec<u8> {
    let side = |n: usize| u32::try_from(n).expect("a side of a decoded image fits 32 bits");
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(width), side(height));
    encoder.set_depth(BitDepth::Eight);
    settings(&mut encoder);
    let mut writer = encoder.write_header().expect("the image has pixels and memory takes the header");
    writer.write_image_data(data).expect("the grid checked the number of bytes");
    writer.finish().expect("memory takes the last chunk");
    bytes
}

fn color_name(color: ColorType) -> &'static str {
    match color {
        ColorType::Grayscale => "grey",
        ColorType::Rgb => "RGB",
        ColorType::Indexed => "palette",
        ColorType::GrayscaleAlpha => "grey with alpha",
        ColorType::Rgba => "RGB with alpha",
    }
}

fn damaged_png(error: &png::DecodingError) -> String {
    format!("this PNG is damaged: {error}")
}

fn neither(bytes: &[u8]) -> String {
    match bytes {
        [] => "this file is empty where a JPEG or PNG is due".to_owned(),
        _ => "this file is neither JPEG nor PNG".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(height: usize, width: usize) -> Rgb {
        let data = (0..height * width * 3).map(|i| ((i * i) % 251) as u8).collect();
        Rgb::new(height, width, data)
    }

    fn jpeg(width: u16, height: u16, color: jpeg_encoder::ColorType, data: &[u8], progressive: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
        encoder.set_progressive(progressive);
        encoder.encode(data, width, height, color).expect("encodes");
        bytes
    }

    fn raw_png(color: ColorType, depth: BitDepth, width: usize, height: usize, data: &[u8]) -> Vec<u8> {
        write_png(height, width, data, |encoder| {
            encoder.set_color(color);
            encoder.set_depth(depth);
            if color == ColorType::Indexed {
                encoder.set_palette(voc_palette().to_vec());
            }
        })
    }

    #[test]
    fn masks_round_trip_with_their_colours() {
        let mask = LabelMap::new(3, 5, vec![0, 1, 20, 255, 7, 0, 0, 0, 0, 0, 255, 255, 128, 3, 2]);
        let bytes = encode_mask(&mask);
        assert_eq!(decode_mask(&bytes).as_ref(), Ok(&mask));
        assert_eq!(bytes, encode_mask(&mask));
        let colours = decode_rgb(&bytes).expect("a palette PNG is an image too");
        assert_eq!(colours.pixel(0, 3), [224, 224, 192]);
        assert_eq!(image_size(&bytes), Ok((3, 5)));
    }

    #[test]
    fn packed_palettes_are_unpacked_and_grey_is_taken_as_it_is() {
        // Five pixels of two bits: 0 1 2 3 | 2, and a row of 3 2 1 0 | 1.
        let bytes =
            raw_png(ColorType::Indexed, BitDepth::Two, 5, 2, &[0b0001_1011, 0b1000_0000, 0b1110_0100, 0b0100_0000]);
        assert_eq!(decode_mask(&bytes).map(|mask| mask.data().to_vec()), Ok(vec![0, 1, 2, 3, 2, 3, 2, 1, 0, 1]));
        let bytes = raw_png(ColorType::Indexed, BitDepth::One, 3, 1, &[0b1010_0000]);
        assert_eq!(decode_mask(&bytes).map(|mask| mask.data().to_vec()), Ok(vec![1, 0, 1]));
        let bytes = raw_png(ColorType::Grayscale, BitDepth::Eight, 2, 1, &[255, 20]);
        assert_eq!(decode_mask(&bytes).map(|mask| mask.data().to_vec()), Ok(vec![255, 20]));
    }

    #[test]
    fn colours_are_no_mask() {
        let bytes = encode_rgb(&noise(4, 4));
        let error = decode_mask(&bytes).expect_err("RGB");
        assert_eq!(
            error,
            "a mask must be a palette or 8-bit grey PNG, and this one is 8-bit RGB; save the class indices instead"
        );
        assert!(decode_mask(b"GIF89a").is_err());
    }

    #[test]
    fn png_of_every_kind_becomes_rgb() {
        let image = noise(7, 9);
        assert_eq!(decode_rgb(&encode_rgb(&image)), Ok(image));
        let grey = raw_png(ColorType::Grayscale, BitDepth::Eight, 2, 1, &[9, 200]);
        assert_eq!(decode_rgb(&grey).map(|rgb| rgb.data().to_vec()), Ok(vec![9, 9, 9, 200, 200, 200]));
        let with_alpha = raw_png(ColorType::Rgba, BitDepth::Eight, 1, 1, &[1, 2, 3, 0]);
        assert_eq!(decode_rgb(&with_alpha).map(|rgb| rgb.data().to_vec()), Ok(vec![1, 2, 3]));
        let grey_alpha = raw_png(ColorType::GrayscaleAlpha, BitDepth::Eight, 1, 1, &[5, 0]);
        assert_eq!(decode_rgb(&grey_alpha).map(|rgb| rgb.data().to_vec()), Ok(vec![5, 5, 5]));
        let deep = raw_png(ColorType::Rgb, BitDepth::Sixteen, 1, 1, &[1, 99, 2, 99, 3, 99]);
        assert_eq!(decode_rgb(&deep).map(|rgb| rgb.data().to_vec()), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn jpeg_grey_and_colour() {
        let smooth: Vec<u8> = (0..24 * 16).flat_map(|i| [(i % 24 * 10) as u8, (i / 24 * 15) as u8, 90]).collect();
        for progressive in [false, true] {
            let bytes = jpeg(24, 16, jpeg_encoder::ColorType::Rgb, &smooth, progressive);
            assert_eq!(image_size(&bytes), Ok((16, 24)));
            let read = decode_rgb(&bytes).expect("readable");
            let worst = read.data().iter().zip(&smooth).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(24), "JPEG of quality 95 keeps a smooth image: off by {worst:?}");
        }
        let grey: Vec<u8> = (0..24 * 16).map(|i| (i / 24 * 15) as u8).collect();
        let read = decode_rgb(&jpeg(24, 16, jpeg_encoder::ColorType::Luma, &grey, false)).expect("readable");
        let pixel = read.pixel(10, 3);
        assert!(pixel.iter().all(|&value| value == pixel[0] && value.abs_diff(150) < 8), "{pixel:?}");
        let cmyk = jpeg(8, 8, jpeg_encoder::ColorType::Cmyk, &[7; 256], false);
        assert!(decode_rgb(&cmyk).expect_err("CMYK").contains("convert it to RGB"));
    }

    #[test]
    fn every_cut_of_a_file_is_an_error() {
        let image = noise(24, 40);
        for progressive in [false, true] {
            let bytes = jpeg(40, 24, jpeg_encoder::ColorType::Rgb, image.data(), progressive);
            for length in 0..bytes.len() {
                assert!(decode_rgb(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
            }
        }
        let bytes = encode_rgb(&image);
        for length in 0..bytes.len() - 12 {
            // The last 12 bytes are the empty IEND chunk, without which every pixel is still there.
            assert!(decode_rgb(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}
