//! Deterministic pictures with exact masks: objects of several classes before textured backgrounds. Knows no files.
//!
//! The pictures pose the problem of weakly supervised segmentation in small. An object is a large body and a small mark. Classes
//! come in pairs that share the form and the colours of the body and differ in the mark (and faintly in the body's texture), so
//! a classifier looks at marks and its activation maps miss most of the body. A class mostly comes with its own kind of
//! background, which is a clue that is wrong in a mask. Clutter has the colours of bodies without being one, and light
//! varies in strength, tint and direction.
//!
//! Only additions, multiplications, divisions and square roots are used, which IEEE 754 rounds alike everywhere, so that the
//! pictures are the same on every platform.

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::digest::Digest;
use crate::image::{LabelMap, Rgb};

/// Names of the classes, background first. A data set has the first few of them.
const NAMES: [&str; 9] = ["background", "fish", "beetle", "house", "van", "tent", "kite", "flower", "wheel"];

/// The largest number of foreground classes.
pub const MOST_CLASSES: usize = NAMES.len() - 1;

/// Probability that an image has the background that its first class prefers.
const CONTEXT: f64 = 0.7;
/// Cumulative probabilities of one, two and three classes in an image: roughly those of VOC `train_aug` (SPEC 11).
const CLASS_COUNTS: [f64; 3] = [0.59, 0.88, 1.0];
/// Each class of an image is visible on at least this share of the pixels.
const VISIBLE: f64 = 0.025;
/// How often a picture is drawn anew to make all its classes visible before what is visible is taken as it is.
const ATTEMPTS: usize = 40;

/// What determines the pictures of a set.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Height and width, in pixels.
    pub size: usize,
    /// Number of foreground classes, 2 to [`MOST_CLASSES`].
    pub classes: usize,
    /// Largest number of objects in a picture.
    pub objects: usize,
    /// Sets with different seeds have different pictures.
    pub seed: u64,
    /// So do splits.
    pub split: String,
}

/// Returns the names of the classes of a set with `classes` foreground classes, background first.
pub fn class_names(classes: usize) -> Vec<String> {
    NAMES.iter().take(classes + 1).map(|&name| name.to_owned()).collect()
}

impl Recipe {
    /// Draws a picture and its mask. The same recipe and index give the same bytes.
    pub fn draw(&self, index: usize) -> (Rgb, LabelMap) {
        let seed = Digest::of(format!("{} {} {index}", self.seed, self.split).as_bytes()).to_u64();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 1..ATTEMPTS {
            let (classes, image, mask) = self.attempt(&mut rng);
            let least = (VISIBLE * (self.size * self.size) as f64) as usize;
            if classes
                .iter()
                .all(|&class| mask.data().iter().filter(|&&label| label == class as u8 + 1).count() >= least)
            {
                return (image, mask);
            }
        }
        let (_, image, mask) = self.attempt(&mut rng);
        (image, mask)
    }

    /// Draws a picture of classes that it also returns; some of them may be hidden.
    fn attempt(&self, rng: &mut ChaCha8Rng) -> (Vec<usize>, Rgb, LabelMap) {
        let draw = rng.random::<f64>();
        let wanted = 1 + CLASS_COUNTS.iter().filter(|&&bound| draw >= bound).count();
        let every: Vec<usize> = (0..self.classes).collect();
        let classes: Vec<usize> = every.sample(rng, wanted.min(self.objects)).copied().collect();
        let mut canvas = Canvas::new(self.size);
        let context = if rng.random_bool(CONTEXT) { classes[0] / 2 } else { rng.random_range(0..4) };
        background(&mut canvas, context, rng);
        for _ in 0..rng.random_range(2..=5) {
            clutter(&mut canvas, rng);
        }
        // Spare objects are of a class that is there already; the largest is drawn first so that it hides no other.
        let count = rng.random_range(classes.len()..=self.objects.max(classes.len()));
        let mut objects: Vec<Object> = (0..count)
            .map(|number| {
                let class = classes.get(number).copied().unwrap_or_else(|| classes[rng.random_range(0..classes.len())]);
                Object::draw(class, count, self.size, rng)
            })
            .collect();
        objects.sort_by(|a, b| b.radius.total_cmp(&a.radius));
        for object in &objects {
            object.paint(&mut canvas);
        }
        light(&mut canvas, rng);
        let (image, mask) = canvas.finish(rng);
        (classes, image, mask)
    }
}

