//! The proxy, in this process, with a bootstrap from JSON.

use std::net::SocketAddr;
use std::time::Duration;

use data_plane::{Options, Proxy};
use dp_http::info::Address;
use serde_json::Value;

use crate::eventually::found;
use crate::wire::Wire;

/// A running proxy; dropping it ends it at once.
pub struct Running {
    pub proxy: Proxy,
}

/// # Panics
/// The bootstrap is refused.
#[track_caller]
pub fn start(bootstrap: &Value) -> Running {
    start_with(bootstrap, 1)
}

/// # Panics
/// The bootstrap is refused.
#[track_caller]
pub fn start_with(bootstrap: &Value, workers: usize) -> Running {
    match try_start(bootstrap, workers) {
        Ok(running) => running,
        Err(error) => panic!("the proxy does not start: {error}"),
    }
}

/// # Errors
/// Why the bootstrap is refused.
pub fn try_start(bootstrap: &Value, workers: usize) -> Result<Running, String> {
    try_start_text(&bootstrap.to_string(), workers)
}

/// # Errors
/// Why the bootstrap is refused.
pub fn try_start_text(text: &str, workers: usize) -> Result<Running, String> {
    let bootstrap = shared_config::bootstrap::read(&[text]).map_err(|error| error.to_string())?;
    let options = Options { workers, drain_time: Duration::from_secs(30), ..Options::default() };
    let proxy = Proxy::start(bootstrap, options).map_err(|error| error.to_string())?;
    Ok(Running { proxy })
}

// === impl Running ===

impl Running {
    /// The address of a listener, once it is there.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        found(listener, || match self.proxy.listener(listener) {
            Some(Address::Ip(address)) => Some(address),
            _ => None,
        })
    }

    /// The value of a statistic, 0 while there is none. The bootstrap needs an admin server.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let admin = self.proxy.admin().expect("the bootstrap has an admin server");
        let text = Wire::connect(admin).ask("GET /stats HTTP/1.1\r\nhost: admin\r\n\r\n").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// A connection to the listener `main`.
    #[track_caller]
    pub fn connect(&self) -> Wire {
        Wire::connect(self.address("main"))
    }
}
