//! The stages that train and run ORANDNet, IRN and the segmentation network, on a dozen drawn images, without the engine.
#![cfg(feature = "nn")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use orandflow::artifact::images::{self, ImageEntry};
use orandflow::artifact::maps::{self, ImageMaps, PackedMaps, stride4};
use orandflow::artifact::{masks, weights};
use orandflow::data::synthetic::{Recipe, class_names};
use orandflow::digest::Digest;
use orandflow::image::resize::{
    Coordinates, Filter, Nearest, interpolate_bilinear, nearest_mask, resize_rgb, shrink_maps,
};
use orandflow::image::{LabelMap, Maps, codec};
use orandflow::kind::Kind;
use orandflow::stage::{Access, Checkpoints, Ctx, Inputs, Output, ParseError, Report, Shared, StageError, Work};
use orandflow::stages::catalog;
use orandflow::store::manifest::{Entry, Lazy, Manifest, bucket_of, shard_name};
use serde_json::{Value, json};

const SIZE: usize = 48;
const CLASSES: usize = 2;
const BUCKETS: u32 = 2;

/// Blobs in memory, and what stages reported.
#[derive(Default)]
struct Shop {
    blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    reports: Mutex<Vec<Report>>,
    cancelled: AtomicBool,
    /// The last checkpoint.
    kept: Mutex<Option<(u64, Vec<u8>)>>,
    /// The training is stopped when a report says that so many steps are done; 0 for never.
    stop_at: AtomicU64,
    /// Whether each shard is on its own, as in a process that makes no other.
    apart: AtomicBool,
    /// The blob that is looked after: how often it was read. It is damaged after the first time, unless shards are on their own.
    watched: Mutex<Option<(Digest, usize)>>,
}

impl Checkpoints for Shop {
    fn newest(&self) -> Option<(u64, Vec<u8>)> {
        self.kept.lock().expect("not poisoned").clone()
    }

    fn keep(&self, number: u64, bytes: Vec<u8>) {
        *self.kept.lock().expect("not poisoned") = Some((number, bytes));
    }

    fn wanted(&self) -> bool {
        false
    }
}

impl Access for Shop {
    fn entry(&self, entry: &Entry) -> Result<Vec<u8>, StageError> {
        self.content(entry.digest)
    }

    fn content(&self, digest: Digest) -> Result<Vec<u8>, StageError> {
        if let Some((_, reads)) = self.watched.lock().expect("not poisoned").as_mut().filter(|(it, _)| *it == digest) {
            *reads += 1;
            if *reads > 1 && !self.apart.load(Ordering::Relaxed) {
                return Err(StageError::data("it is damaged by now"));
            }
        }
        Ok(self.blobs.lock().expect("not poisoned")[&digest].clone())
    }
}

impl Shop {
    fn put(&self, bytes: Vec<u8>) -> (Digest, u64) {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.blobs.lock().expect("not poisoned").insert(digest, bytes);
        (digest, size)
    }

    /// Spreads items over shards.
    fn per_image<T>(&self, kind: Kind, items: Vec<(String, T)>, encode: impl Fn(Vec<T>) -> Vec<u8>) -> Arc<Manifest> {
        let mut shards: BTreeMap<u32, (Vec<String>, Vec<T>)> = BTreeMap::new();
        for (id, item) in items {
            let shard = shards.entry(bucket_of(&id, BUCKETS)).or_default();
            shard.0.push(id);
            shard.1.push(item);
        }
        let entries = shards
            .into_iter()
            .map(|(bucket, (ids, items))| {
                let (digest, size) = self.put(encode(items));
                (shard_name(bucket), Entry { digest, size, ids, content: Vec::new() })
            })
            .collect();
        let meta = json!({ "classes": class_names(CLASSES) });
        Arc::new(Manifest { kind, buckets: Some(BUCKETS), meta, entries })
    }

