//! RandAugment against timm on Pillow images: every operation, at several strengths and both signs.

use orandflow::data::rand_augment::Operation;

use crate::fixture::Fixture;

/// The arrays come from `tests/fixtures/rand_augment.py`. Images of 8 bits leave no room for a tolerance.
#[test]
fn operations_are_those_of_timm_to_the_last_bit() {
    let fixture = Fixture::new(include_bytes!("../fixtures/rand_augment.safetensors"));
    let image = fixture.rgb("image");
    let mut wrong = Vec::new();
    for operation in Operation::ALL {
        for (index, strength) in [0.35, 0.9, 0.97].into_iter().enumerate() {
            for (word, sign) in [("plus", 1.0), ("minus", -1.0)] {
                let name = format!("{operation:?}.{index}.{word}");
                let (expected, mut varied) = (fixture.rgb(&name), image.clone());
                operation.apply(&mut varied, strength, sign);
                let differences = varied.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
                let (count, most) =
                    differences.fold((0, 0), |(count, most), by| (count + u32::from(by > 0), most.max(by)));
                if count > 0 {
                    wrong.push(format!("{name}: {count} values differ, by up to {most}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
