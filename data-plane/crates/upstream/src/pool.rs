//! The connections of one worker to the endpoints of all clusters.
//!
//! A checkout takes an idle connection, or a place on an HTTP/2 connection, or waits for a new one. Connecting runs on
//! its own, so that a caller that goes away leaves a connection for the next. Nothing here is `Send`, and no borrow is
//! held over an await.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dp_http::head::Protocol;
use dp_http::{Io, h1, stream::ClientStream};
use dp_net::Reset;
use hashbrown::HashMap;
use shared_config::cluster::Protocols;
use tokio::time::Instant;

mod ahead;
pub mod connect;
mod connection;
mod queue;

pub use connect::ConnectError;
pub use connection::{Connection, Timing};

use crate::breaker::{Guard, Priority, Resource};
use crate::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::proxy_header::Proxied;
use ahead::{Ahead, Request};
use connect::Wanted;
use connection::Ready;
use queue::Queue;

/// How many connections are looked after before others have their turn.
const SWEEP_TURN: usize = 100;

/// All connections of one worker. Clones share them.
#[derive(Clone)]
pub struct Pools(Rc<Inner>);

pub(crate) struct Inner {
    worker: usize,
    queues: RefCell<HashMap<Key, Rc<Queue>>>,
    /// Of the clusters that connect ahead, by the address of their state.
    ahead: RefCell<HashMap<usize, Rc<Ahead>>>,
    /// Some queue was made for one downstream connection.
    any_owned: Cell<bool>,
    next_id: Cell<u64>,
}

/// What may differ between connections to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    endpoint: u64,
    wanted: Wanted,
    server_name: Option<Arc<str>>,
    /// The downstream connection that has it for itself.
    owner: Option<u64>,
    proxied: Option<Arc<Proxied>>,
}

/// What a request asks of its connection.
#[derive(Debug, Clone, Default)]
pub struct CheckoutOptions {
    pub priority: Priority,
    /// What the client speaks, for clusters that speak the same.
    pub downstream: Protocol,
    /// The name to ask for by TLS in place of the configured one (`auto_sni`).
    pub server_name: Option<Arc<str>>,
    /// The id of the client's connection, which may have connections of its own
    /// (`connection_pool_per_downstream_connection`).
    pub owner: Option<u64>,
    /// Who the connection is for; only for clusters that say so in a PROXY protocol header.
    pub proxied: Option<Arc<Proxied>>,
}

/// A connection, or a place on one, for one request.
pub struct Checkout {
    pub stream: ClientStream,
    pub connection: Rc<Connection>,
    /// Another request went over the connection before.
    pub reused: bool,
    /// Where the connection goes back to.
    queue: Option<Rc<Queue>>,
    _request: Option<Request>,
}

/// A connection whose bytes are the caller's.
pub struct RawConnection {
    pub io: Io,
    /// Makes it end with a reset.
    pub reset: Reset,
    pub connection: Rc<Connection>,
}

/// What a request finds when it asks for a connection.
pub enum Asked {
    Free(Checkout),
    Waits(Waiting),
}

/// A request whose connection is not there yet.
pub struct Waiting {
    queue: Rc<Queue>,
    request: Option<Request>,
}

// === impl Pools ===

impl Pools {
    /// The pools of worker number `worker`, counted from 0.
    pub fn new(worker: usize) -> Self {
        let any_owned = Cell::new(false);
        let next_id = Cell::new(1);
        Self(Rc::new(Inner { worker, queues: RefCell::default(), ahead: RefCell::default(), any_owned, next_id }))
    }

    /// A stream to send one request on.
    ///
    /// # Errors
    /// A circuit breaker is open, or connecting failed.
    pub async fn checkout(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        options: &CheckoutOptions,
    ) -> Result<Checkout, ConnectError> {
        match self.ask(cluster, endpoint, options)? {
            Asked::Free(checkout) => Ok(checkout),
            Asked::Waits(waiting) => self.wait(waiting, cluster, endpoint, options).await,
        }
    }

