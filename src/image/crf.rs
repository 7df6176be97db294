//! The dense CRF of Kraehenbuehl and Koltun 2011 with pydensecrf's meaning of every number (SPEC 7.2 to 7.5).
//! One thread; images side by side are the caller's business.

use super::permutohedral::Lattice;
use super::{LabelMap, Maps, Rgb};

/// The smoothness kernel: Gaussian in position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaussian {
    /// Standard deviation in pixels, along both axes.
    pub sxy: f32,
    /// Weight of the kernel (`compat`).
    pub compat: f32,
}

/// The appearance kernel: Gaussian in position and colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bilateral {
    /// Standard deviation in pixels, along both axes.
    pub sxy: f32,
    /// Standard deviation in colour, in steps of 8-bit RGB.
    pub srgb: f32,
    /// Weight of the kernel (`compat`).
    pub compat: f32,
}

/// Both kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernels {
    /// Smoothness.
    pub gaussian: Gaussian,
    /// Appearance.
    pub bilateral: Bilateral,
}

impl Kernels {
    /// For IR labels, as IRN, AMN and ORANDNet have it (SPEC 7.3 a).
    pub const IR_LABELS: Self = Self::new(3.0, 3.0, 50.0, 5.0, 10.0);
    /// For CAMs with a background to the power of alpha, `_crf_with_alpha` (SPEC 7.3 b).
    pub const WITH_ALPHA: Self = Self::new(3.0, 3.0, 80.0, 13.0, 10.0);
    /// For the segmentation network's probabilities, MCTformer/seg (SPEC 7.3 c).
    pub const SEGMENTATION: Self = Self::new(4.0, 3.0, 83.0, 5.0, 3.0);

    const fn new(gaussian_sxy: f32, gaussian_compat: f32, sxy: f32, srgb: f32, compat: f32) -> Self {
        Self {
            gaussian: Gaussian { sxy: gaussian_sxy, compat: gaussian_compat },
            bilateral: Bilateral { sxy, srgb, compat },
        }
    }
}

/// What each label costs at each pixel before its neighbours are asked: negative log probabilities, `[labels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Unary(Maps);

impl Unary {
    /// Believes a label map with probability `gt_prob` and spreads the rest over the other labels (`unary_from_labels`).
    ///
    /// With `zero_unsure`, index 0 means "unsure", all labels cost the same there, and index i is label i - 1.
    ///
    /// # Panics
    /// If an index has no label or there is no label at all.
    pub fn from_labels(map: &LabelMap, labels: usize, gt_prob: f32, zero_unsure: bool) -> Self {
        assert!(labels > 0, "a CRF has at least one label");
        let mut costs = Maps::zeros(labels, map.height(), map.width());
        if labels == 1 {
            return Self(costs);
        }
        let chosen = -gt_prob.ln();
        let other = -((1.0 - gt_prob) / (labels as f32 - 1.0)).ln();
        let unsure = -(1.0 / labels as f32).ln();
        let first = u8::from(zero_unsure);
        for &index in map.data() {
            assert!(usize::from(index) < labels + usize::from(first), "index {index} has no label among {labels}");
        }
        for label in 0..labels {
            for (cost, &index) in costs.channel_mut(label).iter_mut().zip(map.data()) {
                *cost = if zero_unsure && index == 0 {
                    unsure
                } else if usize::from(index - first) == label {
                    chosen
                } else {
                    other
                };
            }
        }
        Self(costs)
    }

    /// Takes probabilities, `[labels, height, width]`, clipped to [1e-5, 1] and not renormalised (`unary_from_softmax`).
    pub fn from_probabilities(probabilities: &Maps) -> Self {
        let mut costs = probabilities.clone();
        for cost in costs.data_mut() {
            *cost = -cost.clamp(1e-5, 1.0).ln();
        }
        Self(costs)
    }

    /// Returns the number of labels.
    pub fn labels(&self) -> usize {
        self.0.channels()
    }
}

/// The lattices of one image. Several sets of labels may be inferred on them, one after the other or together.
pub struct DenseCrf {
    height: usize,
    width: usize,
    kernels: Kernels,
    gaussian: Lattice<3>,
    bilateral: Lattice<6>,
}

