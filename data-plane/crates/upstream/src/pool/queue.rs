//! The connections to one endpoint, and the requests that wait for one of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};

use dp_http::head::Protocol;
use dp_http::{h1, h2};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Inner;
use super::ahead::wants_more;
use super::connect::{self, ConnectError, Made, Wanted};
use super::connection::{Connection, Ready, Slot};
use crate::breaker::{Guard, Priority, Resource};
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Health};
use crate::proxy_header::Proxied;

/// The connections to one endpoint that are alike.
pub(super) struct Queue {
    pools: Weak<Inner>,
    worker: usize,
    wanted: Wanted,
    server_name: Option<Arc<str>>,
    proxied: Option<Arc<Proxied>>,
    /// The last one used is the next one used, so that those too many fall idle.
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Result<Ready, ConnectError>>>>,
    connecting: Cell<usize>,
    open: Cell<usize>,
    /// What new connections are made from.
    plan: RefCell<Option<Plan>>,
    _guard: Guard,
}

#[derive(Clone)]
struct Plan {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    priority: Priority,
}

struct Idle {
    conn: Box<h1::ClientConn>,
    connection: Rc<Connection>,
    since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    handle: h2::ClientConn,
    connection: Rc<Connection>,
    idle_since: Option<Instant>,
}

impl Queue {
    pub(super) fn new(
        pools: Weak<Inner>,
        worker: usize,
        wanted: Wanted,
        (server_name, proxied): (Option<Arc<str>>, Option<Arc<Proxied>>),
        guard: Guard,
    ) -> Self {
        Self {
            pools,
            worker,
            wanted,
            server_name,
            proxied,
            idle: RefCell::default(),
            shared: RefCell::default(),
            waiting: RefCell::default(),
            connecting: Cell::new(0),
            open: Cell::new(0),
            plan: RefCell::default(),
            _guard: guard,
        }
    }

    // --- taking and giving back ---

    /// What can be used at once.
    pub(super) fn take(&self, cluster: &Arc<Cluster>) -> Option<Ready> {
        if self.shared.borrow().is_empty() && self.idle.borrow().is_empty() {
            return None;
        }
        // The clock is only asked when the age of connections is limited.
        let now = cluster.config.http.max_connection_duration.map(|_| Instant::now());
        self.take_shared(now).or_else(|| self.take_idle(now))
    }

    fn take_shared(&self, now: Option<Instant>) -> Option<Ready> {
        let mut gone = Vec::new();
        let mut found = None;
        let mut shared = self.shared.borrow_mut();
        let mut index = 0;
        while let Some(entry) = shared.get(index) {
            // A connection that is no longer offered lives on until its last stream ends.
            if entry.handle.is_closing() || entry.connection.is_used_up(now.unwrap_or(entry.connection.timing.began)) {
                gone.push(shared.swap_remove(index));
                continue;
            }
            if let Some(stream) = entry.handle.open_stream() {
                found = Some(Ready::Http2(Box::new(stream), Rc::clone(&entry.connection)));
                shared[index].idle_since = None;
                break;
            }
            index += 1;
        }
        drop(shared);
        drop(gone);
        found
    }

    fn take_idle(&self, now: Option<Instant>) -> Option<Ready> {
        loop {
            let mut entry = self.idle.borrow_mut().pop()?;
            let late = now.is_some_and(|now| entry.connection.is_used_up(now));
            if !late && entry.conn.poll_idle(&mut Context::from_waker(Waker::noop())).is_pending() {
                return Some(Ready::Http1(entry.conn, entry.connection));
            }
        }
    }

    /// Takes a connection back whose request is over.
    pub(super) fn put(&self, conn: Box<h1::ClientConn>, connection: Rc<Connection>) {
        let now = Instant::now();
        if !connection.is_retired() && !connection.is_used_up(now) {
            self.offer(conn, connection, now);
        }
    }