    /// The first half of [`Self::checkout`], which is all of it when a connection is free.
    ///
    /// # Errors
    /// The circuit breaker for pools is open.
    pub fn ask(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        options: &CheckoutOptions,
    ) -> Result<Asked, ConnectError> {
        let ahead = self.ahead(cluster);
        if let Some(ahead) = &ahead {
            self.connect_ahead(ahead, cluster, options);
        }
        let request = ahead.map(|ahead| ahead.begin());
        let queue = self.queue(cluster, endpoint, options).ok_or(ConnectError::PoolOverflow)?;
        let Some(ready) = queue.take(cluster) else { return Ok(Asked::Waits(Waiting { queue, request })) };
        if cluster.config.preconnect_ratio > 1.0 {
            queue.grow(cluster, endpoint, options.priority);
        }
        Ok(Asked::Free(Checkout::new(ready, queue, request)))
    }

    /// The second half: a connection is made, or one becomes free.
    ///
    /// # Errors
    /// The circuit breaker for pending requests is open, or connecting failed.
    pub async fn wait(
        &self,
        Waiting { queue, request }: Waiting,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        options: &CheckoutOptions,
    ) -> Result<Checkout, ConnectError> {
        let worker = self.0.worker;
        let pending =
            cluster.admit(Resource::Pending, options.priority, worker).ok_or(ConnectError::PendingOverflow)?;
        let _pending = Pending::begin(cluster, worker, pending);
        let waiting = queue.wait();
        queue.grow(cluster, endpoint, options.priority);
        let ready = waiting.await.map_err(|_| ConnectError::Closed)?;
        let ready = ready.inspect_err(|_| cluster.state.stats.upstream_rq_pending_failure_eject().inc(worker + 1))?;
        Ok(Checkout::new(ready, queue, request))
    }

    /// A connection whose bytes are the caller's, for TCP.
    ///
    /// # Errors
    /// A circuit breaker is open, or connecting failed.
    pub async fn connect_raw(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        options: &CheckoutOptions,
    ) -> Result<RawConnection, ConnectError> {
        let worker = self.0.worker;
        let guard =
            cluster.admit(Resource::Connections, options.priority, worker).ok_or(ConnectError::ConnectionOverflow)?;
        let limit = cluster.config.breakers.per_host_connections;
        let slot =
            connection::Slot::open(cluster, endpoint, guard, worker, limit).ok_or(ConnectError::ConnectionOverflow)?;
        let (name, proxied) = (options.server_name.as_deref(), options.proxied.as_deref());
        let made = connect::connect(cluster, endpoint, Wanted::Raw, name, proxied, worker).await;
        let made = made.inspect_err(|error| connect::count_failure(cluster, endpoint, worker, error))?;
        let connection = Rc::new(slot.connected(self.next_id(), &made, Protocol::Http11));
        Ok(RawConnection { io: made.io, reset: made.reset, connection })
    }

    /// `None`: the circuit breaker for pools is open.
    fn queue(&self, cluster: &Cluster, endpoint: &Endpoint, options: &CheckoutOptions) -> Option<Rc<Queue>> {
        let wanted = match (cluster.config.http.protocols, options.downstream) {
            (Protocols::Http1, _) | (Protocols::Downstream, Protocol::Http10 | Protocol::Http11) => Wanted::Http1,
            (Protocols::Http2, _) | (Protocols::Downstream, Protocol::Http2) => Wanted::Http2,
            (Protocols::Auto, _) => Wanted::Negotiated,
        };
        let owner = options.owner.filter(|_| cluster.config.pool_per_downstream);
        let key = Key {
            endpoint: endpoint.state.id,
            wanted,
            server_name: options.server_name.clone(),
            owner,
            proxied: options.proxied.clone(),
        };
        if let Some(queue) = self.0.queues.borrow().get(&key) {
            return Some(Rc::clone(queue));
        }
        let guard = self.pool_guard(cluster, options.priority)?;
        if owner.is_some() {
            self.0.any_owned.set(true);
        }
        let asked = (key.server_name.clone(), key.proxied.clone());
        let queue = Rc::new(Queue::new(Rc::downgrade(&self.0), self.0.worker, wanted, asked, guard));
        self.0.queues.borrow_mut().insert(key, Rc::clone(&queue));
        Some(queue)
    }

    /// A place for one more pool. Pools without connections give up theirs when there is none.
    fn pool_guard(&self, cluster: &Cluster, priority: Priority) -> Option<Guard> {
        let breakers = &cluster.state.breakers;
        let limits = cluster.thresholds(priority);
        if breakers.used(priority, Resource::Pools) >= breakers.limit(limits, priority, Resource::Pools) {
            self.forget_empty();
        }
        cluster.admit(Resource::Pools, priority, self.0.worker)
    }

