//! AMN against the reference program.

use burn::tensor::Device;
use orandflow::image::codec;
use orandflow::image::resize::Filter;
use orandflow::nn::amn::{Amn, Config, maps};
use orandflow::nn::cam::Views;
use orandflow::nn::{device, params};

use crate::reference::{arrays, keys, relative_l2, shared, weights};

fn cpu() -> Device {
    device::named("cpu").expect("always there")
}

#[test]
fn maps_of_a_photograph_are_those_of_the_reference() {
    let (Some(arrays), Some(tensors)) = (arrays("resnet50_amn"), weights("resnet50_amn")) else { return };
    let Some(folder) = shared("data/voc_mini") else { return };
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the file can be read");
    let image = codec::decode_rgb(&read("JPEGImages/2011_000006.jpg")).expect("a photograph");
    let seed = codec::decode_mask(&read("SegmentationClass/2011_000006.png")).expect("a mask");
    let network = params::load_strict(Amn::new(&Config::resnet50(), 20, 0, &cpu()), &tensors).expect("the names match");
    let views = Views { scales: vec![1.0, 0.5, 1.5, 2.0], flip: true, filter: Filter::PillowBicubic };
    let found = maps(&network, 20, &image, &[8, 14, 17], &seed, &views, &cpu());
    // Both sum in f32, in different orders.
    let error = relative_l2(found.cam.data(), &arrays["2011_000006_cam"].data);
    assert!(error < 1e-4, "stride 4: {error:e}");
    let high = &found.high_res;
    let every_fourth: Vec<f32> = (0..high.channels())
        .flat_map(|channel| (0..high.height()).step_by(4).map(move |row| (channel, row)))
        .flat_map(|(channel, row)| (0..high.width()).step_by(4).map(move |column| (channel, row, column)))
        .map(|(channel, row, column)| high.channel(channel)[row * high.width() + column])
        .collect();
    // These are stored as f16: half a unit in the last place is 2.4e-4 of a value, uniformly spread 1.4e-4.
    let error = relative_l2(&every_fourth, &arrays["2011_000006_high"].data);
    assert!(error < 3e-4, "full size: {error:e}");
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    let Some(mut keys) = keys("amn") else { return };
    let aliases = ["stage", "backbone.", "newly_added."];
    keys.retain(|name, _| !aliases.iter().any(|alias| name.starts_with(alias)));
    assert_eq!(keys, params::shapes(&Amn::new(&Config::resnet50(), 20, 0, &cpu())));
}
