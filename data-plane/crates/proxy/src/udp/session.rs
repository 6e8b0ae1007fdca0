//! One session: what goes each way is counted, and logged at the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use dp_format::Inputs;
use dp_http::info::{Address, ConnectionInfo, Metadata};
use dp_http::{Protocol, StreamInfo};
use dp_net::udp::{Channel, Datagrams};
use dp_observe::AccessLog;
use dp_snapshot::UdpProxy;
use dp_upstream::{Cluster, Endpoint, Guard};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Count, Key};

/// How many datagrams of one endpoint are sent back before others have their turn.
const TURN: usize = 32;

/// What a session is made from.
pub(super) struct Setup {
    pub(super) proxy: Arc<UdpProxy>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) channel: Channel,
    pub(super) guard: Guard,
    pub(super) key: Key,
}

pub(super) struct Session {
    pub(super) key: Key,
    pub(super) proxy: Arc<UdpProxy>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) channel: Channel,
    /// When a datagram last moved.
    pub(super) last: Cell<Instant>,
    cluster: Arc<Cluster>,
    listener: Arc<str>,
    shard: usize,
    began: (SystemTime, Instant),
    task: RefCell<Option<AbortHandle>>,
    received: (Count, Count),
    sent: (Count, Count),
    send_errors: Count,
    _guard: Guard,
}

// === impl Session ===

impl Session {
    pub(super) fn begin(setup: Setup, listener: Arc<str>, shard: usize) -> Self {
        let Setup { proxy, cluster, endpoint, channel, guard, key } = setup;
        proxy.stats.downstream_sess_total().inc(shard);
        proxy.stats.downstream_sess_active().inc(shard);
        let now = Instant::now();
        Self {
            key,
            proxy,
            endpoint,
            channel,
            last: Cell::new(now),
            cluster,
            listener,
            shard,
            began: (SystemTime::now(), now),
            task: RefCell::default(),
            received: Default::default(),
            sent: Default::default(),
            send_errors: Count::default(),
            _guard: guard,
        }
    }

    pub(super) fn followed_by(&self, task: AbortHandle) {
        self.task.replace(Some(task));
    }

    /// Ends the task that follows the endpoint; the session ends with the last who holds it.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Sends a client's datagram to the endpoint.
    pub(super) fn forward(&self, bytes: &[u8]) {
        let (stats, shard) = (&self.proxy.stats, self.shard);
        stats.downstream_sess_rx_datagrams().inc(shard);
        stats.downstream_sess_rx_bytes().add(shard, bytes.len() as u64);
        self.received.0.add(bytes.len());
        self.received.1.add(1);
        self.last.set(Instant::now());
        let sent = self.channel.send(bytes);
        let cluster = self.cluster.state.udp_stats();
        match sent {
            Ok(()) => {
                cluster.sess_tx_datagrams().inc(shard);
                self.cluster.state.stats.upstream_cx_tx_bytes_total().add(shard, bytes.len() as u64);
            }
            Err(error) => {
                tracing::debug!(cluster = %self.cluster.name(), %error, "a datagram was not sent");
                cluster.sess_tx_errors().inc(shard);
            }
        }
    }

    /// Sends what the endpoint answered back to the client.
    pub(super) fn backward(&self, socket: &Datagrams, buffer: &mut [u8]) {
        let cluster = self.cluster.state.udp_stats();
        for _ in 0..TURN {
            match self.channel.try_receive(buffer) {
                Ok(length) if length > self.proxy.config.max_upstream_datagram => {
                    cluster.sess_rx_datagrams_dropped().inc(self.shard);
                }
                Ok(length) => self.answer(socket, &buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // For example that nobody listens there; the endpoint may come back.
                Err(_) => cluster.sess_rx_errors().inc(self.shard),
            }
        }
    }

    fn answer(&self, socket: &Datagrams, bytes: &[u8]) {
        let (stats, shard) = (&self.proxy.stats, self.shard);
        self.last.set(Instant::now());
        self.cluster.state.udp_stats().sess_rx_datagrams().inc(shard);
        self.cluster.state.stats.upstream_cx_rx_bytes_total().add(shard, bytes.len() as u64);
        if socket.send(bytes, self.key.0).is_ok() {
            stats.downstream_sess_tx_datagrams().inc(shard);
            stats.downstream_sess_tx_bytes().add(shard, bytes.len() as u64);
            self.sent.0.add(bytes.len());
            self.sent.1.add(1);
        } else {
            stats.downstream_sess_tx_errors().inc(shard);
            self.send_errors.add(1);
        }
    }

    fn log(&self) {
        let numbers = [
            ("bytes_sent", self.sent.0.get()),
            ("bytes_received", self.received.0.get()),
            ("errors_sent", self.send_errors.get()),
            ("datagrams_sent", self.sent.1.get()),
            ("datagrams_received", self.received.1.get()),
        ];
        let mut fields = numbered(&numbers);
        fields.insert("cluster_name".into(), self.cluster.name().to_string());
        let mut connection = ConnectionInfo::between(Address::Ip(self.key.0), Address::Ip(self.key.1));
        connection.listener = Arc::clone(&self.listener);
        connection.metadata = Some(Box::new(Metadata::from([("udp.proxy.session".into(), fields)])));
        let (start, began) = self.began;
        let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, start, began.into_std());
        info.log_type = "UdpSessionEnd";
        info.duration = Some(began.elapsed());
        info.sizes.received = self.received.0.get();
        info.sizes.sent = self.sent.0.get();
        info.upstream.cluster = Some(Arc::clone(self.cluster.name()));
        info.upstream.host = Some(self.endpoint.address.clone());
        write(&self.proxy.access_logs, &info);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.proxy.stats.downstream_sess_active().dec(self.shard);
        if !self.proxy.access_logs.is_empty() {
            self.log();
        }
    }
}

/// Writes what the proxy counted in all, when one of its sockets ends.
pub(super) fn log_proxy(proxy: &UdpProxy, listener: &Arc<str>, local: SocketAddr) {
    if proxy.proxy_access_logs.is_empty() {
        return;
    }
    let stats = &proxy.stats;
    let fields = numbered(&[
        ("bytes_sent", stats.downstream_sess_tx_bytes().value()),
        ("bytes_received", stats.downstream_sess_rx_bytes().value()),
        ("errors_sent", stats.downstream_sess_tx_errors().value()),
        ("errors_received", stats.downstream_sess_rx_errors().value()),
        ("datagrams_sent", stats.downstream_sess_tx_datagrams().value()),
        ("datagrams_received", stats.downstream_sess_rx_datagrams().value()),
        ("no_route", stats.downstream_sess_no_route().value()),
        ("session_total", stats.downstream_sess_total().value()),
        ("idle_timeout", stats.idle_timeout().value()),
    ]);
    let mut connection = ConnectionInfo::between(Address::Pipe("".into()), Address::Ip(local));
    connection.listener = Arc::clone(listener);
    connection.metadata = Some(Box::new(Metadata::from([("udp.proxy.proxy".into(), fields)])));
    let now = Instant::now().into_std();
    let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, SystemTime::now(), now);
    info.log_type = "NotSet";
    write(&proxy.proxy_access_logs, &info);
}

fn numbered(fields: &[(&str, u64)]) -> BTreeMap<String, String> {
    fields.iter().map(|(name, number)| ((*name).to_owned(), number.to_string())).collect()
}

fn write(logs: &[AccessLog], info: &StreamInfo) {
    let inputs = Inputs { info, request: None, response: None, trailers: None, local_reply_body: "" };
    let random = fastrand::u64(..);
    logs.iter().for_each(|log| log.log(&inputs, random));
}