impl DenseCrf {
    /// Builds both lattices for an image and their symmetric normalisation, 1 / sqrt(K 1 + 1e-20) (SPEC 7.4).
    pub fn new(image: &Rgb, kernels: Kernels) -> Self {
        let (height, width) = (image.height(), image.width());
        let pixels = height * width;
        let Kernels { gaussian: Gaussian { sxy: smooth, .. }, bilateral: Bilateral { sxy, srgb, .. } } = kernels;
        let place = |pixel: usize| (pixel / width, pixel % width);
        let mut gaussian = Lattice::<3>::new(pixels, |pixel| {
            let (row, column) = place(pixel);
            [column as f32 / smooth, row as f32 / smooth, 0.0]
        });
        normalise(&mut gaussian);
        let mut bilateral = Lattice::<6>::new(pixels, |pixel| {
            let (row, column) = place(pixel);
            let [red, green, blue] = image.pixel(row, column).map(|value| f32::from(value) / srgb);
            [column as f32 / sxy, row as f32 / sxy, red, green, blue, 0.0]
        });
        normalise(&mut bilateral);
        Self { height, width, kernels, gaussian, bilateral }
    }

    /// Runs mean field and returns the probability of each label at each pixel, `[labels, height, width]`.
    ///
    /// # Panics
    /// If the unary has another size than the image.
    pub fn infer(&self, unary: &Unary, iterations: usize) -> Maps {
        let [maps] = match unary.labels() {
            0..=4 => self.infer_lanes::<4, 1>([unary], iterations),
            _ => self.infer_lanes::<8, 1>([unary], iterations),
        };
        maps
    }

    /// Infers two independent sets of labels in one sweep, which costs less than one after the other.
    ///
    /// # Panics
    /// If a unary has another size than the image.
    pub fn infer_pair(&self, unaries: [&Unary; 2], iterations: usize) -> [Maps; 2] {
        match unaries[0].labels().max(unaries[1].labels()) {
            0..=2 => self.infer_lanes::<4, 2>(unaries, iterations),
            3..=4 => self.infer_lanes::<8, 2>(unaries, iterations),
            _ => self.infer_lanes::<16, 2>(unaries, iterations),
        }
    }

    fn infer_lanes<const LANES: usize, const SETS: usize>(
        &self,
        unaries: [&Unary; SETS],
        iterations: usize,
    ) -> [Maps; SETS] {
        for unary in unaries {
            assert_eq!(
                (unary.0.height(), unary.0.width()),
                (self.height, self.width),
                "the unary is for another image"
            );
        }
        let field = MeanField::<LANES, SETS>::new(unaries);
        let mut messages = Filtered {
            smooth: Filter::new(&self.gaussian, self.kernels.gaussian.compat, field.blocks),
            alike: Filter::new(&self.bilateral, self.kernels.bilateral.compat, field.blocks),
        };
        field.infer(&mut messages, iterations)
    }
}

fn normalise<const VERTICES: usize>(lattice: &mut Lattice<VERTICES>) {
    let mut scales = lattice.sums();
    for sum in &mut scales {
        *sum = 1.0 / (*sum + 1e-20).sqrt();
    }
    lattice.scale_points(&scales);
}

/// How pixels tell each other what they believe. A belief is one group of `LANES` labels per block.
trait Messages<const LANES: usize> {
    /// Takes the beliefs of all pixels, `[pixels, blocks, LANES]`, to where others hear them.
    fn exchange(&mut self, beliefs: &[[f32; LANES]], blocks: usize);
    /// Adds to the energies of a pixel, `[blocks, LANES]`, what it hears.
    fn hear(&self, pixel: usize, energies: &mut [[f32; LANES]], blocks: usize);
}

/// Messages through the two lattices.
struct Filtered<'a, const LANES: usize> {
    smooth: Filter<'a, LANES, 3>,
    alike: Filter<'a, LANES, 6>,
}

/// A lattice with the values of its vertices.
struct Filter<'a, const LANES: usize, const VERTICES: usize> {
    lattice: &'a Lattice<VERTICES>,
    factor: f32,
    values: Vec<[f32; LANES]>,
    spare: Vec<[f32; LANES]>,
}

impl<'a, const LANES: usize, const VERTICES: usize> Filter<'a, LANES, VERTICES> {
    fn new(lattice: &'a Lattice<VERTICES>, compat: f32, blocks: usize) -> Self {
        let factor = compat * Lattice::<VERTICES>::ALPHA;
        Self { lattice, factor, values: lattice.values(blocks), spare: lattice.values(blocks) }
    }

