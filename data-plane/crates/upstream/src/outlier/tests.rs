//! Ejections and returns, as Envoy's detector decides them.

use std::sync::Mutex;

use shared_config::cluster::Cluster as ClusterConfig;
use shared_config::endpoint::Assignment;

use super::*;
use crate::cluster::Site;
use crate::cluster::tests::{config, endpoints, site};
use crate::endpoint::Health;

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl EventSink for Told {
    fn outlier(&self, event: &Event<'_>) {
        let text = match event.action {
            Action::Eject { reason, enforced, .. } => format!("{} {enforced} {}", reason.as_str(), event.ejections),
            Action::Uneject => format!("back {}", event.ejections),
        };
        self.0.lock().unwrap().push(text);
    }
}

struct Lab {
    cluster: Cluster,
    told: Arc<Told>,
    site: Site,
}

/// A cluster that may eject all of its endpoints.
fn lab(count: u32, change: impl FnOnce(&mut Config)) -> Lab {
    let told = Arc::new(Told::default());
    let site = Site { events: Some(Arc::clone(&told) as Arc<dyn EventSink>), ..site() };
    let cluster = Cluster::compile(detecting(change), &Assignment::of(endpoints(count)), None, None, &site);
    cluster.take_over(None);
    Lab { cluster, told, site }
}

fn detecting(change: impl FnOnce(&mut Config)) -> Arc<ClusterConfig> {
    let consecutive = |count, enforcing| shared_config::outlier::Consecutive { count, enforcing };
    let mut outlier = Config {
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejection_jitter: Duration::ZERO,
        max_ejection_percent: 100,
        always_eject_one: false,
        consecutive_5xx: consecutive(5, 100),
        consecutive_gateway: consecutive(5, 0),
        consecutive_local: consecutive(5, 100),
        split_local: false,
        success_rate: shared_config::outlier::SuccessRate {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
            enforcing: 100,
            enforcing_local: 100,
        },
        failure_percentage: shared_config::outlier::FailurePercentage {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
            enforcing: 0,
            enforcing_local: 0,
        },
        detect_degraded: false,
        uneject_on_health_check: true,
    };
    change(&mut outlier);
    config(|c| c.outlier = Some(outlier))
}

impl Lab {
    fn endpoint(&self, index: usize) -> Arc<Endpoint> {
        Arc::clone(self.cluster.endpoints().nth(index).unwrap())
    }

    fn see(&self, index: usize, outcome: Outcome, times: u32) {
        let endpoint = self.endpoint(index);
        (0..times).for_each(|_| self.cluster.observe(&endpoint, outcome, 0));
    }

    fn is_out(&self, index: usize) -> bool {
        self.endpoint(index).state.has(Flag::FailedOutlierCheck)
    }

    fn stats(&self) -> &OutlierStats {
        self.cluster.state.outliers.stats().unwrap()
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.0.lock().unwrap())
    }

    /// So many seconds pass, with the refreshes that the control thread does.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            if self.cluster.next_refresh().is_some_and(|at| at <= Instant::now()) {
                self.cluster.refresh();
            }
        }
    }
}

