//! ORANDNet in use: maps of one image in, refined maps out. What the frame of zeros around every map makes is computed once.
//!
//! With the paper's padding of 100 the network sees 538 x 700 pixels of a map of 338 x 500, and more than half of them are zeros of the
//! frame. As far as no layer has carried the map outwards, the activations there are the same for every map: those of a map of zeros. They
//! depend on the distance to the border alone, so that they are computed on a canvas as small as can be and stretched
//! ([`Frame`]). The first four groups then compute a window around the map. Each sum is of the same numbers as without; results differ by
//! rounding at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::image::Maps;
use crate::nn::layers::{Conv2d, max_pool2d};
use crate::nn::orandnet::{Activation, OrandNet};
use crate::nn::pass::Pass;

/// Added to a map's maximum before dividing by it (SPEC 6.3).
const EPSILON: f32 = 1e-5;

/// The sides of a map of zeros and of every other map differ by a multiple of this, so that they differ by a whole number of cells
/// after each of the four pools.
const CELL: usize = 16;

/// A trained network that refines maps.
#[derive(Debug)]
pub struct Refiner<'a> {
    network: &'a OrandNet,
    /// By height and width of the map of zeros; `None` where sharing is not possible.
    frames: Mutex<BTreeMap<[usize; 2], Option<Arc<Frame>>>>,
}

impl<'a> Refiner<'a> {
    /// Takes a network that does not change any more.
    pub fn new(network: &'a OrandNet) -> Self {
        Self { network, frames: Mutex::new(BTreeMap::new()) }
    }

    /// Returns what [`OrandNet::forward`] returns without dropout.
    ///
    /// # Shapes
    /// `[1, 1, H, W]` to the same.
    ///
    /// # Panics
    /// If the network refuses the size.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let small = [height, width].map(|side| (side.max(1) - 1) % CELL + 1);
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = frames.entry(small).or_insert_with(|| Frame::of(self.network, small, &x.device()).map(Arc::new));
        let frame = frame.clone();
        drop(frames);
        match frame.and_then(|frame| frame.pools(self.network, x.clone())) {
            Some(pools) => self.network.finish(pools, [height, width], &Pass::inference()),
            None => self.network.forward(x, &Pass::inference()),
        }
    }

    /// Whether a frame has been shared so far.
    pub fn shares(&self) -> bool {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).values().any(Option::is_some)
    }

    /// Refines the maps of one image: per class the network's output, through `activation`, divided by its maximum + 1e-5
    /// (SPEC 6.3). Maps that are nowhere positive become 0.
    ///
    /// # Shapes
    /// `[K, H, W]` to the same.
    pub fn refine(&self, maps: &Maps, activation: Activation, device: &Device) -> Maps {
        let (height, width) = (maps.height(), maps.width());
        let mut refined = Vec::with_capacity(maps.data().len());
        for class in 0..maps.channels() {
            let data = TensorData::new(maps.channel(class).to_vec(), [1, 1, height, width]);
            refined.extend(self.forward(Tensor::from_data(data, device)).into_data().iter::<f32>());
        }
        let mut refined = Maps::new(maps.channels(), height, width, refined);
        activation.apply(&mut refined);
        for class in 0..maps.channels() {
            let channel = refined.channel_mut(class);
            let divisor = channel.iter().copied().fold(0.0, f32::max) + EPSILON;
            channel.iter_mut().for_each(|value| *value /= divisor);
        }
        refined
    }
}

/// The activations of a small map of zeros: of the input of each layer after the first, in the order in which layers follow.
#[derive(Debug)]
struct Frame {
    inputs: Vec<Tensor<4>>,
}

/// A part of a layer's output: the rest is that of the frame.
struct Window {
    values: Tensor<4>,
    /// Where it begins, in rows and columns.
    start: [usize; 2],
    /// How large the whole output is.
    whole: [usize; 2],
}

impl Frame {
    /// Runs the network on a map of zeros. `None` where its border would reach the middle, from which it could not be stretched; so
    /// it is for networks without a wide frame.
    fn of(network: &OrandNet, size: [usize; 2], device: &Device) -> Option<Self> {
        if network.padding() < 3 {
            return None;
        }
        let mut x = Tensor::<4>::zeros([1, 1, size[0], size[1]], device);
        let mut inputs = Vec::new();
        // How far from the border values differ from those in the middle; the first layer sees zeros everywhere.
        let mut depth = 0_usize;
        for (index, conv) in network.groups().into_iter().enumerate() {
            for (place, conv) in conv.iter().flatten().enumerate() {
                let first = index == 0 && place == 0;
                depth += usize::from(!first);
                x = activation::relu(conv.forward(x));
                inputs.push(x.clone());
            }
            depth = depth.div_ceil(2);
            x = max_pool2d(x, 2, 2, 0, true);
            inputs.push(x.clone());
            let [_, _, rows, columns] = x.dims();
            // The layers of the next group go up to three cells further.
            if index < 4 && rows.min(columns) / 2 <= depth + 3 {
                return None;
            }
            if index == 3 {
                // What follows is computed as a whole.
                break;
            }
        }
        Some(Self { inputs })
    }