type Color = [f32; 3];

/// Colours in [0, 1] before light and rounding, and the mask.
struct Canvas {
    size: usize,
    color: Vec<Color>,
    label: Vec<u8>,
}

impl Canvas {
    fn new(size: usize) -> Self {
        Self { size, color: vec![[0.0; 3]; size * size], label: vec![0; size * size] }
    }

    /// Paints where `shade` gives a colour: four samples a pixel decide how much of it is covered and by what, the middle
    /// alone decides the label.
    fn paint(&mut self, label: Option<u8>, shade: impl Fn(f32, f32) -> Option<Color>) {
        for row in 0..self.size {
            for column in 0..self.size {
                let (x, y) = (column as f32 + 0.5, row as f32 + 0.5);
                let pixel = row * self.size + column;
                let (mut sum, mut covered) = ([0.0; 3], 0.0);
                for (dx, dy) in [(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)] {
                    if let Some(color) = shade(x + dx, y + dy) {
                        sum = std::array::from_fn(|channel| sum[channel] + color[channel]);
                        covered += 1.0;
                    }
                }
                if covered > 0.0 {
                    self.color[pixel] = mix(self.color[pixel], scaled(sum, 1.0 / covered), covered / 4.0);
                }
                if let Some(label) = label
                    && shade(x, y).is_some()
                {
                    self.label[pixel] = label;
                }
            }
        }
    }

