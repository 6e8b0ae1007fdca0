//! Header fields: one byte buffer and a small index, so that a head costs no allocation a field.
//!
//! Names are lower case always. Well-known names have a number, which makes a look-up a comparison of bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

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

/// The header fields of a message, in order.
#[derive(Clone, Default)]
pub struct Headers {
    buf: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u8,
    name: Span,
    value: Span,
}

/// A piece of the buffer of one head.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

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

        fn id_of(name: &[u8]) -> u8 {
            const NAMES: &[(&[u8], u8)] = &[$(($text.as_bytes(), Id::$constant as u8)),+];
            // Grouped by length, so that most names are told apart without comparing bytes.
            const BY_LENGTH: [([u8; 8], u8); 48] = by_length(NAMES);
            let Some((candidates, count)) = BY_LENGTH.get(name.len()) else { return 0 };
            for index in &candidates[..*count as usize] {
                let (text, id) = NAMES[*index as usize];
                if text == name {
                    return id;
                }
            }
            0
        }
    };
}

const fn by_length(names: &[(&[u8], u8)]) -> [([u8; 8], u8); 48] {
    let mut table = [([0u8; 8], 0u8); 48];
    let mut i = 0;
    while i < names.len() {
        let length = names[i].0.len();
        let count = table[length].1 as usize;
        table[length].0[count] = i as u8;
        table[length].1 += 1;
        i += 1;
    }
    table
}

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
    X_FORWARDED_CLIENT_CERT "x-forwarded-client-cert",
    X_FORWARDED_FOR "x-forwarded-for",
    X_FORWARDED_HOST "x-forwarded-host",
    X_FORWARDED_PORT "x-forwarded-port",
    X_FORWARDED_PROTO "x-forwarded-proto",
    X_REQUEST_ID "x-request-id",
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

// === impl Headers ===