#[track_caller]
fn check_row(split: bool, outcomes: &[(Outcome, u32)], out: Option<&str>) {
    let lab = lab(2, |c| {
        c.split_local = split;
        c.consecutive_gateway.enforcing = 100;
        c.consecutive_gateway.count = 3;
    });
    outcomes.iter().for_each(|(outcome, times)| lab.see(0, *outcome, *times));
    assert_eq!(lab.told(), out.into_iter().collect::<Vec<_>>(), "{outcomes:?}");
    assert_eq!(lab.is_out(0), out.is_some());
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_at_once() {
    use Outcome::*;
    let five = Some("CONSECUTIVE_5XX true 1");
    let gateway = Some("CONSECUTIVE_GATEWAY_FAILURE true 1");
    let local = Some("CONSECUTIVE_LOCAL_ORIGIN_FAILURE true 1");
    check_row(false, &[(Response(500), 5)], five);
    check_row(false, &[(Response(500), 4), (Response(200), 1), (Response(500), 4)], None);
    check_row(false, &[(Response(404), 9)], None);
    check_row(false, &[(Response(503), 3)], gateway);
    check_row(false, &[(Response(503), 2), (Response(500), 1), (Response(503), 1)], None);
    check_row(false, &[(Failed, 2), (TimedOut, 1)], gateway);
    check_row(false, &[(Failed, 2), (Connected, 1), (Failed, 1)], gateway);
    check_row(false, &[(Failed, 2), (Carried, 1), (Failed, 2)], None);
    check_row(true, &[(Failed, 3), (TimedOut, 2)], local);
    check_row(true, &[(Failed, 4), (Connected, 1), (Failed, 4)], None);
    check_row(true, &[(Connected, 5), (Response(503), 3)], gateway);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_reported_is_counted_and_ejects_nobody() {
    let lab = lab(2, |c| c.consecutive_5xx.enforcing = 0);
    lab.see(0, Outcome::Response(500), 10);
    assert_eq!(lab.told(), ["CONSECUTIVE_5XX false 0", "CONSECUTIVE_5XX false 0"]);
    assert!(!lab.is_out(0));
    assert_eq!((lab.stats().detected_5xx().value(), lab.stats().enforced_5xx().value()), (2, 0));
    assert_eq!(lab.stats().ejections_enforced_total().value(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_endpoints_are_out_at_once() {
    let rows = [(10, false, 0), (10, true, 1), (50, false, 2), (50, true, 2), (100, false, 4)];
    for (percent, always_one, wanted) in rows {
        let lab = lab(4, |c| {
            c.max_ejection_percent = percent;
            c.always_eject_one = always_one;
        });
        (0..4).for_each(|index| lab.see(index, Outcome::Response(500), 5));
        assert_eq!((0..4).filter(|index| lab.is_out(*index)).count(), wanted, "{percent} {always_one}");
        assert_eq!(lab.stats().ejections_overflow().value(), 4 - wanted as u64);
        lab.cluster.refresh();
        assert_eq!(lab.stats().ejections_active().value(), wanted as u64);
        assert_eq!(lab.cluster.state.stats.membership_healthy().value(), 4 - wanted as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_ends_after_its_time_and_each_one_is_longer() {
    let lab = lab(2, |_| {});
    for seconds in [30, 60, 90] {
        lab.see(0, Outcome::Response(500), 5);
        lab.pass(seconds - 1).await;
        assert!(lab.is_out(0), "{seconds}");
        // The first end of an interval after its time.
        lab.pass(10).await;
        assert!(!lab.is_out(0), "{seconds}");
    }
    assert_eq!(lab.told().last().unwrap(), "back 3");
    assert_eq!(lab.stats().ejections_active().value(), 0);
    // Three good intervals later it is as if it had never been out.
    lab.pass(60).await;
    lab.see(0, Outcome::Response(500), 5);
    lab.pass(41).await;
    assert!(!lab.is_out(0));
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_never_longer_than_the_maximum() {
    let lab = lab(2, |c| c.max_ejection = Duration::from_secs(40));
    for _ in 0..5 {
        lab.see(0, Outcome::Response(500), 5);
        assert!(lab.is_out(0));
        lab.pass(51).await;
        assert!(!lab.is_out(0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_success_rate_stands_out_is_ejected_at_the_end_of_the_interval() {
    let lab = lab(5, |_| {});
    for index in 0..5 {
        lab.see(index, Outcome::Response(200), if index == 2 { 50 } else { 100 });
    }
    // Never five in a row.
    for _ in 0..25 {
        lab.see(2, Outcome::Response(500), 2);
        lab.see(2, Outcome::Response(200), 0);
        lab.see(2, Outcome::Response(404), 0);
        lab.endpoint(2).state.monitor().start_over(Reason::Consecutive5xx);
    }
    assert!(!lab.is_out(2));
    lab.pass(11).await;
    assert_eq!((0..5).filter(|index| lab.is_out(*index)).collect::<Vec<_>>(), [2]);
    assert_eq!(lab.told(), ["SUCCESS_RATE true 1"]);
    assert_eq!(lab.endpoint(2).state.monitor().success_rate(), Some(50_000));
    assert_eq!(lab.stats().enforced_rate().value(), 1);
    // Without traffic there is no rate.
    lab.pass(10).await;
    assert_eq!(lab.endpoint(2).state.monitor().success_rate(), None);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_more_than_its_percentage_is_ejected() {
    let lab = lab(3, |c| {
        c.consecutive_5xx.count = 0;
        c.failure_percentage.enforcing = 100;
        c.failure_percentage.minimum_hosts = 3;
        c.failure_percentage.threshold = 60;
    });
    for (index, bad) in [(0, 59), (1, 60), (2, 0)] {
        lab.see(index, Outcome::Response(500), bad);
        lab.see(index, Outcome::Response(200), 100 - bad);
    }
    lab.pass(11).await;
    assert_eq!((0..3).map(|index| lab.is_out(index)).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(lab.told(), ["FAILURE_PERCENTAGE true 1"]);
}

#[tokio::test(start_paused = true)]
async fn failures_to_reach_an_endpoint_have_a_rate_of_their_own_when_split() {
    let lab = lab(3, |c| {
        c.split_local = true;
        c.consecutive_local.count = 0;
        c.failure_percentage.enforcing_local = 100;
        c.failure_percentage.minimum_hosts = 3;
    });
    for index in 0..3 {
        lab.see(index, Outcome::Response(200), 100);
        lab.see(index, if index == 0 { Outcome::Failed } else { Outcome::Connected }, 100);
    }
    lab.pass(11).await;
    assert_eq!((0..3).map(|index| lab.is_out(index)).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(lab.told(), ["FAILURE_PERCENTAGE_LOCAL_ORIGIN true 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlives_a_change_of_the_configuration_and_of_the_endpoints() {
    let lab = lab(3, |_| {});
    lab.see(0, Outcome::Response(500), 5);
    lab.see(2, Outcome::Response(500), 5);
    let changed = detecting(|c| c.interval = Duration::from_secs(5));
    let assignment = Assignment::of(endpoints(2));
    let next = Cluster::compile(changed, &assignment, None, Some(&lab.cluster), &lab.site);
    next.take_over(Some(&lab.cluster));
    assert_eq!(next.endpoints().map(|e| e.state.has(Flag::FailedOutlierCheck)).collect::<Vec<_>>(), [true, false]);
    assert_eq!(next.state.outliers.stats().unwrap().ejections_active().value(), 1, "the third one is gone");
    assert!(next.next_refresh().unwrap() <= Instant::now() + Duration::from_secs(5));
    // A version without outlier detection takes all of them back.
    let last = Cluster::compile(config(|_| {}), &assignment, None, Some(&next), &lab.site);
    last.take_over(Some(&next));
    assert!(!last.endpoints().any(|e| e.state.has(Flag::FailedOutlierCheck)));
    assert_eq!(last.state.stats.membership_healthy().value(), 2);
    assert_eq!(last.next_refresh(), None);
}

#[tokio::test(start_paused = true)]
async fn a_good_active_check_ends_an_ejection_unless_it_must_not() {
    for (allowed, failing) in [(true, false), (false, false), (true, true)] {
        let lab = lab(2, |c| c.uneject_on_health_check = allowed);
        lab.see(0, Outcome::Response(500), 5);
        let endpoint = lab.endpoint(0);
        endpoint.state.set(Flag::FailedActiveCheck, failing);
        assert_eq!(lab.cluster.passed_active_check(&endpoint), allowed && !failing);
        assert_eq!(lab.is_out(0), !allowed || failing);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_calls_itself_degraded_is_used_less_for_as_long_as_an_ejection_would_last() {
    let lab = lab(2, |c| c.detect_degraded = true);
    let is_degraded = |lab: &Lab| lab.endpoint(0).health() == Health::Degraded;
    // A failure is none of its business.
    lab.see(0, Outcome::Degraded(500), 1);
    assert!(!is_degraded(&lab));
    for seconds in [30, 60] {
        lab.see(0, Outcome::Degraded(404), 2);
        assert_eq!(lab.endpoint(0).health_flags(false), ["degraded_outlier_detection"]);
        lab.pass(seconds - 1).await;
        assert!(is_degraded(&lab), "{seconds}");
        lab.pass(10).await;
        assert!(!is_degraded(&lab), "{seconds}");
    }
    assert_eq!((lab.stats().detected_degradation().value(), lab.stats().ejections_total().value()), (2, 0));
    assert!(lab.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_calls_itself_counts_only_where_it_is_detected_and_ends_with_detection() {
    let off = lab(2, |_| {});
    off.see(0, Outcome::Degraded(200), 1);
    assert_eq!(off.endpoint(0).health(), Health::Healthy);
    let on = lab(2, |c| c.detect_degraded = true);
    on.see(0, Outcome::Degraded(200), 1);
    assert_eq!(on.endpoint(0).health(), Health::Degraded);
    let assignment = Assignment::of(endpoints(2));
    let last = Cluster::compile(config(|_| {}), &assignment, None, Some(&on.cluster), &on.site);
    last.take_over(Some(&on.cluster));
    assert_eq!(last.state.stats.membership_healthy().value(), 2);
}
