//! **The spine of datagrams**: a client's datagrams go to one endpoint, and the endpoint's come back; that is a session.
//!
//! A session stays on the worker that its first datagram came to: the kernel spreads clients over the sockets of the
//! workers by their addresses. A session holds a socket and a place in the cluster's circuit breaker, and no buffer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use dp_net::udp::{Channel, Datagrams};
use dp_snapshot::{Sockets, UdpProxy};
use dp_upstream::{Cluster, Endpoint, Health, PickContext, Priority, Resource};
use shared_config::udp_proxy::UdpHash;
use tokio::time::Instant;

use crate::worker::Worker;
use session::{Session, Setup};

mod session;

/// The largest datagram there can be, and one byte more, which shows that something was cut off.
const BUFFER: usize = 65_536;

/// Who a session is between: client, our address, and with one session an endpoint that endpoint's id, else 0.
type Key = (SocketAddr, SocketAddr, u64);

/// The sessions of one socket, and a buffer that they take turns with.
struct Sessions {
    worker: Rc<Worker>,
    socket: Datagrams,
    listener: Arc<str>,
    by_key: RefCell<HashMap<Key, Rc<Session>>>,
    buffer: RefCell<Box<[u8]>>,
    /// The newest configuration that a datagram met.
    proxy: RefCell<Option<Arc<UdpProxy>>>,
}