impl Headers {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values, with 4 for the separators of each (as Envoy counts header bytes).
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|e| e.name.len as usize + e.value.len as usize + 4).sum()
    }

    /// Forgets all fields but keeps the memory, for the next message on a connection.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.entries.clear();
    }

    /// The value of the first field called `key`.
    pub fn get<K: Key + ?Sized>(&self, key: &K) -> Option<&[u8]> {
        self.entries.iter().find(|e| self.is(e, key)).map(|e| self.bytes(e.value))
    }

    /// The value of the first field called `key`, if it is UTF-8.
    pub fn text<K: Key + ?Sized>(&self, key: &K) -> Option<&str> {
        self.get(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The values of all fields called `key`, in order.
    pub fn all<'a, K: Key + ?Sized>(&'a self, key: &'a K) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.entries.iter().filter(move |e| self.is(e, key)).map(|e| self.bytes(e.value))
    }

    pub fn contains<K: Key + ?Sized>(&self, key: &K) -> bool {
        self.entries.iter().any(|e| self.is(e, key))
    }

    /// All fields in order: lower-case name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + '_ {
        self.entries.iter().map(|e| (self.name_text(e), self.bytes(e.value)))
    }

    /// Adds a field after those that are there. `key` must be lower case; the caller checked the value.
    pub fn append<K: Key + ?Sized>(&mut self, key: &K, value: &[u8]) {
        let name = self.store(key.text().as_bytes());
        let value = self.store(value);
        self.entries.push(Entry { id: key.id(), name, value });
    }

    /// Adds a field whose name comes from a peer: the codec lowers it here. The caller checked name and value.
    pub(crate) fn append_raw(&mut self, name: &[u8], value: &[u8]) {
        let (id, name) = self.store_name(name);
        let value = self.store(value);
        self.entries.push(Entry { id, name, value });
    }

    /// Keeps a name in lower case, for [`Headers::append_stored`], and says its number.
    pub(crate) fn store_name(&mut self, name: &[u8]) -> (u8, Span) {
        let span = self.store(name);
        let lowered = &mut self.buf[span.start as usize..];
        lowered.make_ascii_lowercase();
        (id_of(lowered), span)
    }

    pub(crate) fn append_stored(&mut self, (id, name): (u8, Span), value: &[u8]) {
        let value = self.store(value);
        self.entries.push(Entry { id, name, value });
    }

    /// All fields with the number of their name, 0 for one that is not well known.
    pub(crate) fn iter_ids(&self) -> impl Iterator<Item = (u8, &[u8], &[u8])> + '_ {
        self.entries.iter().map(|e| (e.id, self.bytes(e.name), self.bytes(e.value)))
    }

    /// The buffer as it can be shared, for [`Headers::iter_shared`].
    pub(crate) fn to_shared(&self) -> Bytes {
        Bytes::copy_from_slice(&self.buf)
    }

    /// All fields as [`Headers::iter_ids`] gives them, with values that share one buffer.
    pub(crate) fn iter_shared<'a>(&'a self, shared: &'a Bytes) -> impl Iterator<Item = (u8, &'a [u8], Bytes)> + 'a {
        self.entries.iter().map(|e| {
            let (start, end) = (e.value.start as usize, (e.value.start + e.value.len) as usize);
            (e.id, self.bytes(e.name), shared.slice(start..end))
        })
    }

    /// Makes room for a head at once.
    pub(crate) fn reserve(&mut self, bytes: usize, fields: usize) {
        self.buf.reserve(bytes);
        self.entries.reserve(fields);
    }

    /// Makes `value` the only value of `key`, at the place of the first field of that name.
    pub fn set<K: Key + ?Sized>(&mut self, key: &K, value: &[u8]) {
        match self.entries.iter().position(|e| self.is(e, key)) {
            None => self.append(key, value),
            Some(first) => {
                self.entries[first].value = self.store(value);
                let mut index = 0;
                self.retain_entries(|headers, entry| {
                    index += 1;
                    index - 1 <= first || !headers.is(entry, key)
                });
            }
        }
    }

    /// Removes all fields called `key`; says whether there were any.
    pub fn remove<K: Key + ?Sized>(&mut self, key: &K) -> bool {
        if !self.contains(key) {
            return false;
        }
        self.retain_entries(|headers, entry| !headers.is(entry, key));
        true
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        self.retain_entries(|headers, entry| keep(headers.name_text(entry), headers.bytes(entry.value)));
    }

    pub(crate) fn retain_ids(&mut self, mut keep: impl FnMut(u8, &[u8]) -> bool) {
        self.retain_entries(|headers, entry| keep(entry.id, headers.bytes(entry.name)));
    }

    fn retain_entries(&mut self, mut keep: impl FnMut(&Self, &Entry) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| keep(self, entry));
        self.entries = entries;
    }

    fn is<K: Key + ?Sized>(&self, entry: &Entry, key: &K) -> bool {
        let id = key.id();
        entry.id == id && (id != 0 || self.bytes(entry.name) == key.text().as_bytes())
    }

    fn name_text(&self, entry: &Entry) -> &str {
        // Names are checked tokens, so this never fails.
        std::str::from_utf8(self.bytes(entry.name)).unwrap_or_default()
    }

    pub(crate) fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.buf.len() as u32;
        self.buf.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        self.buf.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (n.to_owned(), String::from_utf8_lossy(v)))).finish()
    }
}

/// Two sets of fields are equal when they hold the same fields in the same order.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in fields {
            headers.append_raw(name.as_bytes(), value.as_bytes());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Headers {
        [("Host", "a"), ("x-a", "1"), ("X-A", "2"), ("set-cookie", "c")].into_iter().collect()
    }

    #[test]
    fn names_are_found_in_any_case_they_came_in() {
        let headers = headers();
        assert_eq!(headers.get(&name::HOST), Some(&b"a"[..]));
        assert_eq!(headers.text("host"), Some("a"));
        assert_eq!(headers.all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get(&HeaderName::new("X-A").unwrap()), Some(&b"1"[..]));
        assert!(!headers.contains("x-b"));
    }

    #[test]
    fn set_replaces_all_values_in_place() {
        let mut headers = headers();
        headers.set("x-a", b"3");
        headers.set("x-new", b"4");
        let text = format!("{headers:?}");
        assert_eq!(text, r#"{"host": "a", "x-a": "3", "set-cookie": "c", "x-new": "4"}"#);
    }

    #[test]
    fn remove_takes_every_field_of_that_name() {
        let mut headers = headers();
        assert!(headers.remove("x-a"));
        assert!(!headers.remove("x-a"));
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_name_must_be_a_token() {
        assert!(HeaderName::new("a b").is_err());
        assert!(HeaderName::new("").is_err());
        assert_eq!(HeaderName::new("Content-Length").unwrap(), name::CONTENT_LENGTH);
    }
}
