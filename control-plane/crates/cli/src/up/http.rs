//! The least HTTP/1.1 that the demo needs: one connection of a client, and origins that answer with their names.
//!
//! For loopback and our own proxies only; bounded in everything, but no general client or server.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub(crate) reusable: bool,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::new(), reusable: true })
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weir\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let end = self.until_head_ends().await?;
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let mut answer = parse_head(&head).ok_or_else(|| broken("a broken head"))?;
        let close = answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            answer.body = self.chunks().await?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().ok().filter(|n| *n <= MAX_BODY).ok_or_else(|| broken("a broken length"))?;
            answer.body = self.take(length).await?;
        } else if !matches!(answer.status, 204 | 304) {
            self.stream.read_to_end(&mut self.buffer).await?;
            answer.body = std::mem::take(&mut self.buffer);
            self.reusable = false;
        }
        self.reusable &= !close;
        Ok(answer)
    }

    async fn until_head_ends(&mut self) -> Result<usize> {
        loop {
            if let Some(end) = head_end(&self.buffer) {
                return Ok(end);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(broken("too long a head"));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return String::from_utf8(line).map_err(|_| broken("a broken line"));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(broken("too long a line"));
            }
            self.more().await?;
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| broken("a broken chunk"))?;
            if size > MAX_BODY.saturating_sub(body.len()) {
                return Err(broken("too long a body"));
            }
            body.extend(self.take(size).await?);
            // The end of the chunk's data, or the trailers after the last one.
            while !self.line().await?.is_empty() {}
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("answered with {what}"))
}

fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn parse_head(head: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Answer { status, headers: lines.filter_map(header).collect(), body: Vec::new() })
}

// === origins ===

/// A server that answers every GET with its name.
pub(crate) struct Origin {
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn origin(name: String, address: SocketAddr) -> Result<Origin> {
    let listener = TcpListener::bind(address).await?;
    let body = format!("hello from {name}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-origin: {name}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve(stream, answer.clone()));
                }
                // Out of descriptors: some will be free again.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(Origin { task })
}

async fn serve(mut stream: TcpStream, answer: String) {
    let mut buffer = Vec::new();
    loop {
        let Some(end) = head_end(&buffer) else {
            if buffer.len() > MAX_HEAD || !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
            continue;
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let bodiless = !text.contains("\r\ncontent-length:") && !text.contains("\r\ntransfer-encoding:");
        // An answer to HEAD has no body, and a request's body is not read: the connection ends after both.
        let head_only = text.starts_with("head ");
        let bytes = match head_only {
            true => answer.split_inclusive("\r\n\r\n").next().unwrap_or_default(),
            false => answer.as_str(),
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() || !bodiless || text.contains("\r\nconnection: close") {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_origin_answers_with_its_name_again_and_again_on_one_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let _origin = origin("blue-1".into(), address).await.unwrap();
        let mut connection = Connection::open(&address.to_string()).await.unwrap();
        for _ in 0..3 {
            let answer = connection.get("x", "/").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello from blue-1\n"));
            assert!(connection.reusable);
        }
    }

    #[tokio::test]
    async fn chunks_and_trailers_are_read_to_their_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer =
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: v\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        });
        let mut connection = Connection::open(&address).await.unwrap();
        let answer = connection.get("x", "/").await.unwrap();
        assert_eq!((answer.text().as_str(), connection.reusable, connection.buffer.len()), ("abcde", true, 0));
    }
}
