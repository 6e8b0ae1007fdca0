//! Origins that do what a test scripts: HTTP/1.1 byte by byte on a thread a connection, HTTP/2 by the `h2` crate.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::wire::{Message, Wire};

/// A scripted origin; it ends with the test process.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<AtomicUsize>,
}

// === impl Origin ===

impl Origin {
    /// Runs `script` on each connection, with its number from 0.
    ///
    /// # Panics
    /// The loopback has no free port.
    pub fn scripted(script: impl Fn(usize, &mut Wire, &Origin) + Send + Sync + 'static) -> Self {
        Self::scripted_at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at this address; every address under 127.0.0.0/8 is on the loopback.
    ///
    /// # Panics
    /// The address is in use.
    pub fn scripted_at(at: SocketAddr, script: impl Fn(usize, &mut Wire, &Origin) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(at).expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let origin = Self { address, seen: Arc::default(), connections: Arc::default() };
        let (shared, script) = (origin.clone(), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let (origin, script) = (shared.clone(), Arc::clone(&script));
                thread::spawn(move || script(number, &mut Wire::new(stream), &origin));
            }
        });
        origin
    }

    /// Answers every request with what `answer` makes of it: the bytes of a response.
    pub fn http(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::http_at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// The same at this address.
    pub fn http_at(at: SocketAddr, answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted_at(at, move |_, wire, origin| {
            while let Some(request) = wire.try_message() {
                if !request.complete {
                    return;
                }
                let response = answer(&request);
                origin.note(request);
                wire.send(response);
            }
        })
    }

    /// Answers every request with 200 and this text.
    pub fn text(text: &str) -> Self {
        let text = text.to_owned();
        Self::http(move |request| reply(200, if request.method() == "HEAD" { "" } else { &text }))
    }

    /// The same at this address.
    pub fn text_at(at: SocketAddr, text: &str) -> Self {
        let text = text.to_owned();
        Self::http_at(at, move |_| reply(200, &text))
    }

    /// Remembers a request for the test to look at.
    pub fn note(&self, request: Message) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Panics
    /// There was none.
    #[track_caller]
    pub fn last(&self) -> Message {
        self.seen().pop().expect("the origin got a request")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The bytes of a response with a body.
pub fn reply(status: u16, body: &str) -> Vec<u8> {
    reply_with(status, &[], body)
}

pub fn reply_with(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Because\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An address where nothing listens.
///
/// # Panics
/// The loopback has no free port.
pub fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}
