//! Connecting ahead of the requests that will come to a cluster (Envoy `predictive_preconnect_ratio`).
//!
//! What the next picks will be is drawn early and remembered, so that they do choose the endpoints that connections were
//! made to. Kept only for clusters whose ratio is above 1; one for each worker, as their pools are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::{CheckoutOptions, Pools};
use crate::cluster::{Cluster, ClusterState};
use crate::endpoint::Endpoint;

/// At most so many connections are begun for one request, as in Envoy.
const MOST: usize = 3;

/// What one worker knows of the requests to one cluster.
pub(super) struct Ahead {
    /// Its address is the key, so that it must stay.
    _state: Arc<ClusterState>,
    /// What picks to come will be drawn from; their endpoints were looked at already.
    seeds: RefCell<VecDeque<u64>>,
    /// Those that wait for a connection and those that have one.
    requests: Cell<usize>,
    /// How many requests the connections there are, or are on their way, can carry at a time.
    room: Cell<usize>,
}

/// A request that waits or runs; over when dropped.
pub(super) struct Request(Rc<Ahead>);

/// The room of one connection; gone when dropped.
pub(super) struct Room {
    ahead: Rc<Ahead>,
    requests: Cell<usize>,
}

// === impl Ahead ===

impl Ahead {
    pub(super) fn new(state: &Arc<ClusterState>) -> Rc<Self> {
        Rc::new(Self {
            _state: Arc::clone(state),
            seeds: RefCell::default(),
            requests: Cell::new(0),
            room: Cell::new(0),
        })
    }

    /// A request begins.
    pub(super) fn begin(self: &Rc<Self>) -> Request {
        self.requests.set(self.requests.get() + 1);
        Request(Rc::clone(self))
    }

    /// A connection begins that will carry so many requests.
    pub(super) fn room(self: &Rc<Self>, requests: usize) -> Room {
        self.room.set(self.room.get().saturating_add(requests));
        Room { ahead: Rc::clone(self), requests: Cell::new(requests) }
    }

    /// The endpoint of a pick to come. No more of them are looked at than there are healthy endpoints.
    fn peek(&self, cluster: &Cluster, worker: usize) -> Option<Arc<Endpoint>> {
        let mut seeds = self.seeds.borrow_mut();
        if seeds.len() >= cluster.healthy_endpoints() {
            return None;
        }
        let seed = fastrand::u64(..);
        let endpoint = cluster.peek(&mut fastrand::Rng::with_seed(seed), worker, seeds.len() as u64);
        seeds.push_back(seed);
        endpoint
    }
}

/// Whether one more request would have less than `ratio` places (Envoy `shouldConnect`).
pub(super) fn wants_more(requests: usize, room: usize, ratio: f64) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    let (wanted, room) = ((requests + 1) as f64 * ratio, room as f64);
    wanted > room
}

// === impl Pools ===

impl Pools {
    /// The random numbers of the next pick, where it was looked at ahead.
    pub fn foreseen(&self, cluster: &Cluster) -> Option<fastrand::Rng> {
        if cluster.config.predictive_ratio <= 1.0 {
            return None;
        }
        let seed = self.ahead(cluster)?.seeds.borrow_mut().pop_front()?;
        Some(fastrand::Rng::with_seed(seed))
    }

    /// What is known of a cluster that connects ahead.
    pub(super) fn ahead(&self, cluster: &Cluster) -> Option<Rc<Ahead>> {
        self.0.ahead(cluster)
    }

    /// Connects to the endpoints of the next requests, as far as the ratio asks for it.
    pub(super) fn connect_ahead(&self, ahead: &Ahead, cluster: &Arc<Cluster>, options: &CheckoutOptions) {
        let ratio = cluster.config.predictive_ratio;
        for _ in 0..MOST {
            if !wants_more(ahead.requests.get(), ahead.room.get(), ratio) {
                return;
            }
            let Some(endpoint) = ahead.peek(cluster, self.0.worker) else { return };
            let Some(queue) = self.queue(cluster, &endpoint, options) else { return };
            if !queue.connect_ahead(cluster, &endpoint, options.priority) {
                return;
            }
        }
    }
}

// === impl Request ===

