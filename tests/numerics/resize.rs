//! Resizing against arrays that Pillow, torch and OpenCV computed (`tests/fixtures/resize.py`).

use orandflow::image::resize::{
    Coordinates, Filter, Nearest, interpolate_bicubic, interpolate_bilinear, nearest_maps, nearest_mask, opencv_linear,
    resize_rgb, scaled,
};
use orandflow::image::{LabelMap, Maps, Rgb};

use crate::fixture::{Fixture, worst};

const FIXTURE: &[u8] = include_bytes!("../fixtures/resize.safetensors");

struct Case {
    fixture: Fixture<'static>,
    number: usize,
}

impl Case {
    fn rgb(&self, name: &str) -> Rgb {
        self.fixture.rgb(&format!("{}/{name}", self.number))
    }

    fn mask(&self, name: &str) -> LabelMap {
        self.fixture.mask(&format!("{}/{name}", self.number))
    }

    fn maps(&self, name: &str) -> Maps {
        self.fixture.maps(&format!("{}/{name}", self.number))
    }
}

fn cases() -> impl Iterator<Item = Case> {
    (0..6).map(|number| Case { fixture: Fixture::new(FIXTURE), number })
}

#[track_caller]
fn assert_near(got: &Maps, want: &Maps, tolerance: f32) {
    let worst = worst(got, want);
    assert!(worst <= tolerance, "off by {worst}");
}

#[test]
fn pillow_filters_are_equal_byte_for_byte() {
    for case in cases() {
        let image = case.rgb("rgb");
        for (name, filter) in [("pillow_bilinear", Filter::PillowBilinear), ("pillow_bicubic", Filter::PillowBicubic)] {
            let want = case.rgb(name);
            assert_eq!(resize_rgb(&image, want.height(), want.width(), filter), want, "{name} of case {}", case.number);
        }
    }
}

#[test]
fn nearest_neighbours_are_equal() {
    for case in cases() {
        let mask = case.mask("mask");
        for (name, nearest) in [("pillow_nearest", Nearest::Pillow), ("opencv_nearest", Nearest::OpenCv)] {
            let want = case.mask(name);
            assert_eq!(
                nearest_mask(&mask, want.height(), want.width(), nearest),
                want,
                "{name} of case {}",
                case.number
            );
        }
        let want = case.maps("pillow_nearest_f");
        assert_eq!(nearest_maps(&case.maps("maps"), want.height(), want.width()), want);
    }
    let fixture = Fixture::new(FIXTURE);
    for width in [375, 641, 96, 1100] {
        let want = fixture.mask(&format!("wide/{width}"));
        assert_eq!(nearest_mask(&fixture.mask("wide"), 1, width, Nearest::Pillow), want, "500 to {width}");
    }
}

#[test]
fn torch_interpolation_agrees() {
    // f32 sums in another order than torch's, of values up to about 4.
    const TOLERANCE: f32 = 1e-5;
    for case in cases() {
        let maps = case.maps("maps");
        let want = case.maps("bilinear");
        let (height, width) = (want.height(), want.width());
        assert_near(&interpolate_bilinear(&maps, height, width, Coordinates::HalfPixel), &want, TOLERANCE);
        let got = interpolate_bilinear(&maps, height, width, Coordinates::AlignCorners);
        assert_near(&got, &case.maps("bilinear_corners"), TOLERANCE);
        let got = interpolate_bicubic(&maps, height, width, Coordinates::HalfPixel);
        assert_near(&got, &case.maps("bicubic"), TOLERANCE);

        let coordinates = Coordinates::ScaleFactor { vertical: 1.7, horizontal: 0.6 };
        let (taller, narrower) = (scaled(maps.height(), 1.7), scaled(maps.width(), 0.6));
        let got = interpolate_bilinear(&maps, taller, narrower, coordinates);
        assert_near(&got, &case.maps("bilinear_factor"), TOLERANCE);
        if maps.height() < 8 {
            let got = interpolate_bilinear(&maps, maps.height() * 4, maps.width() * 4, Coordinates::scale_factor(4.0));
            assert_near(&got, &case.maps("bilinear_times4"), TOLERANCE);
        }
        let factor = |from: usize, to: usize| (to as f64 + 0.1) / from as f64;
        let coordinates = Coordinates::ScaleFactor {
            vertical: factor(maps.height(), height),
            horizontal: factor(maps.width(), width),
        };
        let got = interpolate_bicubic(&maps, height, width, coordinates);
        assert_near(&got, &case.maps("bicubic_factor"), TOLERANCE);
    }
}

#[test]
fn opencv_linear_agrees() {
    for case in cases() {
        let want = case.maps("opencv_linear");
        let got = opencv_linear(&case.rgb("rgb"), want.height(), want.width());
        // Both round an f64 sum to f32; the order of the two passes differs, which may move the last bit of values up to 255.
        assert_near(&got, &want, 2e-5);
    }
}