    /// Gives a connection to whoever waits longest, or keeps it.
    fn offer(&self, conn: Box<h1::ClientConn>, connection: Rc<Connection>, since: Instant) {
        let mut ready = Ready::Http1(conn, connection);
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Ok(ready)) {
                Ok(()) => return,
                Err(back) => match back {
                    Ok(back) => ready = back,
                    Err(_) => return,
                },
            }
        }
        if let Ready::Http1(conn, connection) = ready {
            self.idle.borrow_mut().push(Idle { conn, connection, since });
        }
    }

    fn next_waiter(&self) -> Option<oneshot::Sender<Result<Ready, ConnectError>>> {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(waiter) = waiting.pop_front() {
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    // --- connecting ---

    /// Waits in line.
    pub(super) fn wait(&self) -> oneshot::Receiver<Result<Ready, ConnectError>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        receiver
    }

    /// Starts to connect if those who wait need it and the circuit breaker allows.
    pub(super) fn grow(self: &Rc<Self>, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>, priority: Priority) {
        let plan = Plan { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), priority };
        *self.plan.borrow_mut() = Some(plan.clone());
        self.follow(plan);
    }

    fn follow(self: &Rc<Self>, plan: Plan) {
        self.waiting.borrow_mut().retain(|waiter| !waiter.is_closed());
        let needed = match self.wanted {
            // All who wait will share one connection.
            Wanted::Http2 => 1.min(self.waiting.borrow().len()),
            _ => self.needed(plan.cluster.config.preconnect_ratio),
        };
        if self.connecting.get() < needed {
            self.begin(plan);
        }
    }

    /// Connects for a request that is expected here, unless enough is there for it. Whether it does.
    pub(super) fn connect_ahead(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        priority: Priority,
    ) -> bool {
        let busy = match self.wanted {
            Wanted::Http1 => self.open.get().saturating_sub(self.connecting.get() + self.idle.borrow().len()),
            _ => self.shared.borrow().iter().map(|entry| entry.handle.active_streams()).sum(),
        };
        let requests = busy + self.waiting.borrow().len();
        let room = self.open.get().saturating_mul(places(cluster, self.wanted));
        // One that is not well is not made to do more.
        if endpoint.health() != Health::Healthy || !wants_more(requests, room, cluster.config.predictive_ratio) {
            return false;
        }
        let plan = Plan { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), priority };
        *self.plan.borrow_mut() = Some(plan.clone());
        self.begin(plan)
    }

    /// Begins to connect if the circuit breaker allows. Whether it does.
    fn begin(self: &Rc<Self>, plan: Plan) -> bool {
        let Some(slot) = self.slot(&plan) else { return false };
        self.connecting.set(self.connecting.get() + 1);
        let queue = Rc::clone(self);
        tokio::task::spawn_local(async move { queue.connect(plan, slot).await });
        true
    }

    /// How many connections should be on their way: one for each that waits, and what is to be there ahead
    /// (Envoy `per_upstream_preconnect_ratio`).
    fn needed(&self, ratio: f64) -> usize {
        let waiting = self.waiting.borrow().len();
        if ratio <= 1.0 {
            return waiting;
        }
        let there = self.open.get() - self.connecting.get().min(self.open.get());
        let idle = self.idle.borrow().len();
        let busy = there.saturating_sub(idle);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let provisioned = ((busy + waiting) as f64 * ratio).ceil() as usize;
        provisioned.saturating_sub(busy + idle).max(waiting)
    }

    /// A place for one more connection. The first one is always allowed: without it nobody would ever be served.
    fn slot(self: &Rc<Self>, plan: &Plan) -> Option<Slot> {
        let first = self.open.get() == 0;
        let Plan { cluster, endpoint, priority } = plan;
        let guard = match cluster.admit(Resource::Connections, *priority, self.worker) {
            Some(guard) => guard,
            None if first => cluster.state.breakers.admit_anyway(*priority, Resource::Connections),
            None => return None,
        };
        let limit = cluster.config.breakers.per_host_connections.filter(|_| !first);
        let ahead = self.pools.upgrade().and_then(|pools| pools.ahead(cluster));
        let room = ahead.map(|ahead| ahead.room(places(cluster, self.wanted)));
        Slot::open(cluster, endpoint, guard, self.worker, limit).map(|slot| slot.of(self, room))
    }

    async fn connect(self: Rc<Self>, plan: Plan, slot: Slot) {
        let (name, proxied) = (self.server_name.as_deref(), self.proxied.as_deref());
        let made = connect::connect(&plan.cluster, &plan.endpoint, self.wanted, name, proxied, self.worker).await;
        let result = match made {
            Ok(made) => self.connected(&plan, slot, made).await,
            Err(error) => {
                drop(slot);
                Err(error)
            }
        };
        self.connecting.set(self.connecting.get().saturating_sub(1));
        if let Err(error) = result {
            connect::count_failure(&plan.cluster, &plan.endpoint, self.worker, &error);
            self.fail(error);
            if self.waiting.borrow().is_empty() {
                // Nobody needs one now; connecting ahead again and again would only burden an endpoint that is down.
                return;
            }
        }
        // Others may wait for whom there was no place before.
        self.follow(plan);
    }

    async fn connected(&self, plan: &Plan, slot: Slot, made: Made) -> Result<(), ConnectError> {
        let id = self.pools.upgrade().map_or(0, |pools| pools.next_id());
        let stats = &plan.cluster.state.stats;
        if !made.http2 {
            stats.upstream_cx_http1_total().inc(self.worker + 1);
            let connection = Rc::new(slot.connected(id, &made, Protocol::Http11));
            let options = plan.cluster.http1_options();
            self.offer(Box::new(h1::ClientConn::new(made.io, options)), connection, Instant::now());
            return Ok(());
        }
        stats.upstream_cx_http2_total().inc(self.worker + 1);
        let connection = Rc::new(slot.connected(id, &made, Protocol::Http2));
        let handshake = h2::ClientConn::handshake(made.io, &plan.cluster.http2_options()).await;
        let (handle, driver) = handshake.map_err(|_| ConnectError::Closed)?;
        let driven = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            // The connection counts as open until its last byte is handled.
            if let Err(error) = driver.await {
                tracing::debug!(connection = driven.id, %error, "upstream connection ended");
            }
            drop(driven);
        });
        self.shared.borrow_mut().push(Shared { handle, connection, idle_since: None });
        self.serve_waiting();
        Ok(())
    }

    /// Gives places on HTTP/2 connections to those who wait.
    fn serve_waiting(&self) {
        while let Some(waiter) = self.next_waiter() {
            match self.take_shared(None) {
                // If the waiter left in between, the place is free again.
                Some(ready) => drop(waiter.send(Ok(ready))),
                None => {
                    self.waiting.borrow_mut().push_front(waiter);
                    return;
                }
            }
        }
    }

    /// A connection could not be made: who waited for it is told.
    fn fail(&self, error: ConnectError) {
        let everyone = self.wanted == Wanted::Http2 || self.open.get() == 0;
        while let Some(waiter) = self.next_waiter() {
            let _ = waiter.send(Err(error.clone()));
            if !everyone {
                return;
            }
        }
    }

    // --- counts ---

    pub(super) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// A connection is gone; someone may have waited for its place.
    pub(super) fn closed(self: Rc<Self>) {
        self.open.set(self.open.get().saturating_sub(1));
        if self.waiting.borrow().is_empty() {
            return;
        }
        let plan = self.plan.borrow().clone();
        if let Some(plan) = plan {
            self.follow(plan);
        }
    }

    // --- upkeep ---

    /// Lets go of connections that are too old, unused for too long, closed, or whose endpoint is gone.
    pub(super) fn sweep(&self, now: Instant) {
        let gone: Vec<Idle> = self.idle.borrow_mut().extract_if(.., |entry| entry.is_over(now)).collect();
        let ended: Vec<Shared> = self.shared.borrow_mut().extract_if(.., |entry| entry.is_over(now)).collect();
        drop((gone, ended));
        if self.waiting.borrow().is_empty() && self.connecting.get() == 0 {
            // The plan would keep an old version of the cluster alive.
            self.plan.take();
        }
        self.serve_waiting();
    }

    pub(super) fn close_idle(&self) {
        let idle = self.idle.take();
        let shared: Vec<_> = self.shared.borrow_mut().extract_if(.., |e| e.handle.active_streams() == 0).collect();
        drop((idle, shared));
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len() + self.shared.borrow().iter().filter(|e| e.handle.active_streams() == 0).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.get() == 0 && self.connecting.get() == 0 && self.waiting.borrow().is_empty()
    }
}

