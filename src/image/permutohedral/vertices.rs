//! The vertices of a permutohedral lattice by their coordinates: numbering them as they come, and finding who is next to whom.

use super::enclose::POINTS;

/// A vertex's first `d` coordinates, packed in fields from the lowest bits, biased so that adding a step to all of them is one
/// addition. The last coordinate follows, since they sum to zero.
pub(super) trait Key: Copy + Ord {
    /// The key of no vertex.
    const NONE: Self;
    /// Whether no other kind of key holds more, so that what lies beyond is put at the border.
    const WIDEST: bool;
    /// Bits of the whole key.
    const BITS: usize;

    fn zero() -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn shifted(value: u32, bits: usize) -> Self;
    fn hash(self) -> u64;

    /// Bits of a coordinate.
    fn field(dimensions: usize) -> usize {
        // f32 counts up to 2^24, so that more bits would hold nothing.
        ((Self::BITS - 1) / dimensions).min(25)
    }

    /// The largest coordinate, room for a step of the blur and back to the plane left out.
    fn reach(dimensions: usize) -> f32 {
        ((1u32 << (Self::field(dimensions) - 1)) - 4 * (dimensions as u32 + 1)) as f32
    }

    /// Sets a coordinate that is still zero.
    fn with(self, axis: usize, coordinate: f32, dimensions: usize) -> Self {
        let reach = Self::reach(dimensions);
        let bias = 1i32 << (Self::field(dimensions) - 1);
        let coordinate = coordinate.clamp(-reach, reach) as i32 + bias;
        self.add(Self::shifted(coordinate as u32, axis * Self::field(dimensions)))
    }

    /// One in every coordinate.
    fn ones(dimensions: usize) -> Self {
        (0..dimensions).fold(Self::zero(), |ones, axis| ones.add(Self::shifted(1, axis * Self::field(dimensions))))
    }

    /// A step of the blur along an axis: one up everywhere, and a period down in the axis itself.
    fn step(axis: usize, vertices: usize) -> Self {
        Self::ones(vertices - 1).sub(Self::period(axis, vertices))
    }

    /// `vertices` in one coordinate, or nothing for the coordinate that keys leave out.
    fn period(axis: usize, vertices: usize) -> Self {
        if axis + 1 < vertices {
            Self::shifted(vertices as u32, axis * Self::field(vertices - 1))
        } else {
            Self::zero()
        }
    }
}

macro_rules! key {
    ($type:ty, $widest:expr, $hash:expr) => {
        impl Key for $type {
            const NONE: Self = Self::MAX;
            const WIDEST: bool = $widest;
            const BITS: usize = Self::BITS as usize;

            #[inline(always)]
            fn zero() -> Self {
                0
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline(always)]
            fn shifted(value: u32, bits: usize) -> Self {
                Self::from(value) << bits
            }

            #[inline(always)]
            fn hash(self) -> u64 {
                // Multiplicative hashing with odd constants near 2^64 / golden ratio; the high bits are the mixed ones.
                $hash(self)
            }
        }
    };
}

key!(u64, false, |key: u64| (key ^ (key >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
key!(u128, true, |key: u128| {
    let mixed =
        (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((key >> 64) as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
});

/// An open-addressing hash table from keys to vertices, which are numbered from 1 as they come.
pub(super) struct Table<K> {
    /// Vertex per slot; 0 is an empty slot. A power of two long, at most half full.
    slots: Vec<u32>,
    /// Key per vertex; that of vertex 0 stands for nothing.
    keys: Vec<K>,
}

impl<K: Key> Table<K> {
    pub(super) fn new(expected: usize) -> Self {
        Self { slots: vec![0; (expected * 2).next_power_of_two().max(64)], keys: vec![K::NONE] }
    }

    #[inline(always)]
    fn slot(&self, key: K) -> usize {
        (key.hash() >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    /// Notes at `corner` of each point the vertex of its key, after numbering those that are new; keys beyond the points are left.
    pub(super) fn insert<const VERTICES: usize>(
        &mut self,
        keys: &[K; POINTS],
        points: &mut [[u32; VERTICES]],
        corner: usize,
    ) {
        // First a guess for all of them, without a branch, so that the processor waits for many memory cells at once.
        let guesses: [u32; POINTS] = std::array::from_fn(|at| self.slots[self.slot(keys[at])]);
        for ((&key, &guess), point) in keys.iter().zip(&guesses).zip(points) {
            point[corner] = if self.keys[guess as usize] == key { guess } else { self.insert_one(key) };
        }
    }

    fn insert_one(&mut self, key: K) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = self.slot(key);
        loop {
            let vertex = self.slots[slot];
            if vertex == 0 {
                break;
            }
            if self.keys[vertex as usize] == key {
                return vertex;
            }
            slot = (slot + 1) & mask;
        }
        let vertex = self.keys.len() as u32;
        self.keys.push(key);
        self.slots[slot] = vertex;
        if self.keys.len() * 2 > self.slots.len() {
            self.grow();
        }
        vertex
    }

    /// Puts the vertices in order.
    pub(super) fn into_sorted(self) -> Sorted<K> {
        let mut order: Vec<(K, u32)> = self.keys.into_iter().zip(0..).skip(1).collect();
        order.sort_unstable();
        Sorted { order }
    }

    #[cold]
    fn grow(&mut self) {
        self.slots = vec![0; self.slots.len() * 2];
        let mask = self.slots.len() - 1;
        for vertex in 1..self.keys.len() {
            let mut slot = self.slot(self.keys[vertex]);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = vertex as u32;
        }
    }
}

/// The vertices in order of their keys; their place in this order, from 1, is the number they keep.
pub(super) struct Sorted<K> {
    /// Per place the key, and the number that the table gave.
    order: Vec<(K, u32)>,
}

impl<K: Key> Sorted<K> {
    /// Returns the new number of each vertex by its old one.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers = vec![0; self.order.len() + 1];
        for (number, &(_, vertex)) in (1..).zip(&self.order) {
            numbers[vertex as usize] = number;
        }
        numbers
    }

    /// Returns for each vertex those one step before and after; 0 where there is none.
    ///
    /// The keys one step away are in order too, so that neighbours are found by going through both side by side, without the
    /// jumps through memory that a look-up of each would take.
    pub(super) fn neighbours(&self, step: K) -> Vec<[u32; 2]> {
        let mut pairs = vec![[0; 2]; self.order.len() + 1];
        let mut before = 0;
        for (vertex, &(key, _)) in self.order.iter().enumerate() {
            let key = key.sub(step);
            while before < self.order.len() && self.order[before].0 < key {
                before += 1;
            }
            if before < self.order.len() && self.order[before].0 == key {
                pairs[vertex + 1][0] = before as u32 + 1;
                pairs[before + 1][1] = vertex as u32 + 1;
            }
        }
        pairs
    }
}