/// Takes datagrams until the listener is gone.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<str>, sockets: Arc<Sockets>) {
    let Some(bound) = sockets.take(worker.shard) else { return };
    let socket = match bound.into_datagrams() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener, %error, "cannot take datagrams on this worker");
            return;
        }
    };
    let sessions = Rc::new(Sessions {
        worker,
        socket,
        listener,
        by_key: RefCell::default(),
        buffer: RefCell::new(vec![0; BUFFER].into_boxed_slice()),
        proxy: RefCell::default(),
    });
    let _end = End(Rc::clone(&sessions));
    let mut buffer = vec![0; BUFFER].into_boxed_slice();
    loop {
        let received = sessions.socket.receive(&mut buffer).await;
        let Some(listener) = sessions.worker.snapshot().listener(&sessions.listener).cloned() else { return };
        let Some(proxy) = &listener.udp else { return };
        let shard = sessions.worker.shard;
        match received {
            Ok((length, _)) if length > proxy.max_datagram => {
                listener.stats.downstream_rx_datagram_dropped().inc(shard);
            }
            Ok((length, from)) => sessions.take(proxy, &buffer[..length], from, sessions.socket.local()),
            Err(error) => {
                tracing::debug!(listener = %sessions.listener, %error, "cannot receive");
                proxy.stats.downstream_sess_rx_errors().inc(shard);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Ends all sessions with their socket, however that comes about.
struct End(Rc<Sessions>);

impl Drop for End {
    fn drop(&mut self) {
        let all: Vec<_> = self.0.by_key.borrow_mut().drain().map(|(_, session)| session).collect();
        for session in &all {
            session.stop();
        }
        drop(all);
        if let Some(proxy) = self.0.proxy.take() {
            session::log_proxy(&proxy, &self.0.listener, self.0.socket.local());
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// A datagram of a client.
    fn take(self: &Rc<Self>, proxy: &Arc<UdpProxy>, bytes: &[u8], from: SocketAddr, to: SocketAddr) {
        if !self.proxy.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, proxy)) {
            self.proxy.replace(Some(Arc::clone(proxy)));
        }
        let session = if proxy.config.per_packet {
            self.cluster(proxy, from, to).and_then(|cluster| {
                let (cluster, endpoint) = self.pick(proxy, &cluster, from)?;
                let key = (from, to, endpoint.state.id);
                let known = self.by_key.borrow().get(&key).cloned();
                known.or_else(|| self.begin(proxy, cluster, endpoint, key))
            })
        } else {
            self.sticky(proxy, (from, to, 0))
        };
        if let Some(session) = session {
            session.forward(bytes);
        }
    }

    /// The session of a client, with another endpoint if the one it has is gone or unwell.
    fn sticky(self: &Rc<Self>, proxy: &Arc<UdpProxy>, key: Key) -> Option<Rc<Session>> {
        let known = self.by_key.borrow().get(&key).cloned();
        let Some(known) = known else {
            let cluster = self.cluster(proxy, key.0, key.1)?;
            let (cluster, endpoint) = self.pick(proxy, &cluster, key.0)?;
            return self.begin(proxy, cluster, endpoint, key);
        };
        let gone = known.endpoint.state.is_retired();
        if !gone && known.endpoint.health() != Health::Unhealthy {
            return Some(known);
        }
        let Some(cluster) = self.cluster(proxy, key.0, key.1) else {
            self.remove(&known);
            return None;
        };
        let better = self.pick(proxy, &cluster, key.0).filter(|(_, endpoint)| {
            gone || (endpoint.health() != Health::Unhealthy && endpoint.state.id != known.endpoint.state.id)
        });
        match better {
            Some((cluster, endpoint)) => {
                self.remove(&known);
                self.begin(proxy, cluster, endpoint, key)
            }
            None if gone => {
                self.remove(&known);
                None
            }
            None => Some(known),
        }
    }

    fn cluster(&self, proxy: &UdpProxy, from: SocketAddr, to: SocketAddr) -> Option<Arc<Cluster>> {
        let snapshot = self.worker.snapshot();
        let cluster = proxy.config.route.cluster(from, to).and_then(|name| snapshot.cluster(name)).cloned();
        if cluster.is_none() {
            proxy.stats.downstream_sess_no_route().inc(self.worker.shard);
        }
        cluster
    }

    /// An endpoint, and the cluster that has it: a member of an aggregate.
    fn pick(
        &self,
        proxy: &UdpProxy,
        cluster: &Arc<Cluster>,
        from: SocketAddr,
    ) -> Option<(Arc<Cluster>, Arc<Endpoint>)> {
        let hash = proxy.config.hash.as_ref().map(|hash| match hash {
            UdpHash::SourceIp => stdx::hash::xxh64(from.ip().to_canonical().to_string().as_bytes(), 0),
            UdpHash::Key(key) => stdx::hash::xxh64(key.as_bytes(), 0),
        });
        let mut rng = self.worker.rng();
        let worker = self.worker.index();
        let (cluster, place) = cluster.member(&mut rng);
        // A cluster without a healthy endpoint counts that itself.
        let endpoint = cluster.pick(&mut PickContext { hash, place, ..PickContext::new(&mut rng, worker) }).ok()?;
        Some((Arc::clone(cluster), endpoint))
    }

    fn begin(
        self: &Rc<Self>,
        proxy: &Arc<UdpProxy>,
        cluster: Arc<Cluster>,
        endpoint: Arc<Endpoint>,
        key: Key,
    ) -> Option<Rc<Session>> {
        let worker = &self.worker;
        let guard = cluster.admit(Resource::Connections, Priority::Default, worker.index())?;
        let to = match endpoint.address {
            dp_http::info::Address::Ip(address) => Channel::open(address, cluster.config.source_address),
            dp_http::info::Address::Pipe(_) => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let channel = match to {
            Ok(channel) => channel,
            Err(error) => {
                tracing::debug!(cluster = %cluster.name(), endpoint = %endpoint.display, %error, "no session");
                cluster.state.udp_stats().sess_tx_errors().inc(worker.shard);
                return None;
            }
        };
        let setup = Setup { proxy: Arc::clone(proxy), cluster, endpoint, channel, guard, key };
        let session = Rc::new(Session::begin(setup, Arc::clone(&self.listener), worker.shard));
        let following = tokio::task::spawn_local(follow(Rc::downgrade(self), Rc::clone(&session)));
        session.followed_by(following.abort_handle());
        self.by_key.borrow_mut().insert(key, Rc::clone(&session));
        Some(session)
    }

    /// Ends a session.
    fn remove(&self, session: &Rc<Session>) {
        let removed = {
            let mut by_key = self.by_key.borrow_mut();
            let same = by_key.get(&session.key).is_some_and(|known| Rc::ptr_eq(known, session));
            if same { by_key.remove(&session.key) } else { None }
        };
        if let Some(session) = removed {
            session.stop();
        }
    }
}

/// Sends back what the endpoint answers, until nothing moved for the idle time or the endpoint is gone.
async fn follow(sessions: Weak<Sessions>, session: Rc<Session>) {
    let idle = session.proxy.config.idle_timeout;
    loop {
        let until = session.last.get() + idle;
        let readable = tokio::select! {
            readable = session.channel.readable() => readable.is_ok(),
            () = tokio::time::sleep_until(until) => false,
        };
        let Some(sessions) = sessions.upgrade() else { return };
        if readable {
            session.backward(&sessions.socket, &mut sessions.buffer.borrow_mut());
        } else if session.last.get() + idle <= Instant::now() {
            session.proxy.stats.idle_timeout().inc(sessions.worker.shard);
            return sessions.remove(&session);
        }
        if session.endpoint.state.is_retired() {
            return sessions.remove(&session);
        }
    }
}

/// A number that only grows, of one thread.
#[derive(Debug, Default)]
struct Count(Cell<u64>);

impl Count {
    fn add(&self, n: usize) {
        self.0.set(self.0.get() + n as u64);
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}
