//! Colour jitter against Pillow, pixel by pixel.

use orandflow::data::color::{adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation};
use orandflow::image::Rgb;

#[derive(serde::Deserialize)]
struct Reference {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    operation: String,
    value: f64,
    pixels: Vec<u8>,
}

/// The numbers come from `tests/fixtures/color_jitter.py`. 8-bit arithmetic leaves no room for a tolerance.
#[test]
fn each_operation_gives_pillows_pixels() {
    let reference: Reference =
        serde_json::from_str(include_str!("../fixtures/color_jitter.json")).expect("the fixture is JSON");
    for case in &reference.cases {
        let mut image = Rgb::new(reference.height, reference.width, reference.pixels.clone());
        match case.operation.as_str() {
            "brightness" => adjust_brightness(&mut image, case.value as f32),
            "contrast" => adjust_contrast(&mut image, case.value as f32),
            "saturation" => adjust_saturation(&mut image, case.value as f32),
            "hue" => adjust_hue(&mut image, case.value),
            other => panic!("unknown operation {other}"),
        }
        let wrong = image.data().iter().zip(&case.pixels).filter(|(got, want)| got != want).count();
        assert_eq!(wrong, 0, "{} {}: {wrong} of {} values differ", case.operation, case.value, case.pixels.len());
    }
}
