//! A load at a steady pace, whatever becomes of the requests before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use integration_tests::eventually::eventually;
use integration_tests::wire::Wire;

/// The clients, each of which asks when the next request is due that nobody has taken. There are enough of them that
/// the pace holds when all that went to one origin of ten hang for two seconds.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    to: SocketAddr,
    rate: f64,
    since: Instant,
    stop: AtomicBool,
    /// The next request.
    next: AtomicU64,
    answered: AtomicU64,
    /// Requests that were sent much too late: the machine does not hold the pace.
    late: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

/// A request that was not answered well.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) begun: Instant,
    /// The status line and the body, if there was one.
    pub(super) _answer: Option<(String, String)>,
}

// === impl Load ===

impl Load {
    pub(super) fn start(to: SocketAddr) -> Self {
        let rate: f64 = std::env::var("WEIR_FAULT_RATE").map_or(300.0, |rate| rate.parse().unwrap());
        let shared = Arc::new(Shared {
            to,
            rate,
            since: Instant::now(),
            stop: AtomicBool::default(),
            next: AtomicU64::default(),
            answered: AtomicU64::default(),
            late: AtomicU64::default(),
            failures: Mutex::default(),
        });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let clients = 16 + (rate * 0.3) as usize;
        let client = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.ask())
        };
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    /// Those that began since then.
    pub(super) fn failures(&self, since: Instant) -> Vec<Failure> {
        self.shared.failures.lock().unwrap().iter().filter(|failure| failure.begun >= since).cloned().collect()
    }

    /// Lets half a second's requests begin and end. Those that had begun before are not among them.
    pub(super) fn passes(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let window = (self.shared.rate / 2.0) as u64;
        let until = self.shared.answered.load(SeqCst) + window + self.clients.len() as u64;
        eventually("requests are answered", || self.shared.answered.load(SeqCst) >= until);
        window
    }

    /// What came of it, in words.
    pub(super) fn end(mut self) -> String {
        let shared = Arc::clone(&self.shared);
        shared.stop.store(true, SeqCst);
        self.clients.drain(..).for_each(|client| client.join().unwrap());
        let (answered, late) = (shared.answered.load(SeqCst), shared.late.load(SeqCst));
        #[allow(clippy::cast_precision_loss)]
        let rate = answered as f64 / shared.since.elapsed().as_secs_f64();
        format!("{answered} requests, {rate:.0} a second of {:.0}, {late} sent over 0.1 s late", shared.rate)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}

// === impl Shared ===

impl Shared {
    /// Asks until the end.
    fn ask(&self) {
        let mut wire = Wire::connect(self.to);
        while !self.stop.load(SeqCst) {
            #[allow(clippy::cast_precision_loss)]
            let nth = self.next.fetch_add(1, SeqCst) as f64;
            let due = self.since + Duration::from_secs_f64(nth / self.rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            if begun.duration_since(due) > Duration::from_millis(100) {
                self.late.fetch_add(1, SeqCst);
            }
            let answer = wire.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_message();
            if answer.as_ref().is_none_or(|answer| answer.status() != 200) {
                let answer = answer.map(|answer| (answer.start.clone(), answer.text()));
                self.failures.lock().unwrap().push(Failure { begun, _answer: answer });
                wire = Wire::connect(self.to);
            }
            self.answered.fetch_add(1, SeqCst);
        }
    }
}