    /// Runs a stage as the engine would.
    fn run(
        &self,
        kind: &str,
        params: &str,
        inputs: &[(&'static str, &Arc<Manifest>)],
    ) -> Result<Arc<Manifest>, StageError> {
        self.run_seeded(kind, params, inputs, 0)
    }

    fn run_seeded(
        &self,
        kind: &str,
        params: &str,
        inputs: &[(&'static str, &Arc<Manifest>)],
        seed: u64,
    ) -> Result<Arc<Manifest>, StageError> {
        let stage = catalog().iter().find(|stage| stage.spec().name == kind).expect("this kind is in the catalogue");
        let table = toml::de::DeTable::parse(params).expect("the parameters are TOML");
        let run = stage.parse(table).map_err(|error| match error {
            ParseError::Check(error) => error,
            ParseError::Toml(error) => panic!("{error}"),
        })?;
        let ports = inputs.iter().map(|&(port, manifest)| (port, Arc::new(Lazy::from(Manifest::clone(manifest)))));
        let inputs = Inputs { ports: ports.collect() };
        let meta = run.meta(&inputs)?;
        let report = |report| {
            let stop_at = self.stop_at.load(Ordering::Relaxed);
            if let Report::Progress { done, unit: "steps", .. } = report
                && stop_at > 0
                && done >= stop_at
            {
                self.cancelled.store(true, Ordering::Relaxed);
            }
            self.reports.lock().expect("not poisoned").push(report);
        };
        let shared: Vec<Shared> = (0..BUCKETS).map(|_| Shared::default()).collect();
        let ctx = |shard, shared| Ctx {
            inputs: &inputs,
            shard,
            items: &[],
            files: &[],
            seed,
            device: "cpu",
            scratch: std::path::Path::new("/nonexistent"),
            access: self,
            checkpoints: self,
            shared,
            report: &report,
            cancelled: &self.cancelled,
        };
        let entry = |bytes, ids| {
            let (digest, size) = self.put(bytes);
            Entry { digest, size, ids, content: Vec::new() }
        };
        let spec = stage.spec();
        if spec.work == Work::Whole {
            let output = run.run(&ctx(None, &shared[0]))?;
            let entries = output.parts.into_iter().map(|(name, bytes)| (name, entry(bytes, Vec::new()))).collect();
            return Ok(Arc::new(Manifest { kind: spec.output, buckets: None, meta: output.meta, entries }));
        }
        let mut entries = BTreeMap::new();
        for bucket in 0..BUCKETS {
            let own = if self.apart.load(Ordering::Relaxed) { bucket as usize } else { 0 };
            let mut output = run.run(&ctx(Some((bucket, BUCKETS)), &shared[own]))?;
            let bytes = output.parts.remove(Output::SHARD).expect("a shard");
            entries.insert(shard_name(bucket), entry(bytes, output.ids));
        }
        Ok(Arc::new(Manifest { kind: spec.output, buckets: Some(BUCKETS), meta, entries }))
    }

    fn metric(&self, wanted: &str) -> Vec<f64> {
        let reports = self.reports.lock().expect("not poisoned");
        let values = reports.iter().filter_map(|report| match report {
            Report::Metric { name, value, .. } if *name == wanted => Some(*value),
            _ => None,
        });
        values.collect()
    }

    fn maps(&self, manifest: &Manifest) -> Vec<ImageMaps> {
        let shards = manifest.shards().map(|(_, entry)| self.entry(entry).expect("there"));
        shards.flat_map(|bytes| maps::decode(&bytes).expect("readable")).collect()
    }

    fn masks(&self, manifest: &Manifest) -> Vec<(String, LabelMap)> {
        let shards = manifest.shards().map(|(_, entry)| self.entry(entry).expect("there"));
        shards.flat_map(|bytes| masks::decode(&bytes).expect("readable")).collect()
    }
}

fn packed(maps: Vec<ImageMaps>) -> Vec<u8> {
    maps::encode(&maps.iter().map(PackedMaps::new).collect::<Vec<_>>())
}

/// A dozen images with their masks, and two sets of maps: a large one around each object and a small one within it.
struct Set {
    images: Arc<Manifest>,
    masks: Arc<Manifest>,
    or: Arc<Manifest>,
    and: Arc<Manifest>,
}

fn set(shop: &Shop) -> Set {
    let recipe = Recipe { size: SIZE, classes: CLASSES, objects: 2, seed: 0, split: "train".into() };
    let drawn: Vec<(String, _, LabelMap)> = (0..12)
        .map(|index| {
            let (image, mask) = recipe.draw(index);
            (format!("train_{index:05}"), image, mask)
        })
        .collect();
    let entries = drawn.iter().map(|(id, image, mask)| {
        let labels = classes(mask);
        let (image, _) = shop.put(codec::encode_rgb(image));
        (id.clone(), ImageEntry { id: id.clone(), image, height: SIZE, width: SIZE, labels, mask: None })
    });
    let images = shop.per_image(Kind::ImageSet, entries.collect(), |entries| images::encode(&entries));
    let pairs = drawn.iter().map(|(id, _, mask)| (id.clone(), (id.clone(), mask.clone())));
    let masks = shop.per_image(Kind::MaskSet, pairs.collect(), |masks| masks::encode(&masks));
    let maps = |reach: isize| {
        let maps = drawn.iter().map(|(id, _, mask)| (id.clone(), spread(id, mask, reach)));
        shop.per_image(Kind::CamSet, maps.collect(), packed)
    };
    let (or, and) = (maps(4), maps(-1));
    Set { images, masks, or, and }
}

fn classes(mask: &LabelMap) -> Vec<u8> {
    (0..CLASSES as u8).filter(|class| mask.data().contains(&(class + 1))).collect()
}

/// Maps that are high where a class's mask is, widened (or narrowed) by some pixels.
fn spread(id: &str, mask: &LabelMap, reach: isize) -> ImageMaps {
    let classes = classes(mask);
    let at = |row: isize, column: isize| {
        let clamp = |place: isize| place.clamp(0, SIZE as isize - 1) as usize;
        mask.label(clamp(row), clamp(column))
    };
    let sizes = |size: usize, step: isize| {
        let mut data = Vec::new();
        for class in &classes {
            for place in 0..(size * size) as isize {
                let (row, column) = (place / size as isize * step, place % size as isize * step);
                let around =
                    (-reach.abs()..=reach.abs()).flat_map(|y| (-reach.abs()..=reach.abs()).map(move |x| (y, x)));
                let mut inside = around.map(|(y, x)| at(row + y, column + x) == class + 1);
                let high = if reach > 0 { inside.any(|inside| inside) } else { inside.all(|inside| inside) };
                data.push(if high { 0.9 } else { 0.05 });
            }
        }
        Maps::new(classes.len(), size, size, data)
    };
    let (high_res, cam) = (sizes(SIZE, 1), sizes(stride4(SIZE), 4));
    ImageMaps { id: id.to_owned(), classes: classes.clone(), cam: Some(cam), high_res }
}

const ORANDNET: &str = "preset = 'vgg_tiny'\nloss = 'with_background'\nlr = 0.05\nsteps = 40\nbatch = 2";
const IRN: &str = "preset = 'resnet_tiny'\nradius = 4\ncrop = 48\nbatch = 4\nepochs = 10\nlr = 0.005";
const SEGMENT: &str =
    "preset = 'resnet38_tiny'\ncrop = 32\nbatch = 4\nepochs = 10\nlr = 0.01\nwidths = [8, 8, 16, 16, 16, 16, 32, 16]";

#[test]
fn orandnet_learns_repeats_itself_and_refines() {
    let shop = Shop::default();
    let set = set(&shop);
    let inputs = [("input", &set.or), ("target", &set.and)];
    let weights = shop.run("orandnet.train", ORANDNET, &inputs).expect("trains");
    let losses = shop.metric("loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert_eq!(weights, shop.run("orandnet.train", ORANDNET, &inputs).expect("trains"), "the same seed");
    assert_ne!(weights, shop.run_seeded("orandnet.train", ORANDNET, &inputs, 1).expect("trains"), "another seed");

    let refined = shop.run("orandnet.refine", "", &[("input", &set.or), ("weights", &weights)]).expect("refines");
    let (before, after) = (shop.maps(&set.or), shop.maps(&refined));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.id, &before.classes), (&after.id, &after.classes));
        assert_eq!((after.high_res.height(), after.high_res.width()), (SIZE, SIZE));
        assert_eq!(after.cam.as_ref().map(Maps::height), Some(stride4(SIZE)));
        assert!(after.high_res.data().iter().all(|value| (0.0..=1.0).contains(value)));
    }

    // Trained weights are a start for more training.
    let more = [inputs[0], inputs[1], ("init", &weights)];
    shop.run("orandnet.train", "preset = 'vgg_tiny'\nsteps = 1", &more).expect("goes on");
    let error = shop.run("orandnet.train", "preset = 'vgg_tiny'\nsteps = 1\nfc_width = 32", &more).expect_err("misfit");
    assert!(error.to_string().contains("`fc6.0.weight"), "{error}");
}

#[test]
fn irn_learns_and_walks() {
    let shop = Shop::default();
    let set = set(&shop);
    let inputs = [("images", &set.images), ("labels", &set.masks)];
    let weights = shop.run("irn.train", IRN, &inputs).expect("trains");
    let losses = shop.metric("loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert_eq!(weights, shop.run("irn.train", IRN, &inputs).expect("trains"), "the same seed");

    let scored = shop
        .run("irn.propagate", "pad_to = 16", &[("images", &set.images), ("cams", &set.or), ("weights", &weights)])
        .expect("walks");
    for image in shop.maps(&scored) {
        assert_eq!(image.cam, None);
        assert_eq!((image.high_res.height(), image.high_res.width()), (SIZE, SIZE));
        let largest = image.high_res.data().iter().copied().fold(0.0, f32::max);
        assert_eq!(largest, 1.0, "image `{}`: scores are divided by their maximum", image.id);
    }

    // The backbone of these weights is a start for another IRN.
    let more = [inputs[0], inputs[1], ("init", &weights)];
    let again = shop.run("irn.train", "radius = 4\ncrop = 48\nbatch = 4\nepochs = 1", &more).expect("trains");
    let tensors = |manifest: &Manifest| {
        weights::decode(&shop.entry(&manifest.entries[weights::PART]).expect("there")).expect("readable")
    };
    let (first, second) = (tensors(&weights), tensors(&again));
    let name = "resnet50.layer1.0.conv1.weight";
    assert_eq!(first[name], second[name], "the backbone is not trained");
    assert_ne!(first["fc_edge6.weight"], second["fc_edge6.weight"]);
}

#[test]
fn the_segmenter_learns_from_small_to_large_and_predicts() {
    let shop = Shop::default();
    let set = set(&shop);
    let inputs = [("images", &set.images), ("masks", &set.masks)];
    let weights = shop.run("segment.train", SEGMENT, &inputs).expect("trains");
    let losses = shop.metric("loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert_eq!(weights, shop.run("segment.train", SEGMENT, &inputs).expect("trains"), "the same seed");
    let without = format!("{SEGMENT}\nscale_schedule = []");
    assert_ne!(weights, shop.run("segment.train", &without, &inputs).expect("trains"), "the schedule matters");

    let inputs = [("images", &set.images), ("weights", &weights)];
    for params in ["scales = [1.0]", "scales = [0.5, 1.0]\nmirror = true\nmerge = 'mean'\ncrf = true"] {
        let masks = shop.run("segment.predict", params, &inputs).expect("segments");
        let masks = shop.masks(&masks);
        assert_eq!(masks.len(), 12);
        for (_, mask) in masks {
            assert_eq!((mask.height(), mask.width()), (SIZE, SIZE));
            assert!(mask.data().iter().all(|&label| usize::from(label) <= CLASSES));
        }
    }
}

const AMN: &str = "preset = 'resnet_tiny'\ncrop = 48\nbatch = 4\nepochs = 8";
const MCTFORMER: &str =
    "preset = 'tiny'\ncrop = 48\nwidth = 32\ndepth = 2\nbatch = 4\nepochs = 15\nlr = 0.003\narea = [0.9, 1.0]";

#[test]
fn amn_learns_from_seeds_and_makes_maps() {
    let shop = Shop::default();
    let set = set(&shop);
    let inputs = [("images", &set.images), ("seeds", &set.masks)];
    let weights = shop.run("amn.train", AMN, &inputs).expect("trains");
    let losses = shop.metric("loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert_eq!(weights, shop.run("amn.train", AMN, &inputs).expect("trains"), "the same seed");

    let inputs = [("images", &set.images), ("seeds", &set.masks), ("weights", &weights)];
    let maps = shop.run("amn.cams", "scales = [1.0, 1.5]", &inputs).expect("makes maps");
    let mut inside = Vec::new();
    for (image, (id, mask)) in shop.maps(&maps).iter().zip(shop.masks(&set.masks)) {
        assert_eq!((&image.id, image.classes.clone()), (&id, classes(&mask)));
        assert_eq!(image.cam.as_ref().map(Maps::height), Some(stride4(SIZE)));
        assert!(image.high_res.data().iter().all(|value| (0.0..=1.0).contains(value)));
        for (channel, class) in image.classes.iter().enumerate() {
            let mean = |wanted: bool| {
                let all = image.high_res.channel(channel).iter().zip(mask.data());
                let own: Vec<f32> =
                    all.filter(|(_, label)| (**label == class + 1) == wanted).map(|(value, _)| *value).collect();
                own.iter().sum::<f32>() / own.len() as f32
            };
            inside.push(mean(true) > mean(false));
        }
    }
    let right = inside.iter().filter(|right| **right).count();
    assert!(right * 10 >= inside.len() * 9, "{right} of {} maps are higher on their object", inside.len());
}

#[test]
fn every_mctformer_learns_and_makes_maps() {
    for version in ["v1", "v2", "plus"] {
        let shop = Shop::default();
        let set = set(&shop);
        let params = format!("version = '{version}'\n{MCTFORMER}");
        let weights = shop.run("mctformer.train", &params, &[("images", &set.images)]).expect("trains");
        let losses = shop.metric("loss");
        assert!(losses.last() < losses.first(), "{version}: {losses:?}");
        let inputs = [("images", &set.images), ("weights", &weights)];
        let maps = shop.run("mctformer.cams", "layers = 2\nscales = [1.0, 1.5]", &inputs).expect("makes maps");
        let maps = shop.maps(&maps);
        assert_eq!(maps.len(), 12);
        for image in maps {
            assert_eq!((image.high_res.channels(), image.high_res.height()), (image.classes.len(), SIZE));
            for channel in 0..image.high_res.channels() {
                let values = image.high_res.channel(channel);
                let (low, high) = values.iter().fold((1.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
                assert!(low == 0.0 && high > 0.999 && high <= 1.0, "{version}: {low} to {high}");
            }
        }
        // Trained weights are a start for more training.
        let more = [("images", &set.images), ("init", &weights)];
        shop.run("mctformer.train", &params.replace("epochs = 15", "epochs = 1"), &more).expect("goes on");
        let deep = shop.run("mctformer.cams", "layers = 3", &inputs).expect_err("there are two blocks");
        assert!(deep.to_string().contains("has 2 blocks"), "{deep}");
    }
}

#[test]
fn an_exploding_loss_names_its_step_and_a_stop_is_obeyed() {
    let shop = Shop::default();
    let set = set(&shop);
    let inputs = [("images", &set.images), ("masks", &set.masks)];
    let params = SEGMENT.replace("lr = 0.01", "lr = 1e30");
    let error = shop.run("segment.train", &params, &inputs).expect_err("explodes").to_string();
    assert!(error.starts_with("the loss is ") && error.contains(" at step ") && error.ends_with(" of 30"), "{error}");
    shop.cancelled.store(true, Ordering::Relaxed);
    assert!(matches!(shop.run("segment.train", SEGMENT, &inputs), Err(StageError::Cancelled)));
}

#[test]
fn inputs_that_do_not_fit_are_refused_before_the_work() {
    let shop = Shop::default();
    let set = set(&shop);
    let weights = shop
        .run("orandnet.train", "preset = 'vgg_tiny'\nsteps = 1", &[("input", &set.or), ("target", &set.and)])
        .expect("trains");
    let wrong = shop.run("segment.predict", "", &[("images", &set.images), ("weights", &weights)]);
    insta::assert_snapshot!(wrong.expect_err("not a segmenter"), @"port `weights` has weights of `orandnet` where `resnet38_seg` is due");
    let mut fewer = Manifest::clone(&set.and);
    fewer.entries.pop_first();
    let fewer = Arc::new(fewer);
    let lacking = shop.run("orandnet.train", "preset = 'vgg_tiny'", &[("input", &set.or), ("target", &fewer)]);
    assert!(lacking.expect_err("images are missing").to_string().starts_with("a CAM set on port `target` lacks"));
    let mut renamed = Manifest::clone(&set.masks);
    renamed.meta = json!({ "classes": ["background", "cat", "dog"] });
    let renamed = Arc::new(renamed);
    let other = shop.run("segment.train", "", &[("images", &set.images), ("masks", &renamed)]);
    assert!(other.expect_err("other classes").to_string().starts_with("the class lists on ports"));
    assert_ne!(weights.meta, Value::Null);
}

const RESNET: &str =
    "family = 'resnet'\ndepth = [1, 1, 1, 1]\nwidth = 8\ncrop = 32\nscale = [40, 48]\nepochs = 8\nbatch = 4";
const VIT: &str =
    "family = 'vit'\ndepth = [1]\nwidth = 16\nheads = 2\npatch = 8\ncrop = 32\nscale = [40, 48]\nepochs = 8\nbatch = 4";

/// A kind, its parameters and its inputs.
type Training<'a> = (&'static str, &'static str, Vec<(&'static str, &'a Arc<Manifest>)>);

/// Every training with small values and its inputs.
fn trainings(set: &Set) -> Vec<Training<'_>> {
    let images = ("images", &set.images);
    vec![
        ("classifier.train", RESNET, vec![images]),
        ("classifier.train", VIT, vec![images]),
        ("orandnet.train", ORANDNET, vec![("input", &set.or), ("target", &set.and)]),
        ("irn.train", IRN, vec![images, ("labels", &set.masks)]),
        ("segment.train", SEGMENT, vec![images, ("masks", &set.masks)]),
        ("amn.train", AMN, vec![images, ("seeds", &set.masks)]),
        ("mctformer.train", MCTFORMER, vec![images]),
    ]
}

#[test]
fn products_in_bf16_change_the_bits_of_every_training_and_not_its_course() {
    for at in 0..7 {
        let losses = |precision: &str| {
            let shop = Shop::default();
            let set = set(&shop);
            let (kind, params, inputs) = trainings(&set).swap_remove(at);
            // Twelve steps are enough.
            let short = ["epochs = 15", "epochs = 10", "epochs = 8"]
                .iter()
                .fold(params.to_owned(), |text, long| text.replace(long, "epochs = 4"));
            let params = format!("{short}\nprecision = '{precision}'");
            let weights = shop.run(kind, &params, &inputs).unwrap_or_else(|error| panic!("{kind}: {error}"));
            (weights.digest(), shop.metric("loss")[0])
        };
        let ((exact, one), (rounded, other)) = (losses("f32"), losses("bf16"));
        assert_ne!(exact, rounded, "training {at}");
        // The mean loss of the first ten steps: factors are rounded by up to 2^-9, and errors add up over steps.
        assert!((one - other).abs() < 0.05 * one.abs(), "training {at}: {one} and {other}");
        // There is no TF32 on a CPU.
        assert_eq!(losses("tf32").0, exact, "training {at}");
    }
}

#[test]
fn trainings_that_are_stopped_go_on_and_end_in_the_same_bytes() {
    let shop = Shop::default();
    let set = set(&shop);
    for (kind, params, inputs) in trainings(&set) {
        let inputs = inputs.as_slice();
        let whole = shop.run(kind, params, inputs).expect("trains");
        for checkpoint in ["never", "7 steps"] {
            let params = format!("{params}\ncheckpoint = '{checkpoint}'");
            // Reports come every ten steps: in the midst of an epoch, and with a checkpoint that another one follows.
            for stop_at in [10, 20] {
                shop.stop_at.store(stop_at, Ordering::Relaxed);
                assert!(matches!(shop.run(kind, &params, inputs), Err(StageError::Cancelled)), "{kind}");
                shop.stop_at.store(0, Ordering::Relaxed);
                shop.cancelled.store(false, Ordering::Relaxed);
                let kept = shop.newest().expect("it was kept").0;
                assert_eq!(kept, stop_at, "{kind}");
            }
            let resumed = shop.run(kind, &params, inputs).expect("goes on");
            assert_eq!(resumed.digest(), whole.digest(), "{kind}, {checkpoint}");
            *shop.kept.lock().expect("not poisoned") = None;
        }
    }
}

/// The weights of every training after a few steps.
fn hardly_trained(shop: &Shop, set: &Set) -> Vec<Arc<Manifest>> {
    let short = |(kind, params, inputs): Training<'_>| {
        let steps = ["epochs = 15", "epochs = 10", "epochs = 8", "steps = 40"];
        let params = steps.iter().fold(params.to_owned(), |text, long| {
            text.replace(long, if long.starts_with("steps") { "steps = 2" } else { "epochs = 1" })
        });
        shop.run(kind, &params, &inputs).unwrap_or_else(|error| panic!("{kind}: {error}"))
    };
    trainings(set).into_iter().map(short).collect()
}

#[test]
fn a_network_is_loaded_once_for_all_shards_and_makes_the_same_bytes() {
    let shop = Shop::default();
    let set = set(&shop);
    let weights = hardly_trained(&shop, &set);
    let images = ("images", &set.images);
    let uses = [
        ("cam.export", vec![images]),
        ("cam.export", vec![images]),
        ("orandnet.refine", vec![("input", &set.or)]),
        ("irn.propagate", vec![images, ("cams", &set.or)]),
        ("segment.predict", vec![images]),
        ("amn.cams", vec![images, ("seeds", &set.masks)]),
        ("mctformer.cams", vec![images]),
    ];
    for ((kind, mut inputs), weights) in uses.into_iter().zip(&weights) {
        inputs.push(("weights", weights));
        let params = if kind == "irn.propagate" { "pad_to = 16" } else { "" };
        let run = |apart: bool, reads: usize| {
            *shop.watched.lock().expect("not poisoned") = Some((weights.entries[weights::PART].digest, 0));
            shop.apart.store(apart, Ordering::Relaxed);
            let made = shop.run(kind, params, &inputs).unwrap_or_else(|error| panic!("{kind}: {error}"));
            let seen = shop.watched.lock().expect("not poisoned").take().map(|(_, reads)| reads);
            assert_eq!(seen, Some(reads), "{kind}: reads of the weights");
            made
        };
        assert_eq!(run(true, BUCKETS as usize), run(false, 1), "{kind}");
    }
}

/// The side of the images of a set that was shrunk by hand, and the limit that has stages shrink them to it.
const SMALL: usize = 32;
const LIMIT: &str = "max_pixels = 1024";

/// The same set at [`SMALL`].
fn shrunk(shop: &Shop, set: &Set) -> Set {
    let recipe = Recipe { size: SIZE, classes: CLASSES, objects: 2, seed: 0, split: "train".into() };
    let (mut entries, mut small_masks) = (Vec::new(), Vec::new());
    for index in 0..12 {
        let id = format!("train_{index:05}");
        let (image, mask) = recipe.draw(index);
        let (labels, mask) = (classes(&mask), nearest_mask(&mask, SMALL, SMALL, Nearest::Pillow));
        let small = codec::encode_rgb(&resize_rgb(&image, SMALL, SMALL, Filter::PillowBicubic));
        let entry =
            ImageEntry { id: id.clone(), image: shop.put(small).0, height: SMALL, width: SMALL, labels, mask: None };
        entries.push((id.clone(), entry));
        small_masks.push((id.clone(), (id, mask)));
    }
    let maps = |large: &Manifest| {
        let maps = shop.maps(large).into_iter().map(|image| {
            let cam = image.cam.map(|cam| shrink_maps(&cam, stride4(SMALL), stride4(SMALL)));
            (image.id.clone(), ImageMaps { cam, high_res: shrink_maps(&image.high_res, SMALL, SMALL), ..image })
        });
        shop.per_image(Kind::CamSet, maps.collect(), packed)
    };
    Set {
        images: shop.per_image(Kind::ImageSet, entries, |entries| images::encode(&entries)),
        masks: shop.per_image(Kind::MaskSet, small_masks, |masks| masks::encode(&masks)),
        or: maps(&set.or),
        and: maps(&set.and),
    }
}

/// The largest difference between maps and others that are brought to their size.
fn difference(maps: &Maps, others: &Maps) -> f32 {
    let others = interpolate_bilinear(others, maps.height(), maps.width(), Coordinates::HalfPixel);
    maps.data().iter().zip(others.data()).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

#[test]
fn maps_of_large_images_are_those_of_the_shrunk_ones_at_their_size() {
    let shop = Shop::default();
    let set = set(&shop);
    let small = shrunk(&shop, &set);
    let weights = hardly_trained(&shop, &set);
    let [resnet, vit, orandnet, irn, _, amn, mctformer] = weights.as_slice() else { panic!("seven trainings") };
    let images = |set: &Set| vec![("images", set.images.clone())];
    let with = |mut inputs: Vec<(&'static str, Arc<Manifest>)>, port, other: &Arc<Manifest>| {
        inputs.push((port, other.clone()));
        inputs
    };
    // What is compared was rounded to half precision twice. Where maps go in, those that were shrunk by hand were rounded before, to
    // 2^-12 as well, and what is made of them is divided by its maximum, which leaves up to 16 times as much.
    let (twice, before) = (2.0_f32.powi(-11), 2.0_f32.powi(-8));
    type Inputs<'a> = Box<dyn Fn(&Set) -> Vec<(&'static str, Arc<Manifest>)> + 'a>;
    let uses: Vec<(&str, &str, &Arc<Manifest>, f32, Inputs<'_>)> = vec![
        ("cam.export", "batch = 5", resnet, twice, Box::new(images)),
        ("cam.export", "batch = 5", vit, twice, Box::new(images)),
        ("amn.cams", "", amn, twice, Box::new(|set| with(images(set), "seeds", &set.masks))),
        ("mctformer.cams", "layers = 2", mctformer, twice, Box::new(images)),
        ("orandnet.refine", "", orandnet, before, Box::new(|set| vec![("input", set.or.clone())])),
        ("irn.propagate", "pad_to = 16", irn, before, Box::new(|set| with(images(set), "cams", &set.or))),
    ];
    for (kind, params, weights, tolerance, inputs) in uses {
        let run = |set: &Set, more: &str| {
            let inputs = with(inputs(set), "weights", weights);
            let inputs: Vec<(&'static str, &Arc<Manifest>)> =
                inputs.iter().map(|(port, manifest)| (*port, manifest)).collect();
            shop.run(kind, &format!("{params}\n{more}"), &inputs)
        };
        let whole = run(&set, "").unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(whole, run(&set, "max_pixels = 2304").expect("has a limit"), "{kind}: 48 x 48 is not above 2304");
        let limited = run(&set, LIMIT).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_ne!(whole, limited, "{kind}");
        let by_hand = shop.maps(&run(&small, "").unwrap_or_else(|error| panic!("{kind}: {error}")));
        let limited = shop.maps(&limited);
        assert_eq!(limited.len(), by_hand.len());
        let mut seen = 0;
        for (limited, by_hand) in limited.iter().zip(&by_hand) {
            assert_eq!((&limited.id, &limited.classes), (&by_hand.id, &by_hand.classes), "{kind}");
            assert_eq!((limited.high_res.height(), limited.high_res.width()), (SIZE, SIZE), "{kind}");
            let off = difference(&limited.high_res, &by_hand.high_res);
            assert!(off <= tolerance, "{kind}, `{}`: {off}", limited.id);
            if let (Some(cam), Some(other)) = (&limited.cam, &by_hand.cam) {
                assert_eq!((cam.height(), cam.width()), (stride4(SIZE), stride4(SIZE)), "{kind}");
                // ORANDNet's are made of those at full size.
                let other = if kind == "orandnet.refine" { &limited.high_res } else { other };
                let off = difference(cam, other);
                assert!(off <= tolerance, "{kind}, `{}` at stride 4: {off}", limited.id);
            }
            seen += usize::from(limited.high_res.data().iter().any(|&value| value > 0.5));
        }
        assert!(seen > 0, "{kind}: maps that are nowhere high compare nothing");
        let refused = run(&set, "max_pixels = 0").expect_err("no image has no pixel").to_string();
        assert_eq!(refused, "`max_pixels` is 0, but must be at least 1", "{kind}");
    }
}

#[test]
fn masks_of_large_images_are_those_of_the_shrunk_ones_at_their_size() {
    let shop = Shop::default();
    let set = set(&shop);
    let small = shrunk(&shop, &set);
    let segmenter = shop.run("segment.train", SEGMENT, &[("images", &set.images), ("masks", &set.masks)]);
    let segmenter = segmenter.expect("trains");
    // Labels are enlarged by the nearest pixel, masks are made of enlarged probabilities: they differ beside their outlines.
    for (kind, port, same) in [("irn.labels", "cams", 1.0), ("segment.predict", "weights", 0.95)] {
        let run = |set: &Set, params: &str| {
            let other = if port == "cams" { &set.or } else { &segmenter };
            shop.run(kind, params, &[("images", &set.images), (port, other)])
        };
        let whole = run(&set, "").expect("makes masks");
        assert_eq!(whole, run(&set, "max_pixels = 2304").expect("has a limit"), "{kind}: 48 x 48 is not above 2304");
        let limited = run(&set, LIMIT).expect("makes masks");
        assert_ne!(whole, limited, "{kind}");
        let (limited, by_hand) = (shop.masks(&limited), shop.masks(&run(&small, "").expect("makes masks")));
        let (mut equal, mut all, mut objects) = (0, 0, 0);
        for ((id, mask), (other, by_hand)) in limited.iter().zip(&by_hand) {
            assert_eq!(id, other);
            assert_eq!((mask.height(), mask.width()), (SIZE, SIZE), "{kind}");
            let by_hand = nearest_mask(by_hand, SIZE, SIZE, Nearest::Pillow);
            equal += mask.data().iter().zip(by_hand.data()).filter(|(one, other)| one == other).count();
            all += mask.data().len();
            objects += mask.data().iter().filter(|&&label| label != 0).count();
        }
        assert!(equal as f64 >= same * all as f64, "{kind}: {equal} of {all} pixels");
        assert!(objects * 20 > all, "{kind}: masks without objects compare nothing");
        let refused = run(&set, "max_pixels = 0").expect_err("no image has no pixel").to_string();
        assert_eq!(refused, "`max_pixels` is 0, but must be at least 1", "{kind}");
    }
}