    #[inline(always)]
    fn exchange(&mut self, beliefs: &[[f32; LANES]], blocks: usize) {
        self.values.fill([0.0; LANES]);
        self.lattice.splat(blocks, beliefs, &mut self.values);
        self.lattice.blur(blocks, &mut self.values, &mut self.spare);
    }
}

impl<const LANES: usize> Messages<LANES> for Filtered<'_, LANES> {
    #[inline(always)]
    fn exchange(&mut self, beliefs: &[[f32; LANES]], blocks: usize) {
        self.smooth.exchange(beliefs, blocks);
        self.alike.exchange(beliefs, blocks);
    }

    #[inline(always)]
    fn hear(&self, pixel: usize, energies: &mut [[f32; LANES]], blocks: usize) {
        self.smooth.lattice.slice(pixel, blocks, &self.smooth.values, self.smooth.factor, energies);
        self.alike.lattice.slice(pixel, blocks, &self.alike.values, self.alike.factor, energies);
    }
}

/// Mean field over `SETS` independent sets of labels on the same pixels.
///
/// A group of `LANES` numbers holds `LANES / SETS` labels of every set, one set after another. Sets with more labels go on in
/// further blocks of the same pixel. All loops over lanes have constant bounds, so that they become vector instructions.
struct MeanField<const LANES: usize, const SETS: usize> {
    height: usize,
    width: usize,
    labels: [usize; SETS],
    /// Blocks per pixel.
    blocks: usize,
    /// Per pixel and block the negated unary costs.
    unary: Vec<[f32; LANES]>,
}

/// The energy of a lane without a label: its belief becomes an exact zero.
const NO_LABEL: f32 = -1e30;

impl<const LANES: usize, const SETS: usize> MeanField<LANES, SETS> {
    const LABELS: usize = LANES / SETS;

    fn new(unaries: [&Unary; SETS]) -> Self {
        let labels = unaries.map(Unary::labels);
        let (height, width) = unaries.first().map_or((0, 0), |unary| (unary.0.height(), unary.0.width()));
        let blocks = labels.iter().max().map_or(1, |labels| labels.div_ceil(Self::LABELS).max(1));
        let mut unary = vec![[NO_LABEL; LANES]; height * width * blocks];
        for (set, costs) in unaries.iter().enumerate() {
            for label in 0..costs.labels() {
                let (block, lane) = Self::place(set, label);
                for (groups, cost) in unary.chunks_exact_mut(blocks).zip(costs.0.channel(label)) {
                    groups[block][lane] = -cost;
                }
            }
        }
        Self { height, width, labels, blocks, unary }
    }

    /// Returns block and lane of a label.
    fn place(set: usize, label: usize) -> (usize, usize) {
        (label / Self::LABELS, set * Self::LABELS + label % Self::LABELS)
    }

