//! HTTP/1.1 byte by byte over a blocking socket, for clients and origins alike. It parses only what tests need, and
//! says of every message whether it was complete.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::eventually::PATIENCE;

/// One end of a TCP connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A message as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The end of the message was seen, as its framing says.
    pub complete: bool,
}

// === impl Message ===

impl Message {
    /// The first value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_request(&self) -> bool {
        !self.start.starts_with("HTTP/")
    }
}

// === impl Wire ===

impl Wire {
    /// # Panics
    /// Nothing listens there.
    pub fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}")))
    }

    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        Self { stream, buffer: Vec::new() }
    }

    /// The socket, for options and a second handle.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of it; the peer may be gone, which reading shows.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.try_send(bytes.as_ref());
        self
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Nothing more will be sent.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    ///
    /// # Panics
    /// The socket takes no options.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket takes options");
    }

    /// How the peer ended the connection, once everything before was read.
    pub fn ending(&mut self) -> io::Result<()> {
        while self.fill()? > 0 {}
        Ok(())
    }

    /// Reads a head and nothing behind it; `None` when the peer closed before one was complete.
    pub fn head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.fill().unwrap_or(0) == 0 {
                return None;
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Some(Message { start, headers: lines.map(field).collect(), ..Message::default() })
    }

    /// A whole message: a request, or the response to anything but HEAD.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        self.try_message().expect("a message was expected, but the peer closed")
    }

    pub fn try_message(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.body_of(&mut message);
        Some(message)
    }

    /// Sends a request and reads its response.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).message()
    }

    /// Reads the body that the head announces.
    pub fn body_of(&mut self, message: &mut Message) {
        let chunked = message.header("transfer-encoding").is_some_and(|value| value.ends_with("chunked"));
        let length = message.header("content-length").and_then(|value| value.parse::<usize>().ok());
        let status = message.status();
        let bare = !message.is_request() && ((100..200).contains(&status) || status == 204 || status == 304);
        if bare {
            message.complete = true;
        } else if chunked {
            message.complete = self.chunks(message).is_some();
        } else if let Some(length) = length {
            message.body = self.bytes(length);
            message.complete = message.body.len() == length;
        } else if message.is_request() {
            message.complete = true;
        } else {
            // Ended by closing: never known to be complete.
            message.body = self.rest();
        }
    }

    fn chunks(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            let chunk = self.bytes(size);
            message.body.extend_from_slice(&chunk);
            if chunk.len() < size || !self.line()?.is_empty() {
                return None;
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(());
            }
            message.trailers.push(field(&line));
        }
    }

    /// One line without its end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Some(line);
            }
            if self.fill().unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// `count` bytes, or fewer if the peer closes first.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.fill().unwrap_or(0) > 0 {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// What was read ahead of what was asked for.
    pub fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Everything until the peer closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().unwrap_or(0) > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the peer closed without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(0) => self.buffer.is_empty(),
            Ok(_) => false,
            Err(error) => !is_timeout(&error),
        }
    }

    /// Whether nothing comes for a short while, and the connection stays open.
    pub fn is_quiet(&mut self, during: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(during));
        let quiet = self.buffer.is_empty() && self.fill().is_err_and(|error| is_timeout(&error));
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        quiet
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let count = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}
