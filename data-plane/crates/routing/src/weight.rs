//! Picking among weighted clusters by a number.

use shared_config::core::RuntimeNumber;
use shared_config::route::{ClusterSpecifier, ClusterWeight, WeightedClusters};

/// Running sums of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    sums: Vec<u32>,
    total: u32,
}

impl Weights {
    pub fn compile(config: &WeightedClusters) -> Self {
        let prefix = &config.runtime_key_prefix;
        let sums: Vec<u32> = config
            .clusters
            .iter()
            .scan(0u32, |sum, cluster| {
                *sum = sum.saturating_add(weight(cluster, prefix));
                Some(*sum)
            })
            .collect();
        // Where runtime keys may say otherwise, the weights in force are what they add up to.
        let total = if prefix.is_empty() { config.total } else { sums.last().copied().unwrap_or_default() };
        Self { sums, total: total.max(1) }
    }

    /// The index of the cluster that `number` falls on: a random value, or what a header or hash says.
    pub fn pick(&self, number: u64) -> usize {
        let at = (number % u64::from(self.total)) as u32;
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len().saturating_sub(1))
    }
}

/// The weight of a cluster, or what the runtime key `PREFIX.CLUSTER` says.
fn weight(cluster: &ClusterWeight, prefix: &str) -> u32 {
    match &cluster.cluster {
        ClusterSpecifier::Cluster(name) if !prefix.is_empty() => {
            let number = RuntimeNumber { default: cluster.weight, key: format!("{prefix}.{name}") };
            u32::try_from(number.value()).unwrap_or(u32::MAX)
        }
        _ => cluster.weight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_gets_its_share() {
        let weights = Weights { sums: vec![0, 1, 4, 4], total: 4 };
        let picks: Vec<_> = (0..8).map(|n| weights.pick(n)).collect();
        assert_eq!(picks, [1, 2, 2, 2, 1, 2, 2, 2]);
    }
}
