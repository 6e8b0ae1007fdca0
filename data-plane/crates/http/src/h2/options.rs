//! What configuration says about HTTP/2, and how it reaches the `h2` crate.

use std::time::Duration;

use super::FrameLimits;

/// Settings of both sides. The windows are what a peer may send before we read, so they bound memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at once: what we allow a client, and what we use of a server.
    pub max_concurrent_streams: u32,
    /// 65535 to 2^31-1; smaller windows are taken as 65535.
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    /// 16384 to 16777215.
    pub max_frame_size: u32,
    /// Bytes of a head, counted as RFC 9113 §6.5.2 does.
    pub max_header_list_size: u32,
    /// Fields of a head.
    pub max_headers: usize,
    /// Memory for HPACK of what comes in.
    pub header_table_size: u32,
    /// Streams the peer reset that we did not look at yet; more close the connection (rapid reset).
    pub max_pending_accept_reset_streams: usize,
    /// Streams we had to reset for errors of the peer; more close the connection.
    pub max_local_error_reset_streams: usize,
    /// Body bytes of one stream that wait to be written.
    pub max_send_buffer: usize,
    pub ping: Option<Ping>,
}

/// Whether the peer is still there is asked after `interval` of silence; without an answer in `timeout` it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    pub interval: Duration,
    pub timeout: Duration,
    /// At most this much is added to `interval` by chance, so that many connections do not ask at once.
    pub jitter: Duration,
}

#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    pub limits: Limits,
    pub frames: FrameLimits,
    /// Offer extended CONNECT (RFC 8441; Envoy's `allow_connect`).
    pub enable_connect_protocol: bool,
}

#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    pub limits: Limits,
    pub frames: FrameLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            initial_stream_window: 256 * 1024,
            initial_connection_window: 1024 * 1024,
            max_frame_size: 16 * 1024,
            max_header_list_size: 60 * 1024,
            max_headers: 100,
            header_table_size: 4096,
            max_pending_accept_reset_streams: 20,
            max_local_error_reset_streams: 1024,
            max_send_buffer: 256 * 1024,
            ping: None,
        }
    }
}

const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Limits {
    fn frame_size(&self) -> u32 {
        self.max_frame_size.clamp(16_384, 16_777_215)
    }
}

impl ServerOptions {
    pub(super) fn builder(&self) -> h2::server::Builder {
        let limits = &self.limits;
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(limits.max_concurrent_streams)
            .initial_window_size(limits.initial_stream_window.clamp(65_535, MAX_WINDOW))
            .initial_connection_window_size(limits.initial_connection_window.clamp(65_535, MAX_WINDOW))
            .max_frame_size(limits.frame_size())
            .max_header_list_size(limits.max_header_list_size)
            .header_table_size(limits.header_table_size)
            .max_pending_accept_reset_streams(limits.max_pending_accept_reset_streams)
            .max_local_error_reset_streams(Some(limits.max_local_error_reset_streams))
            .max_send_buffer_size(limits.max_send_buffer.min(u32::MAX as usize));
        if self.enable_connect_protocol {
            builder.enable_connect_protocol();
        }
        builder
    }
}

impl ClientOptions {
    pub(super) fn builder(&self) -> h2::client::Builder {
        let limits = &self.limits;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(limits.max_concurrent_streams as usize)
            .initial_window_size(limits.initial_stream_window.clamp(65_535, MAX_WINDOW))
            .initial_connection_window_size(limits.initial_connection_window.clamp(65_535, MAX_WINDOW))
            .max_frame_size(limits.frame_size())
            .max_header_list_size(limits.max_header_list_size)
            .header_table_size(limits.header_table_size)
            .max_pending_accept_reset_streams(limits.max_pending_accept_reset_streams)
            .max_local_error_reset_streams(Some(limits.max_local_error_reset_streams))
            .max_send_buffer_size(limits.max_send_buffer.min(u32::MAX as usize));
        builder
    }
}
