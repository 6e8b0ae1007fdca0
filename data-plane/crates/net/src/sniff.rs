//! Looking at the first bytes of a connection before anything is chosen: TLS or not, HTTP or not.
//!
//! Nothing is taken away: the bytes are read again. The deadline is the caller's.

use std::io;

use tokio::io::AsyncRead;

use crate::client_hello::{self, ClientHello, Parsed};
use crate::rewind::Rewind;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest request line that is looked for.
const HTTP1_LIMIT: usize = 16 << 10;

/// What the first bytes of a connection are, as far as TLS is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    Hello(ClientHello),
    /// Something else.
    No,
    /// It ended before it said so.
    Ended,
    /// A ClientHello beyond the limit.
    TooLarge,
}

/// Looks for a ClientHello of at most `limit` bytes.
pub async fn tls<S: AsyncRead + Unpin>(stream: &mut Rewind<S>, limit: usize) -> io::Result<Tls> {
    let limit = limit.min(client_hello::LIMIT);
    let mut wanted = 1;
    loop {
        match client_hello::parse(stream.ahead()) {
            Parsed::Hello(hello) => return Ok(Tls::Hello(hello)),
            Parsed::NotTls => return Ok(Tls::No),
            Parsed::Incomplete(more) => wanted = more.max(wanted),
        }
        if wanted > limit {
            return Ok(Tls::TooLarge);
        }
        if !stream.read_ahead(wanted, limit).await? {
            return Ok(Tls::Ended);
        }
    }
}

/// What the first bytes of a plain connection are, as far as HTTP is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// By the name that filter chains match: `h2c`, `http/1.1` or `http/1.0`.
    Version(&'static str),
    /// Something else.
    No,
    /// It ended before it said so.
    Ended,
}

/// Looks for a request line, or for how HTTP/2 begins.
pub async fn http<S: AsyncRead + Unpin>(stream: &mut Rewind<S>) -> io::Result<Http> {
    loop {
        match http_version(stream.ahead()) {
            Some(version) => return Ok(version.map_or(Http::No, Http::Version)),
            None if stream.ahead().len() >= HTTP1_LIMIT => return Ok(Http::No),
            None => {}
        }
        if !stream.read_ahead(stream.ahead().len() + 1, HTTP1_LIMIT).await? {
            return Ok(Http::Ended);
        }
    }
}

/// `None` while it is open, `Some(None)` when it is not HTTP.
fn http_version(bytes: &[u8]) -> Option<Option<&'static str>> {
    let n = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..n] == HTTP2_PREFACE[..n] {
        return (n == HTTP2_PREFACE.len()).then_some(Some("h2c"));
    }
    let method = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    if method == 0 || method > 32 || !bytes[..method].iter().all(|b| b.is_ascii_uppercase() || *b == b'-' || *b == b'_')
    {
        return Some(None);
    }
    let line = &bytes[..bytes.iter().position(|b| *b == b'\n')?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(if line.ends_with(b" HTTP/1.1") {
        Some("http/1.1")
    } else if line.ends_with(b" HTTP/1.0") {
        Some("http/1.0")
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Option<&str>>) {
        assert_eq!(http_version(bytes), expected);
    }

    #[test]
    fn http_is_told_from_its_first_bytes() {
        check(HTTP2_PREFACE, Some(Some("h2c")));
        check(b"PRI * HT", None);
        check(b"GET / HTTP/1.1\r\nhost: a\r\n", Some(Some("http/1.1")));
        check(b"GET / HTTP/1.0\n", Some(Some("http/1.0")));
        check(b"GET /", None);
        check(b"\x16\x03\x01", Some(None));
        check(b"SSH-2.0-OpenSSH_9\r\n", Some(None));
        check(b"EHLO example.com\r\n", Some(None));
    }

    #[tokio::test]
    async fn a_client_hello_beyond_the_limit_is_not_waited_for() {
        // The record says that 16,000 bytes follow.
        let mut stream = Rewind::new(&b"\x16\x03\x01\x3e\x80\x01\x00\x3e\x7c\x03\x03"[..]);
        assert_eq!(tls(&mut stream, 1024).await.unwrap(), Tls::TooLarge);
        assert_eq!(tls(&mut stream, 16384).await.unwrap(), Tls::Ended);
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let mut stream = Rewind::new(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        assert_eq!(tls(&mut stream, 16384).await.unwrap(), Tls::No);
        assert_eq!(http(&mut stream).await.unwrap(), Http::Version("http/1.1"));
        let mut all = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\n\r\n");
    }
}