    fn infer(&self, messages: &mut impl Messages<LANES>, iterations: usize) -> [Maps; SETS] {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the processor has the instructions that the function is compiled for")]
            // SAFETY: see above.
            return unsafe { self.infer_avx2(messages, iterations) };
        }
        self.infer_here(messages, iterations)
    }

    /// The same on vectors of eight. Not of fused multiply-add, so that every processor gives the same bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn infer_avx2(&self, messages: &mut impl Messages<LANES>, iterations: usize) -> [Maps; SETS] {
        self.infer_here(messages, iterations)
    }

    #[inline(always)]
    fn infer_here(&self, messages: &mut impl Messages<LANES>, iterations: usize) -> [Maps; SETS] {
        // The usual case of one block is compiled apart: its loops over blocks vanish.
        if self.blocks == 1 {
            self.infer_blocks(messages, iterations, 1)
        } else {
            self.infer_blocks(messages, iterations, self.blocks)
        }
    }

    #[inline(always)]
    fn infer_blocks(&self, messages: &mut impl Messages<LANES>, iterations: usize, blocks: usize) -> [Maps; SETS] {
        let mut beliefs = self.unary.clone();
        for group in beliefs.chunks_exact_mut(blocks) {
            Self::believe(group, blocks);
        }
        for _ in 0..iterations {
            messages.exchange(&beliefs, blocks);
            for pixel in 0..self.height * self.width {
                let own = pixel * blocks..(pixel + 1) * blocks;
                let group = &mut beliefs[own.clone()];
                group.copy_from_slice(&self.unary[own]);
                messages.hear(pixel, group, blocks);
                Self::believe(group, blocks);
            }
        }
        std::array::from_fn(|set| {
            let mut maps = Maps::zeros(self.labels[set], self.height, self.width);
            for label in 0..self.labels[set] {
                let (block, lane) = Self::place(set, label);
                for (value, group) in maps.channel_mut(label).iter_mut().zip(beliefs.chunks_exact(blocks)) {
                    *value = group[block][lane];
                }
            }
            maps
        })
    }

    /// Turns the energies of a pixel into beliefs: the softmax over the labels of each set.
    #[inline(always)]
    fn believe(group: &mut [[f32; LANES]], blocks: usize) {
        let group = &mut group[..blocks];
        // Loops, and no closures: those would be compiled without the caller's instructions.
        let mut tops = [f32::MIN; LANES];
        for energies in group.iter() {
            for lane in 0..LANES {
                tops[lane] = tops[lane].max(energies[lane]);
            }
        }
        let tops = Self::spread(&tops, f32::MIN, f32::max);
        let mut sums = [0.0; LANES];
        for energies in group.iter_mut() {
            for lane in 0..LANES {
                energies[lane] = exp_of_negative(energies[lane] - tops[lane]);
                sums[lane] += energies[lane];
            }
        }
        let sums = Self::spread(&sums, 0.0, |sum, value| sum + value);
        for beliefs in group {
            for lane in 0..LANES {
                beliefs[lane] /= sums[lane];
            }
        }
    }

    /// Folds the lanes of each set and writes the result to all of them.
    #[inline(always)]
    fn spread(lanes: &[f32; LANES], start: f32, fold: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
        let mut folded = [start; LANES];
        for set in 0..SETS {
            let mut value = start;
            for lane in 0..Self::LABELS {
                value = fold(value, lanes[set * Self::LABELS + lane]);
            }
            for lane in 0..Self::LABELS {
                folded[set * Self::LABELS + lane] = value;
            }
        }
        folded
    }
}

