//! Drawing an index by weight in constant time (Vose's alias method).

/// A table to draw from.
#[derive(Debug)]
pub(crate) struct Alias {
    /// The index keeps a draw that lands below its threshold (of 2^32), and gives it to the other index otherwise.
    rows: Box<[(u64, u32)]>,
}

impl Alias {
    /// # Panics
    /// Never for the weights of a cluster: there is at least one and at most 2^32 of them, none of them 0.
    #[allow(clippy::cast_possible_truncation, reason = "fewer than 2^32 endpoints; thresholds are at most 2^32")]
    pub(crate) fn build(weights: &[u64]) -> Self {
        let count = weights.len() as u128;
        let total: u128 = weights.iter().map(|w| u128::from(*w)).sum::<u128>().max(1);
        let mut scaled: Vec<u128> = weights.iter().map(|w| u128::from(*w) * count).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|&i| scaled[i] < total);
        let mut rows = vec![(1 << 32, 0); weights.len()];
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            rows[less] = (((scaled[less] << 32) / total) as u64, more as u32);
            scaled[more] -= total - scaled[less];
            if scaled[more] < total { &mut small } else { &mut large }.push(more);
        }
        Self { rows: rows.into() }
    }

    pub(crate) fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        let index = rng.usize(..self.rows.len());
        let (threshold, other) = self.rows[index];
        if u64::from(rng.u32(..)) < threshold { index } else { other as usize }
    }
}