impl Drop for Request {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
    }
}

// === impl Room ===

impl Room {
    /// It turned out that the connection carries another number of requests.
    pub(super) fn becomes(&self, requests: usize) {
        let others = self.ahead.room.get().saturating_sub(self.requests.replace(requests));
        self.ahead.room.set(others.saturating_add(requests));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.becomes(0);
    }
}

#[cfg(test)]
mod tests {
    use shared_config::cluster::Cluster as Config;
    use shared_config::core::Address;
    use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig};
    use shared_config::lb_policy::{Algorithm, LbPolicy, LeastRequest};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::PickContext;
    use crate::cluster::tests::{cluster, config};
    use crate::pool::Checkout;

    struct Bench {
        pools: Pools,
        cluster: Arc<Cluster>,
        _listeners: Vec<TcpListener>,
    }

    impl Bench {
        /// Endpoints that accept connections, by the kernel at least.
        async fn new(endpoints: usize, change: impl FnOnce(&mut Config)) -> Self {
            let mut listeners = Vec::new();
            for _ in 0..endpoints {
                listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
            }
            let endpoint = |l: &TcpListener| EndpointConfig::new(Address::Ip(l.local_addr().unwrap()));
            let assignment = Assignment::of(listeners.iter().map(endpoint).collect());
            Self { pools: Pools::new(0), cluster: cluster(config(change), &assignment), _listeners: listeners }
        }

        /// What the next pick takes, and the connections there were to it.
        async fn next(&self) -> (Checkout, u32) {
            let mut rng = self.pools.foreseen(&self.cluster).unwrap_or_default();
            let endpoint = self.cluster.pick(&mut PickContext::new(&mut rng, 0)).unwrap();
            let before = endpoint.state.connections();
            let checkout = self.pools.checkout(&self.cluster, &endpoint, &CheckoutOptions::default()).await;
            (checkout.unwrap(), before)
        }

        fn connections(&self) -> u32 {
            self.cluster.endpoints().map(|endpoint| endpoint.state.connections()).sum()
        }
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test));
    }

    #[test]
    fn connections_wait_where_the_next_requests_go() {
        for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
            on_a_worker(async move {
                let bench = Bench::new(8, |c| {
                    c.predictive_ratio = 3.0;
                    c.lb = LbPolicy::of(algorithm);
                })
                .await;
                let mut held = vec![bench.next().await.0];
                // Three for the requests to come, and its own unless chance chose one of theirs.
                assert!(bench.connections() >= 3);
                for _ in 0..6 {
                    let (checkout, before) = bench.next().await;
                    assert!(before > 0, "{:?}", bench.cluster.config.lb.algorithm);
                    held.push(checkout);
                }
                let ahead = bench.pools.ahead(&bench.cluster).unwrap();
                assert_eq!(ahead.requests.get(), 7);
                assert_eq!(ahead.room.get(), bench.connections() as usize);
                assert!(ahead.seeds.borrow().len() <= 8);
                drop(held);
                assert_eq!(ahead.requests.get(), 0);
            });
        }
    }

    #[test]
    fn nothing_is_connected_ahead_where_the_next_pick_is_not_known_or_nobody_asked() {
        let least = Algorithm::LeastRequest(LeastRequest { choices: 2, bias: 1.0, full_scan: false });
        for (algorithm, ratio) in [(least, 3.0), (Algorithm::RoundRobin, 1.0)] {
            on_a_worker(async move {
                let bench = Bench::new(4, |c| {
                    c.predictive_ratio = ratio;
                    c.lb = LbPolicy::of(algorithm);
                })
                .await;
                let _held = bench.next().await;
                assert_eq!(bench.connections(), 1);
            });
        }
    }

    #[test]
    fn one_more_request_has_as_many_places_as_the_ratio_says() {
        let check = |requests, room, ratio, wanted| assert_eq!(wants_more(requests, room, ratio), wanted);
        check(0, 0, 1.5, true);
        check(0, 1, 1.5, true);
        check(0, 2, 1.5, false);
        check(3, 6, 1.5, false);
        check(3, 5, 1.5, true);
        // HTTP/2: one connection has room enough.
        check(20, 1024, 3.0, false);
    }
}