    fn forget_empty(&self) {
        self.0.queues.borrow_mut().retain(|_, queue| !queue.is_empty() || Rc::strong_count(queue) > 1);
    }

    fn next_id(&self) -> u64 {
        self.0.next_id()
    }

    /// Closes what was idle for too long, was closed by the other side, or belongs to an endpoint that is gone.
    pub async fn sweep(&self, now: Instant) {
        let all: Vec<Rc<Queue>> = self.0.queues.borrow().values().cloned().collect();
        let mut turn = 0;
        for queue in &all {
            queue.sweep(now);
            turn += 1 + queue.idle();
            // Ten thousand connections take ten milliseconds, for which no request may wait.
            if turn >= SWEEP_TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        drop(all);
        self.forget_empty();
        self.0.ahead.borrow_mut().retain(|_, ahead| Rc::strong_count(ahead) > 1);
    }

    /// Sweeps once a second for as long as the pools are in use elsewhere; the worker spawns it.
    pub async fn maintain(self) {
        let pools = Rc::downgrade(&self.0);
        drop(self);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            let Some(inner) = pools.upgrade() else { return };
            Self(inner).sweep(now).await;
        }
    }

    /// A client's connection ended: those that were only for it close.
    pub fn disown(&self, owner: u64) {
        if !self.0.any_owned.get() {
            return;
        }
        let owned: Vec<Rc<Queue>> =
            self.0.queues.borrow_mut().extract_if(|key, _| key.owner == Some(owner)).map(|(_, queue)| queue).collect();
        owned.iter().for_each(|queue| queue.close_idle());
    }

    /// Closes all idle connections, for a drain.
    pub fn close_idle(&self) {
        let all: Vec<Rc<Queue>> = self.0.queues.borrow().values().cloned().collect();
        all.iter().for_each(|queue| queue.close_idle());
    }

    /// Idle connections, for the admin server and tests.
    pub fn idle(&self) -> usize {
        self.0.queues.borrow().values().map(|queue| queue.idle()).sum()
    }
}

impl Inner {
    /// What is known of a cluster that connects ahead.
    fn ahead(&self, cluster: &Cluster) -> Option<Rc<Ahead>> {
        if cluster.config.predictive_ratio <= 1.0 {
            return None;
        }
        let mut all = self.ahead.borrow_mut();
        let ahead = all.entry(Arc::as_ptr(&cluster.state) as usize).or_insert_with(|| Ahead::new(&cluster.state));
        Some(Rc::clone(ahead))
    }

    /// Connection ids are unique in the process: the worker's number is in the upper bits.
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        ((self.worker as u64 + 1) << 48) | id
    }
}

/// A request that waits for a connection.
struct Pending {
    cluster: Arc<Cluster>,
    worker: usize,
    _guard: crate::breaker::Guard,
}

impl Pending {
    fn begin(cluster: &Arc<Cluster>, worker: usize, guard: crate::breaker::Guard) -> Self {
        let stats = &cluster.state.stats;
        stats.upstream_rq_pending_total().inc(worker + 1);
        stats.upstream_rq_pending_active().inc(worker + 1);
        Self { cluster: Arc::clone(cluster), worker, _guard: guard }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cluster.state.stats.upstream_rq_pending_active().dec(self.worker + 1);
    }
}

// === impl Checkout ===

impl Checkout {
    fn new(ready: Ready, queue: Rc<Queue>, request: Option<Request>) -> Self {
        let (stream, connection) = match ready {
            Ready::Http1(conn, connection) => (ClientStream::H1(conn), connection),
            Ready::Http2(stream, connection) => (ClientStream::H2(stream), connection),
        };
        let reused = connection.begin_request() > 0;
        Self { stream, connection, reused, queue: Some(queue), _request: request }
    }

    /// The request is over: the connection goes back if it can take another one.
    pub fn finish(self) {
        let Self { stream, connection, queue, .. } = self;
        if let (Some(conn), Some(queue)) = (stream.into_reusable(), queue) {
            queue.put(conn, connection);
        }
    }
}

impl RawConnection {
    /// The connection as the end of a tunnel.
    pub fn into_checkout(self, cluster: &Cluster) -> Checkout {
        let conn = h1::RawConn::new(self.io, cluster.output_limit());
        Checkout {
            stream: ClientStream::Raw(Box::new(conn)),
            connection: self.connection,
            reused: false,
            queue: None,
            _request: None,
        }
    }
}

#[cfg(test)]
mod tests;
