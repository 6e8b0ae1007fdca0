//! What is done at the end of every interval: ejections that are over, and endpoints whose rates stand out.
//!
//! On the control thread only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shared_config::outlier::OutlierDetection as Config;
use tokio::time::Instant;

use super::event::Rates;
use super::monitor::Volume;
use super::{Reason, millis};
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Flag};

/// Shard of the control thread in the statistics.
const CONTROL: usize = 0;

/// Answers, or whether the endpoint could be reached at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Answers,
    Local,
}

impl Cluster {
    /// When the interval ends, if outliers are detected.
    pub(crate) fn outlier_interval_ends(&self) -> Option<Instant> {
        self.config.outlier.as_ref()?;
        let detector = &self.state.outliers;
        let ends = detector.interval_ends.load(Relaxed);
        ends.checked_sub(1).map(|ends| detector.began + Duration::from_millis(ends))
    }

    /// Starts the interval of a version that takes over; one that runs goes on, unless this version's is shorter.
    /// Whether endpoints came back, so that the tables must be made anew.
    pub(crate) fn begin_outlier_interval(&self) -> bool {
        let detector = &self.state.outliers;
        let Some(config) = &self.config.outlier else {
            detector.interval_ends.store(0, Relaxed);
            // Nobody would end their ejection.
            let now = detector.at(Instant::now());
            let ends = |endpoint: &&Arc<Endpoint>| {
                self.return_to_service(endpoint, now) | endpoint.state.set(Flag::DegradedOutlierCheck, false)
            };
            return self.endpoints().filter(ends).count() > 0;
        };
        let new = detector.at(Instant::now()).saturating_add(millis(config.interval));
        let old = detector.interval_ends.load(Relaxed);
        detector.interval_ends.store(if old == 0 { new } else { old.min(new) }, Relaxed);
        false
    }

    /// Ends the interval if it is over. The tables must be made anew afterwards.
    pub(crate) fn end_outlier_interval(&self, now: Instant) {
        let Some(config) = &self.config.outlier else { return };
        if self.outlier_interval_ends().is_none_or(|ends| now < ends) {
            return;
        }
        let detector = &self.state.outliers;
        let at = detector.at(now);
        let mut volumes = Vec::with_capacity(self.endpoint_count());
        for endpoint in self.endpoints() {
            let monitor = endpoint.state.monitor();
            if endpoint.state.has(Flag::FailedOutlierCheck) && monitor.out.may_end(at, config) {
                self.return_to_service(endpoint, at);
            }
            if endpoint.state.has(Flag::DegradedOutlierCheck) && monitor.degraded.may_end(at, config) {
                endpoint.state.set(Flag::DegradedOutlierCheck, false);
                monitor.degraded.end(at);
            }
            volumes.push((endpoint, monitor.answers.take(), monitor.local.take()));
        }
        for origin in [Origin::Answers, Origin::Local] {
            let volumes = volumes.iter().map(|(endpoint, answers, local)| match origin {
                Origin::Answers => (*endpoint, *answers),
                Origin::Local => (*endpoint, *local),
            });
            self.eject_by_rate(config, origin, volumes);
        }
        for endpoint in self.endpoints() {
            let (state, monitor) = (&endpoint.state, endpoint.state.monitor());
            let terms = [(Flag::FailedOutlierCheck, &monitor.out), (Flag::DegradedOutlierCheck, &monitor.degraded)];
            terms.iter().filter(|(flag, _)| !state.has(*flag)).for_each(|(_, term)| term.forgive(at, config));
        }
        detector.interval_ends.store(at.saturating_add(millis(config.interval)), Relaxed);
    }

