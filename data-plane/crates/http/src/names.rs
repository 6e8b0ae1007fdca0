//! The names of header fields: well-known ones have a number, so that a look-up compares no text.

use std::fmt;
use std::sync::Arc;

/// The lower-case name of a header field, made once and looked up often.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderName {
    id: u8,
    text: Text,
}

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

/// What a header can be looked up by: a [`HeaderName`] (fast) or lower-case text.
pub trait Key {
    /// The number of a well-known name, 0 for any other.
    fn id(&self) -> u8;
    fn text(&self) -> &str;
}

/// A set of well-known names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameSet([u64; 2]);

/// The name is not an RFC 9110 §5.6.2 token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a header name")]
pub struct InvalidName(pub String);

macro_rules! well_known {
    ($($constant:ident $text:literal,)+) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
        #[repr(u8)]
        enum Id { NONE, $($constant),+ }

        /// The numbers of the well-known names.
        #[allow(dead_code)]
        pub(crate) mod id {
            use super::Id;
            $(pub(crate) const $constant: u8 = Id::$constant as u8;)+
        }

        /// The well-known names; the one with number `n` stands at `n - 1`.
        pub(crate) const WELL_KNOWN: &[&str] = &[$($text),+];

        /// The names that the proxy itself looks up.
        pub mod name {
            use super::{HeaderName, Id, Text};
            $(pub static $constant: HeaderName = HeaderName { id: Id::$constant as u8, text: Text::Static($text) };)+
        }

        pub(crate) fn id_of(name: &[u8]) -> u8 {
            const NAMES: &[&[u8]] = &[$($text.as_bytes()),+];
            const SEED: u32 = seed(NAMES);
            const SLOTS: [u8; SLOT_COUNT] = slots(NAMES, SEED);
            // One comparison at most: no two well-known names share a slot.
            let id = SLOTS[slot(name, SEED)];
            match WELL_KNOWN.get(usize::from(id).wrapping_sub(1)) {
                Some(known) if known.as_bytes() == name => id,
                _ => 0,
            }
        }
    };
}

const SLOT_COUNT: usize = 512;

/// The slot of a name, by its length and four of its bytes.
const fn slot(name: &[u8], seed: u32) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let near_end = name[length - if length < 4 { length } else { 4 }] as u32;
    let mixed = (length as u32) << 24
        ^ (name[0] as u32) << 16
        ^ near_end << 12
        ^ (name[length / 2] as u32) << 6
        ^ name[length - 1] as u32;
    (mixed.wrapping_mul(seed) >> 23) as usize
}

/// A multiplier that gives each name a slot of its own.
const fn seed(names: &[&[u8]]) -> u32 {
    let mut seed: u32 = 0x9e37_79b1;
    loop {
        let mut taken = [false; SLOT_COUNT];
        let mut i = 0;
        while i < names.len() && !taken[slot(names[i], seed)] {
            taken[slot(names[i], seed)] = true;
            i += 1;
        }
        if i == names.len() {
            return seed;
        }
        seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35e) | 1;
    }
}

/// The number of the name in each slot, 0 where there is none.
const fn slots(names: &[&[u8]], seed: u32) -> [u8; SLOT_COUNT] {
    let mut table = [0; SLOT_COUNT];
    let mut i = 0;
    while i < names.len() {
        table[slot(names[i], seed)] = i as u8 + 1;
        i += 1;
    }
    table
}

/// A set of well-known names fits into 128 bits, with number 0 for all others.
const _: () = assert!(WELL_KNOWN.len() < 128);

