//! An origin for the tests of faults, as a process that they can kill and stop: `faulty-origin ADDRESS`.
//!
//! Prints the address it listens on. Each line that it reads is the fault from now on and is printed again once it is in
//! force. Ends when there is nothing more to read, as when whoever started it has ended.

use std::io::{self, BufRead, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::eventually::PATIENCE;
use integration_tests::upstream::reply;
use integration_tests::wire::Wire;

#[derive(Default)]
struct Shared {
    fault: Mutex<String>,
    asked: AtomicUsize,
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = bind(&address)?;
    let shared: Arc<Shared> = Arc::default();
    say(&listener.local_addr()?.to_string())?;
    let accepting = Arc::clone(&shared);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&accepting);
            thread::spawn(move || serve(&mut Wire::new(stream), &shared));
        }
    });
    for line in io::stdin().lock().lines() {
        let line = line?;
        shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&line);
        say(&line)?;
    }
    Ok(())
}

/// The port of one that was killed is free when its connections are gone.
fn bind(address: &str) -> io::Result<TcpListener> {
    let since = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(_) if since.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            bound => return bound,
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn serve(wire: &mut Wire, shared: &Shared) {
    while let Some(request) = wire.try_message() {
        let nth = shared.asked.fetch_add(1, SeqCst);
        let fault = shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match &*fault {
            "resets" => {
                let socket = socket2::SockRef::from(wire.socket());
                let _ = socket.set_linger(Some(Duration::ZERO));
                return;
            }
            "slow" => thread::sleep(Duration::from_millis(100)),
            "flaps" if nth.is_multiple_of(2) => {
                wire.send(reply(503, "flap"));
                continue;
            }
            "fails checks" if request.path() == "/health" => {
                wire.send(reply(503, "no"));
                continue;
            }
            _ => {}
        }
        wire.send(reply(200, "fine"));
    }
}
