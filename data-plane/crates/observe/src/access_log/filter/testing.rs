//! Streams for the tests of access logs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dp_http::info::{Address, ConnectionInfo, StreamInfo};
use dp_http::{Method, Protocol, RequestHead};

/// A finished stream with this status.
pub(in crate::access_log) fn info(status: u16) -> StreamInfo {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo {
        id: 1,
        start: SystemTime::UNIX_EPOCH,
        listener: Arc::from("listener"),
        filter_chain: Arc::from(""),
        ..ConnectionInfo::between(address.clone(), address)
    };
    let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, SystemTime::UNIX_EPOCH, Instant::now());
    info.status = status;
    info.duration = Some(Duration::from_millis(12));
    info
}

pub(in crate::access_log) fn request() -> RequestHead {
    RequestHead::new(Method::Get, "example.com", "/a?b")
}