well_known! {
    ACCEPT "accept",
    ACCEPT_ENCODING "accept-encoding",
    ACCESS_CONTROL_REQUEST_METHOD "access-control-request-method",
    AUTHORIZATION "authorization",
    CACHE_CONTROL "cache-control",
    CONNECTION "connection",
    CONTENT_ENCODING "content-encoding",
    CONTENT_LENGTH "content-length",
    CONTENT_TYPE "content-type",
    COOKIE "cookie",
    DATE "date",
    ETAG "etag",
    EXPECT "expect",
    FORWARDED "forwarded",
    GRPC_MESSAGE "grpc-message",
    GRPC_STATUS "grpc-status",
    GRPC_TIMEOUT "grpc-timeout",
    HOST "host",
    HTTP2_SETTINGS "http2-settings",
    KEEP_ALIVE "keep-alive",
    LOCATION "location",
    ORIGIN "origin",
    PROXY_AUTHENTICATE "proxy-authenticate",
    PROXY_AUTHORIZATION "proxy-authorization",
    PROXY_CONNECTION "proxy-connection",
    REFERER "referer",
    RETRY_AFTER "retry-after",
    SEC_WEBSOCKET_KEY "sec-websocket-key",
    SEC_WEBSOCKET_VERSION "sec-websocket-version",
    SEC_WEBSOCKET_ACCEPT "sec-websocket-accept",
    SERVER "server",
    SET_COOKIE "set-cookie",
    TE "te",
    TRACEPARENT "traceparent",
    TRAILER "trailer",
    TRANSFER_ENCODING "transfer-encoding",
    UPGRADE "upgrade",
    USER_AGENT "user-agent",
    VARY "vary",
    VIA "via",
    X_CLIENT_TRACE_ID "x-client-trace-id",
    X_ENVOY_ATTEMPT_COUNT "x-envoy-attempt-count",
    X_ENVOY_DECORATOR_OPERATION "x-envoy-decorator-operation",
    X_ENVOY_DEGRADED "x-envoy-degraded",
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER "x-envoy-downstream-service-cluster",
    X_ENVOY_DOWNSTREAM_SERVICE_NODE "x-envoy-downstream-service-node",
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS "x-envoy-expected-rq-timeout-ms",
    X_ENVOY_EXTERNAL_ADDRESS "x-envoy-external-address",
    X_ENVOY_FORCE_TRACE "x-envoy-force-trace",
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT "x-envoy-hedge-on-per-try-timeout",
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL "x-envoy-immediate-health-check-fail",
    X_ENVOY_INTERNAL "x-envoy-internal",
    X_ENVOY_IP_TAGS "x-envoy-ip-tags",
    X_ENVOY_IS_TIMEOUT_RETRY "x-envoy-is-timeout-retry",
    X_ENVOY_MAX_RETRIES "x-envoy-max-retries",
    X_ENVOY_ORIGINAL_HOST "x-envoy-original-host",
    X_ENVOY_ORIGINAL_PATH "x-envoy-original-path",
    X_ENVOY_ORIGINAL_URL "x-envoy-original-url",
    X_ENVOY_OVERLOADED "x-envoy-overloaded",
    X_ENVOY_RATELIMITED "x-envoy-ratelimited",
    X_ENVOY_RETRIABLE_HEADER_NAMES "x-envoy-retriable-header-names",
    X_ENVOY_RETRIABLE_STATUS_CODES "x-envoy-retriable-status-codes",
    X_ENVOY_RETRY_GRPC_ON "x-envoy-retry-grpc-on",
    X_ENVOY_RETRY_ON "x-envoy-retry-on",
    X_ENVOY_UPSTREAM_ALT_STAT_NAME "x-envoy-upstream-alt-stat-name",
    X_ENVOY_UPSTREAM_CANARY "x-envoy-upstream-canary",
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS "x-envoy-upstream-rq-per-try-timeout-ms",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE "x-envoy-upstream-rq-timeout-alt-response",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS "x-envoy-upstream-rq-timeout-ms",
    X_ENVOY_UPSTREAM_SERVICE_TIME "x-envoy-upstream-service-time",
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS "x-envoy-upstream-stream-duration-ms",
    X_FORWARDED_CLIENT_CERT "x-forwarded-client-cert",
    X_FORWARDED_FOR "x-forwarded-for",
    X_FORWARDED_HOST "x-forwarded-host",
    X_FORWARDED_PORT "x-forwarded-port",
    X_FORWARDED_PROTO "x-forwarded-proto",
    X_REQUEST_ID "x-request-id",
}

// === impl NameSet ===

impl NameSet {
    pub(crate) const EMPTY: Self = Self([0; 2]);

    /// # Panics
    /// A name has no number; sets are made when the program is compiled.
    pub const fn of(names: &[&HeaderName]) -> Self {
        let mut set = Self::EMPTY;
        let mut i = 0;
        while i < names.len() {
            assert!(names[i].id != 0, "the name is not a well-known one");
            set.insert(names[i].id);
            i += 1;
        }
        set
    }

    pub(crate) const fn one(id: u8) -> Self {
        let mut set = Self::EMPTY;
        set.insert(id);
        set
    }

    pub(crate) const fn has(self, id: u8) -> bool {
        self.0[(id >> 6) as usize & 1] >> (id & 63) & 1 != 0
    }

    pub(crate) const fn insert(&mut self, id: u8) {
        self.0[(id >> 6) as usize & 1] |= 1 << (id & 63);
    }

    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0[0] & other.0[0] | self.0[1] & other.0[1] != 0
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }
}

impl Default for NameSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

// === impl HeaderName ===

impl HeaderName {
    /// A name for look-ups; upper-case letters are lowered.
    ///
    /// # Errors
    /// `name` is empty or holds something that RFC 9110 §5.6.2 does not allow in a token.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() || name.len() > u16::MAX as usize || !name.bytes().all(is_token) {
            return Err(InvalidName(name.into()));
        }
        let lower = name.to_ascii_lowercase();
        Ok(Self { id: id_of(lower.as_bytes()), text: Text::Shared(lower.into()) })
    }

    pub fn as_str(&self) -> &str {
        match &self.text {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Text {}

impl std::hash::Hash for Text {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        match self {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Key for HeaderName {
    fn id(&self) -> u8 {
        self.id
    }
    fn text(&self) -> &str {
        self.as_str()
    }
}

impl Key for str {
    fn id(&self) -> u8 {
        id_of(self.as_bytes())
    }
    fn text(&self) -> &str {
        self
    }
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Whether `byte` may stand in a field value (RFC 9110 §5.5): no control character but tab.
pub fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_be_a_token() {
        assert!(HeaderName::new("a b").is_err());
        assert!(HeaderName::new("").is_err());
        assert_eq!(HeaderName::new("Content-Length").unwrap(), name::CONTENT_LENGTH);
    }

    #[test]
    fn every_well_known_name_is_found_by_its_text() {
        for (index, text) in WELL_KNOWN.iter().enumerate() {
            assert_eq!(usize::from(id_of(text.as_bytes())), index + 1, "{text}");
        }
        for other in ["", "x", "hosu", "x-envoy-", "content-lengti"] {
            assert_eq!(id_of(other.as_bytes()), 0, "{other}");
        }
    }
}