    fn finish(self, rng: &mut ChaCha8Rng) -> (Rgb, LabelMap) {
        let mut data = Vec::with_capacity(self.color.len() * 3);
        for value in self.color.iter().flatten() {
            // The sum of four uniform numbers is near enough to a normal one; its deviation is 0.58.
            let noise: f32 = (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * 0.045;
            data.push(((value + noise).clamp(0.0, 1.0) * 255.0).round() as u8);
        }
        (Rgb::new(self.size, self.size, data), LabelMap::new(self.size, self.size, self.label))
    }
}

fn mix(from: Color, to: Color, share: f32) -> Color {
    std::array::from_fn(|channel| from[channel] + share * (to[channel] - from[channel]))
}

fn scaled(color: Color, factor: f32) -> Color {
    color.map(|value| value * factor)
}

fn uniform(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// Draws a direction: a point in the unit disc, pushed to its rim.
fn direction(rng: &mut ChaCha8Rng) -> (f32, f32) {
    loop {
        let (x, y) = (uniform(rng, -1.0, 1.0), uniform(rng, -1.0, 1.0));
        let length = (x * x + y * y).sqrt();
        if (0.1..=1.0).contains(&length) {
            return (x / length, y / length);
        }
    }
}

/// Varies a colour as one object differs from the next.
fn vary(color: Color, reach: f32, rng: &mut ChaCha8Rng) -> Color {
    let brightness = uniform(rng, 1.0 - reach, 1.0 + reach);
    color.map(|value| (value * brightness + uniform(rng, -reach, reach) * 0.3).clamp(0.0, 1.0))
}

/// A wave of period 1 between -1 and 1 made of straight lines.
fn wave(position: f32) -> f32 {
    let phase = position - position.floor();
    1.0 - 4.0 * (phase - 0.5).abs()
}

/// Smooth noise: random values on a lattice, blended between.
struct Noise {
    cells: usize,
    values: Vec<f32>,
}

impl Noise {
    fn new(cells: usize, rng: &mut ChaCha8Rng) -> Self {
        Self { cells, values: (0..(cells + 1) * (cells + 1)).map(|_| uniform(rng, -1.0, 1.0)).collect() }
    }

    /// Returns the value at a place in [0, 1] x [0, 1].
    fn at(&self, x: f32, y: f32) -> f32 {
        let place = |position: f32| {
            let scaled = position.clamp(0.0, 0.999) * self.cells as f32;
            let part = scaled - scaled.floor();
            (scaled as usize, part * part * (3.0 - 2.0 * part))
        };
        let ((column, dx), (row, dy)) = (place(x), place(y));
        let value = |row: usize, column: usize| self.values[row * (self.cells + 1) + column];
        let top = value(row, column) + dx * (value(row, column + 1) - value(row, column));
        let bottom = value(row + 1, column) + dx * (value(row + 1, column + 1) - value(row + 1, column));
        top + dy * (bottom - top)
    }
}

/// Fills the canvas with one of four textures: water, meadow, pavement, sand.
fn background(canvas: &mut Canvas, context: usize, rng: &mut ChaCha8Rng) {
    let base: Color = [[0.22, 0.42, 0.55], [0.30, 0.48, 0.20], [0.47, 0.46, 0.48], [0.68, 0.58, 0.40]][context];
    let base = vary(base, 0.15, rng);
    let (coarse, fine) = (Noise::new(3, rng), Noise::new(18, rng));
    let (dx, dy) = direction(rng);
    let (period, offset) = (uniform(rng, 5.0, 8.0), rng.random::<f32>());
    let size = canvas.size as f32;
    canvas.paint(None, |x, y| {
        let (u, v) = (x / size, y / size);
        let texture = match context {
            0 => 0.14 * wave((y + 3.0 * coarse.at(u, v)) * period / size + offset) + 0.05 * fine.at(u, v),
            1 => 0.24 * fine.at(u, v),
            2 => {
                let line = |position: f32| if wave(position) > 0.8 { -0.22 } else { 0.0 };
                line((x * dx + y * dy) * period / size * 0.6) + line((y * dx - x * dy) * period / size * 0.6 + offset)
            }
            _ => 0.12 * wave((x * dx + y * dy) * period / size * 1.4 + coarse.at(u, v)) + 0.08 * fine.at(u, v),
        };
        Some(scaled(base, 1.0 + 0.25 * coarse.at(u, v) + texture))
    });
}

/// Paints something small that is no object, in the colours of bodies.
fn clutter(canvas: &mut Canvas, rng: &mut ChaCha8Rng) {
    let size = canvas.size as f32;
    let color = vary(*FORMS.choose(rng).map_or(&FORMS[0].color, |form| &form.color), 0.3, rng);
    let (x, y, radius) = (uniform(rng, 0.0, size), uniform(rng, 0.0, size), uniform(rng, 0.03, 0.075) * size);
    let ((dx, dy), length) = (direction(rng), uniform(rng, 1.0, 3.5));
    let square = rng.random_bool(0.5);
    canvas.paint(None, |px, py| {
        let (u, v) = (((px - x) * dx + (py - y) * dy) / length, (py - y) * dx - (px - x) * dy);
        let inside = if square { u.abs().max(v.abs()) < radius } else { u * u + v * v < radius * radius };
        inside.then_some(color)
    });
}

/// What two classes share: the form and the colour of the body, and where the mark sits.
struct Form {
    color: Color,
    /// Whether a place in the body's own coordinates belongs to it; the body reaches about 1 from its middle.
    inside: fn(f32, f32) -> bool,
    /// Middle and radius of the mark in the same coordinates.
    mark: (f32, f32, f32),
}

const FORMS: [Form; 4] = [
    Form { color: [0.52, 0.46, 0.36], inside: ellipse, mark: (0.72, 0.0, 0.40) },
    Form { color: [0.55, 0.38, 0.33], inside: block, mark: (0.45, -0.28, 0.36) },
    Form { color: [0.40, 0.46, 0.50], inside: triangle, mark: (0.0, -0.45, 0.40) },
    Form { color: [0.60, 0.52, 0.58], inside: star, mark: (0.0, 0.0, 0.38) },
];

fn ellipse(u: f32, v: f32) -> bool {
    u * u + v * v * 2.8 < 1.0
}

fn block(u: f32, v: f32) -> bool {
    let (u, v) = (u * 1.05, v * 1.6);
    let (u2, v2) = (u * u, v * v);
    u2 * u2 * u2 + v2 * v2 * v2 < 1.0
}

fn triangle(u: f32, v: f32) -> bool {
    v < 0.75 && u.abs() < (v + 0.95) * 0.62
}

fn star(u: f32, v: f32) -> bool {
    // The real part of (u + iv)^5 is r^5 cos(5 angle).
    let r2 = u * u + v * v;
    let r = r2.sqrt().max(1e-6);
    let fifth = u * (u * u * u * u - 10.0 * u * u * v * v + 5.0 * v * v * v * v);
    r < 0.74 + 0.24 * fifth / (r2 * r2 * r)
}

/// What tells a class from the other of its pair: two colours and the texture of the mark.
struct Mark {
    colors: [Color; 2],
    /// Whether a place in the mark's own coordinates has the second colour; the mark reaches 1 from its middle.
    second: fn(f32, f32) -> bool,
}

const MARKS: [Mark; MOST_CLASSES] = [
    Mark { colors: [[0.92, 0.55, 0.15], [0.25, 0.15, 0.10]], second: |u, _| wave(u * 1.1) > 0.1 },
    Mark {
        colors: [[0.80, 0.16, 0.14], [0.10, 0.08, 0.08]],
        second: |u, v| wave(u * 0.9) > 0.0 && wave(v * 0.9) > 0.0,
    },
    Mark { colors: [[0.35, 0.62, 0.88], [0.92, 0.92, 0.88]], second: |u, v| u.abs().min(v.abs()) < 0.22 },
    Mark { colors: [[0.90, 0.82, 0.25], [0.12, 0.12, 0.16]], second: |u, v| u * u + v * v < 0.30 },
    Mark { colors: [[0.20, 0.65, 0.45], [0.90, 0.90, 0.85]], second: |u, v| wave((u + v) * 0.8) > 0.0 },
    Mark { colors: [[0.75, 0.25, 0.65], [0.95, 0.85, 0.30]], second: |u, v| (u > 0.0) == (v > 0.0) },
    Mark { colors: [[0.95, 0.80, 0.20], [0.55, 0.30, 0.08]], second: |u, v| wave((u * u + v * v) * 1.6) > 0.1 },
    Mark { colors: [[0.15, 0.20, 0.30], [0.75, 0.80, 0.85]], second: |_, v| wave(v * 1.3) > 0.1 },
];

/// One object.
struct Object {
    class: usize,
    x: f32,
    y: f32,
    radius: f32,
    axis: (f32, f32),
    mirrored: bool,
    body: Color,
    mark: [Color; 2],
    noise: Noise,
}

impl Object {
    fn draw(class: usize, count: usize, size: usize, rng: &mut ChaCha8Rng) -> Self {
        let size = size as f32;
        // A lone object may fill the picture; several have to share it.
        let largest = if count == 1 { 0.42 } else { 0.30 };
        let radius = uniform(rng, 0.19, largest) * size;
        let mut place = || uniform(rng, 0.16 * size, 0.84 * size);
        let (x, y) = (place(), place());
        // Objects stand upright more or less, as in photographs; fish and beetles lie any way.
        let axis = if class < 2 {
            direction(rng)
        } else {
            let tilt = uniform(rng, -0.35, 0.35);
            let length = (1.0 + tilt * tilt).sqrt();
            (1.0 / length, tilt / length)
        };
        Self {
            class,
            x,
            y,
            radius,
            axis,
            mirrored: rng.random_bool(0.5),
            body: vary(FORMS[class / 2].color, 0.25, rng),
            mark: MARKS[class].colors.map(|color| vary(color, 0.12, rng)),
            noise: Noise::new(6, rng),
        }
    }

    fn paint(&self, canvas: &mut Canvas) {
        let form = &FORMS[self.class / 2];
        let (mark_u, mark_v, mark_radius) = form.mark;
        let second = MARKS[self.class].second;
        canvas.paint(Some(self.class as u8 + 1), |px, py| {
            let (dx, dy) = ((px - self.x) / self.radius, (py - self.y) / self.radius);
            let (u, v) = (dx * self.axis.0 + dy * self.axis.1, dy * self.axis.0 - dx * self.axis.1);
            let u = if self.mirrored { -u } else { u };
            let (mu, mv) = ((u - mark_u) / mark_radius, (v - mark_v) / mark_radius);
            if mu * mu + mv * mv < 1.0 {
                return Some(self.mark[usize::from(second(mu, mv))]);
            }
            (form.inside)(u, v).then(|| {
                // The faint texture of the body is all that it says about the class.
                let faint = if self.class.is_multiple_of(2) { wave(u * 2.2) } else { wave(v * 2.2) };
                let rough = self.noise.at(u * 0.5 + 0.5, v * 0.5 + 0.5);
                scaled(self.body, 1.0 + 0.07 * faint + 0.16 * rough)
            })
        });
    }
}

/// Lights the picture: strength, tint, and a slope from one side to the other.
fn light(canvas: &mut Canvas, rng: &mut ChaCha8Rng) {
    let strength = uniform(rng, 0.65, 1.2);
    let tint: Color = std::array::from_fn(|_| uniform(rng, 0.92, 1.08));
    let ((dx, dy), slope) = (direction(rng), uniform(rng, 0.0, 0.35));
    let size = canvas.size as f32;
    for (pixel, color) in canvas.color.iter_mut().enumerate() {
        let (x, y) = ((pixel % canvas.size) as f32 / size - 0.5, (pixel / canvas.size) as f32 / size - 0.5);
        let here = strength * (1.0 + slope * (x * dx + y * dy));
        *color = std::array::from_fn(|channel| color[channel] * tint[channel] * here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe { size: 48, classes: 8, objects: 3, seed: 0, split: "train".into() }
    }

    #[test]
    fn a_picture_depends_on_its_index_its_split_and_the_seed_alone() {
        let picture = |recipe: &Recipe, index| recipe.draw(index).0;
        assert_eq!(recipe().draw(7), recipe().draw(7));
        assert_ne!(picture(&recipe(), 7), picture(&recipe(), 8));
        assert_ne!(picture(&recipe(), 7), picture(&Recipe { split: "val".into(), ..recipe() }, 7));
        assert_ne!(picture(&recipe(), 7), picture(&Recipe { seed: 1, ..recipe() }, 7));
    }

    #[test]
    fn every_class_appears_and_pictures_have_one_to_three_of_them() {
        let mut images_with = [0usize; 9];
        for index in 0..200 {
            let (_, mask) = recipe().draw(index);
            let mut present = [false; 9];
            for &label in mask.data() {
                present[usize::from(label)] = true;
            }
            let classes = present[1..].iter().filter(|&&there| there).count();
            assert!((1..=3).contains(&classes), "picture {index} has {classes} classes");
            for (count, there) in images_with.iter_mut().zip(present) {
                *count += usize::from(there);
            }
        }
        assert!(images_with[0] >= 195, "nearly every picture has background: {images_with:?}");
        assert!(images_with[1..].iter().all(|&count| count >= 15), "{images_with:?}");
    }
}
