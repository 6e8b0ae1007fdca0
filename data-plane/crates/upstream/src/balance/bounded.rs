//! Consistent hashing with bounded loads: an endpoint that has more than its part is passed over for another one,
//! the same for the same hash (arXiv 1608.01350, with the random jump of arXiv 1908.08762).

use crate::endpoint::Vitals;

/// The bound on each endpoint's load.
#[derive(Debug)]
pub(crate) struct Bounded {
    /// Percent of the mean load.
    factor: u32,
    /// Add up to 1.
    shares: Box<[f64]>,
}

impl Bounded {
    pub(crate) fn new(factor: u32, shares: Vec<f64>) -> Self {
        Self { factor, shares: shares.into() }
    }

    /// `index`, or another endpoint when that one has too much. `total` requests run in the whole cluster.
    pub(crate) fn choose(&self, index: usize, hash: u64, endpoints: &[&Vitals], total: u32) -> usize {
        let first = self.overload(index, endpoints, total);
        if first <= 1.0 {
            return index;
        }
        let mut rng = fastrand::Rng::with_seed(hash);
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        let (mut best, mut least) = (index, first);
        for at in 0..order.len() {
            let other = rng.usize(at..order.len());
            order.swap(at, other);
            let overload = self.overload(order[at], endpoints, total);
            if overload <= 1.0 {
                return order[at];
            }
            if overload < least {
                (best, least) = (order[at], overload);
            }
        }
        best
    }

    /// An endpoint's load over its part: more than 1 is too much.
    fn overload(&self, index: usize, endpoints: &[&Vitals], total: u32) -> f64 {
        let slots = ((u64::from(total) + 1) * u64::from(self.factor)).div_ceil(100);
        #[allow(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
        let part = (slots as f64 * self.shares[index]).ceil().max(1.0);
        f64::from(endpoints[index].active()) / part
    }
}