    fn eject_by_rate<'a>(
        &self,
        config: &Config,
        origin: Origin,
        volumes: impl Iterator<Item = (&'a Arc<Endpoint>, Volume)>,
    ) {
        let (by_deviation, by_percentage) = (&config.success_rate, &config.failure_percentage);
        let fewest = by_deviation.minimum_hosts.min(by_percentage.minimum_hosts) as usize;
        let enough = by_deviation.request_volume.min(by_percentage.request_volume);
        let mut seen: Vec<(&Arc<Endpoint>, u32, f64)> = Vec::new();
        for (endpoint, volume) in volumes {
            let usable =
                self.endpoint_count() >= fewest && volume.all > 0 && !endpoint.state.has(Flag::FailedOutlierCheck);
            let rate = (usable && volume.all >= enough).then(|| volume.success_rate());
            origin.rate(endpoint).report(rate);
            if usable {
                seen.push((endpoint, volume.all, volume.success_rate()));
            }
        }
        let with = |volume: u32| seen.iter().filter(move |(_, all, _)| *all >= volume).map(|(e, _, rate)| (*e, *rate));
        let hosts: Vec<_> = with(by_deviation.request_volume).collect();
        if !hosts.is_empty() && hosts.len() >= by_deviation.minimum_hosts as usize {
            let limit = Limit::of(&hosts, f64::from(by_deviation.stdev_factor) / 1000.0);
            for (endpoint, rate) in hosts.iter().filter(|(_, rate)| *rate < limit.threshold) {
                if let Some(stats) = self.state.outliers.stats() {
                    stats.ejections_success_rate().inc(CONTROL);
                }
                let rates = Rates { endpoint: *rate, average: limit.average, threshold: limit.threshold };
                self.stands_out(config, endpoint, origin.by_deviation(), rates);
            }
        }
        let hosts: Vec<_> = with(by_percentage.request_volume).collect();
        if !hosts.is_empty() && hosts.len() >= by_percentage.minimum_hosts as usize {
            for (endpoint, rate) in hosts.iter().filter(|(_, rate)| 100.0 - rate >= by_percentage.threshold.into()) {
                let rates = Rates { endpoint: *rate, average: -1.0, threshold: -1.0 };
                self.stands_out(config, endpoint, origin.by_percentage(), rates);
            }
        }
    }

    fn stands_out(&self, config: &Config, endpoint: &Endpoint, reason: Reason, rates: Rates) {
        if let Some(stats) = self.state.outliers.stats() {
            stats.detected(reason, CONTROL);
        }
        // The first reason is enough.
        if !endpoint.state.has(Flag::FailedOutlierCheck) {
            self.eject(config, endpoint, reason, CONTROL, Some(rates));
        }
    }

    /// Counts the ejected endpoints anew: some may have left the cluster meanwhile.
    pub(crate) fn recount_ejected(&self) {
        let detector = &self.state.outliers;
        let Some(stats) = detector.stats() else { return };
        let before = detector.ejected.load(Relaxed);
        let found = self.endpoints().filter(|endpoint| endpoint.state.has(Flag::FailedOutlierCheck)).count();
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        // A worker that ejects at this moment calls for the next refresh, and so for the next count.
        let _ = detector.ejected.compare_exchange(before, found, Relaxed, Relaxed);
        stats.ejections_active().set(found.into());
    }
}

// === impl Origin ===

impl Origin {
    fn rate(self, endpoint: &Endpoint) -> &super::monitor::Rate {
        match self {
            Self::Answers => &endpoint.state.monitor().answers,
            Self::Local => &endpoint.state.monitor().local,
        }
    }

    fn by_deviation(self) -> Reason {
        if self == Self::Answers { Reason::SuccessRate } else { Reason::SuccessRateLocal }
    }

    fn by_percentage(self) -> Reason {
        if self == Self::Answers { Reason::FailurePercentage } else { Reason::FailurePercentageLocal }
    }
}

/// The success rate under which an endpoint stands out.
struct Limit {
    average: f64,
    threshold: f64,
}

impl Limit {
    /// So many standard deviations below the average.
    #[allow(clippy::cast_precision_loss, reason = "a count of endpoints")]
    fn of(hosts: &[(&Arc<Endpoint>, f64)], deviations: f64) -> Self {
        let count = hosts.len() as f64;
        let average = hosts.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = hosts.iter().map(|(_, rate)| (rate - average).powi(2)).sum::<f64>() / count;
        Self { average, threshold: average - deviations * variance.sqrt() }
    }
}