/// Returns e^x for x <= 0 within 2 units in the last place, and zero below e^-80; what is not a number stays so.
///
/// Plain arithmetic, so that it is vectorised, and gives the same bits on every platform, unlike the system's `expf`. The
/// polynomial is that of Cephes (`expf.c`, Moshier) on [-ln 2 / 2, ln 2 / 2].
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -80.0 { -80.0 } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = clamped - power * LN_2_HIGH - power * LN_2_LOW;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum * rest + coefficient;
    }
    let exp_rest = sum * rest * rest + rest + 1.0;
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -80.0 { 0.0 } else { exp_rest * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_exact_to_the_last_places() {
        for step in 0..80_000 {
            let x = -(step as f32) / 1000.0;
            let want = f64::from(x).exp();
            let relative = (f64::from(exp_of_negative(x)) - want).abs() / want;
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(f32::MIN), 0.0);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn unary_from_labels_is_that_of_pydensecrf() {
        let map = LabelMap::new(1, 3, vec![0, 2, 1]);
        let Unary(costs) = Unary::from_labels(&map, 3, 0.7, false);
        let (chosen, other) = (-(0.7f32.ln()), -(0.15f32.ln()));
        for (got, want) in costs.data().iter().zip([chosen, other, other, other, other, chosen, other, chosen, other]) {
            assert!((got - want).abs() < 1e-6);
        }
        let Unary(costs) = Unary::from_labels(&map, 2, 0.7, true);
        let (other, unsure) = (-(0.3f32.ln()), 2f32.ln());
        for (got, want) in costs.data().iter().zip([unsure, other, chosen, unsure, chosen, other]) {
            assert!((got - want).abs() < 1e-6);
        }
        let Unary(single) = Unary::from_labels(&LabelMap::new(1, 2, vec![0, 0]), 1, 0.7, false);
        assert_eq!(single.data(), [0.0, 0.0]);
    }

    #[test]
    fn sets_together_are_the_sets_alone() {
        let image = Rgb::new(9, 11, (0..297).map(|i| (i * 37 % 256) as u8).collect());
        let crf = DenseCrf::new(&image, Kernels::IR_LABELS);
        let unary = |labels: usize| {
            let map = LabelMap::new(9, 11, (0..99).map(|i| (i / 7 % labels) as u8).collect());
            Unary::from_labels(&map, labels, 0.7, false)
        };
        for (one, two) in [(1, 1), (2, 2), (3, 4), (3, 9), (10, 11)] {
            let (one, two) = (unary(one), unary(two));
            let [first, second] = crf.infer_pair([&one, &two], 5);
            for (together, alone) in [(first, crf.infer(&one, 5)), (second, crf.infer(&two, 5))] {
                // Sums over more lanes, zeros among them, may round in another order.
                let worst = together.data().iter().zip(alone.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "off by {worst}");
            }
        }
    }

    /// Everything but the lattice: mean field over all pairs of pixels with the true kernels, once with this file's code and once
    /// as the equations of SPEC 7.4 say, in f64.
    #[test]
    fn mean_field_with_exact_kernels_is_exact() {
        const LABELS: usize = 3;
        let (height, width) = (7, 9);
        let pixels = height * width;
        let colour = |pixel: usize| ((pixel * 53) % 17) as f64 + if pixel % width > 4 { 40.0 } else { 0.0 };
        let kernel = |scales: [f64; 2], i: usize, j: usize| {
            let (rows, columns) = ((i / width).abs_diff(j / width) as f64, (i % width).abs_diff(j % width) as f64);
            let place = (rows * rows + columns * columns) / scales[0].powi(2);
            (-(place + ((colour(i) - colour(j)) / scales[1]).powi(2)) / 2.0).exp()
        };
        // Position alone, and position and colour; each normalised symmetrically, with a weight that leaves pixels undecided.
        let weighted: Vec<Vec<Vec<f64>>> = [([3.0, f64::INFINITY], 0.5), ([50.0, 5.0], 1.0)]
            .map(|(scales, compat)| {
                let sums: Vec<f64> = (0..pixels).map(|i| (0..pixels).map(|j| kernel(scales, i, j)).sum()).collect();
                let entry = |i: usize, j: usize| compat * kernel(scales, i, j) / (sums[i] * sums[j]).sqrt();
                (0..pixels).map(|i| (0..pixels).map(|j| entry(i, j)).collect()).collect()
            })
            .to_vec();
        let map = LabelMap::new(height, width, (0..pixels).map(|i| (i % width / 3 + i % 5 / 4) as u8 % 3).collect());
        let unary = Unary::from_labels(&map, LABELS, 0.7, false);

        /// Pairs of pixels instead of lattices, with what was last believed.
        struct Exact<'a> {
            weighted: &'a [Vec<Vec<f64>>],
            beliefs: Vec<[f32; 4]>,
        }
        impl Messages<4> for Exact<'_> {
            fn exchange(&mut self, beliefs: &[[f32; 4]], _blocks: usize) {
                self.beliefs = beliefs.to_vec();
            }
            fn hear(&self, pixel: usize, energies: &mut [[f32; 4]], _blocks: usize) {
                for rows in self.weighted {
                    for (weight, belief) in rows[pixel].iter().zip(&self.beliefs) {
                        for lane in 0..4 {
                            energies[0][lane] += *weight as f32 * belief[lane];
                        }
                    }
                }
            }
        }
        let mut want = vec![[0.0; LABELS]; pixels];
        let normal = |energies: [f64; LABELS]| {
            let sum: f64 = energies.iter().map(|energy| energy.exp()).sum();
            energies.map(|energy| energy.exp() / sum)
        };
        let cost = |label: usize, pixel: usize| f64::from(unary.0.channel(label)[pixel]);
        for (pixel, belief) in want.iter_mut().enumerate() {
            *belief = normal(std::array::from_fn(|label| -cost(label, pixel)));
        }
        for _ in 0..10 {
            let before = want.clone();
            for (pixel, belief) in want.iter_mut().enumerate() {
                *belief = normal(std::array::from_fn(|label| {
                    let message = |rows: &Vec<Vec<f64>>| -> f64 {
                        rows[pixel].iter().zip(&before).map(|(weight, belief)| weight * belief[label]).sum()
                    };
                    weighted.iter().map(message).sum::<f64>() - cost(label, pixel)
                }));
            }
        }
        let mut exact = Exact { weighted: &weighted, beliefs: Vec::new() };
        let [got] = MeanField::<4, 1>::new([&unary]).infer(&mut exact, 10);
        for label in 0..LABELS {
            for (got, want) in got.channel(label).iter().zip(&want) {
                // f32 sums of 63 terms against f64.
                assert!((f64::from(*got) - want[label]).abs() < 1e-5, "{got} where {} is due", want[label]);
            }
        }
        assert!(want.iter().any(|belief| belief.iter().all(|&value| value < 0.999)), "some pixel is undecided");
    }
}