/// How many requests a connection will carry at a time; Envoy too takes HTTP/2 for granted where it is possible.
fn places(cluster: &Cluster, wanted: Wanted) -> usize {
    if matches!(wanted, Wanted::Http1 | Wanted::Raw) {
        return 1;
    }
    let http = &cluster.config.http;
    let most = http.max_requests_per_connection.unwrap_or(u32::MAX).min(http.h2.max_concurrent_streams);
    usize::try_from(most).unwrap_or(usize::MAX)
}

impl Idle {
    fn is_over(&mut self, now: Instant) -> bool {
        let connection = &self.connection;
        let unused = connection.idle_timeout().is_some_and(|timeout| now.duration_since(self.since) >= timeout);
        if unused {
            connection.count_idle_timeout();
        }
        unused
            || connection.is_retired()
            || connection.is_used_up(now)
            || self.conn.poll_idle(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Shared {
    fn is_over(&mut self, now: Instant) -> bool {
        if self.handle.active_streams() > 0 {
            self.idle_since = None;
        }
        let since = *self.idle_since.get_or_insert(now);
        let unused = self.handle.active_streams() == 0
            && self.connection.idle_timeout().is_some_and(|timeout| now.duration_since(since) >= timeout);
        if unused {
            self.connection.count_idle_timeout();
        }
        unused || self.connection.is_retired() || self.handle.is_closing() || self.connection.is_used_up(now)
    }
}