    /// Returns the outputs of the third, fourth and fifth pool for a map. `None` if the map is so small that nothing is gained.
    fn pools(&self, network: &OrandNet, x: Tensor<4>) -> Option<[Tensor<4>; 3]> {
        let [_, _, height, width] = x.dims();
        let padding = network.padding();
        let mut inputs = self.inputs.iter();
        let mut window: Option<Window> = None;
        let mut pools = Vec::new();
        let groups = network.groups();
        for (index, group) in groups.iter().enumerate().take(4) {
            for conv in group.iter().flatten() {
                window = Some(match window {
                    // The kernel of three cells carries the map two cells further than the frame's edge lies.
                    None => Window {
                        values: activation::relu(conv.forward_padded(x.clone(), 2)),
                        start: [padding - 2; 2],
                        whole: [height, width].map(|side| side + 2 * padding - 2),
                    },
                    Some(window) => {
                        let input = window.grown(inputs.next()?, [2; 2], window.values.dims())?;
                        Window {
                            values: activation::relu(conv.forward_padded(input, 0)),
                            start: window.start.map(|start| start - 1),
                            whole: window.whole,
                        }
                    }
                });
            }
            let conved = window.take()?;
            window = Some(conved.pooled(inputs.next()?)?);
            if index >= 2 {
                // A skip is cropped later, and small.
                pools.push(window.as_ref()?.all(self.inputs.get(output_of(&groups, index))?));
            }
        }
        let [third, fourth]: [Tensor<4>; 2] = pools.try_into().ok()?;
        let mut fifth = fourth.clone();
        for conv in groups[4].iter().flatten() {
            fifth = activation::relu(conv.forward(fifth));
        }
        Some([third, fourth, max_pool2d(fifth, 2, 2, 0, true)])
    }
}

/// Where in [`Frame::inputs`] the output of a group's pool is.
fn output_of(groups: &[&[Option<Conv2d>]; 5], group: usize) -> usize {
    groups[..=group].iter().map(|group| group.iter().flatten().count() + 1).sum::<usize>() - 1
}

impl Window {
    /// Returns the window with `margin` more cells before it and as many after it, from the frame. `None` if they lie outside.
    fn grown(&self, frame: &Tensor<4>, margin: [usize; 2], dims: [usize; 4]) -> Option<Tensor<4>> {
        let start = [self.start[0].checked_sub(margin[0])?, self.start[1].checked_sub(margin[1])?];
        let end = [start[0] + dims[2] + 2 * margin[0], start[1] + dims[3] + 2 * margin[1]];
        (end[0] <= self.whole[0] && end[1] <= self.whole[1]).then(|| self.within(frame, start, end))
    }

    /// Halves the window, rounded outwards.
    fn pooled(&self, frame: &Tensor<4>) -> Option<Self> {
        let [_, _, height, width] = self.values.dims();
        let start = self.start.map(|start| start / 2);
        let end = [self.start[0] + height, self.start[1] + width].map(|end| end.div_ceil(2));
        let whole = self.whole.map(|side| side.div_ceil(2));
        let inside = 2 * end[0] <= self.whole[0] && 2 * end[1] <= self.whole[1];
        let input = inside.then(|| self.within(frame, start.map(|start| 2 * start), end.map(|end| 2 * end)))?;
        Some(Self { values: max_pool2d(input, 2, 2, 0, true), start, whole })
    }

    /// Returns all of the output.
    fn all(&self, frame: &Tensor<4>) -> Tensor<4> {
        self.within(frame, [0; 2], self.whole)
    }

    /// Returns the cells from `start` to `end`: the window's own, and around them the stretched frame's.
    fn within(&self, frame: &Tensor<4>, start: [usize; 2], end: [usize; 2]) -> Tensor<4> {
        let [_, channels, height, width] = self.values.dims();
        let [_, _, rows, columns] = frame.dims();
        let around = stretched(frame.clone(), 2, start[0]..end[0], self.whole[0], rows);
        let around = stretched(around, 3, start[1]..end[1], self.whole[1], columns);
        let (top, left) = (self.start[0] - start[0], self.start[1] - start[1]);
        around.slice_assign([0..1, 0..channels, top..top + height, left..left + width], self.values.clone())
    }
}

/// Takes cells of a small frame for those of a large one: by the distance from the nearer border, the middle ones repeated.
fn stretched(
    frame: Tensor<4>,
    dimension: usize,
    cells: std::ops::Range<usize>,
    large: usize,
    small: usize,
) -> Tensor<4> {
    let middle = small / 2;
    let indices: Vec<i32> = cells
        .map(|cell| if cell < middle { cell } else { (cell + small).saturating_sub(large).max(middle) } as i32)
        .collect();
    let indices = Tensor::<1, Int>::from_ints(indices.as_slice(), &frame.device());
    frame.select(dimension, indices)
}
