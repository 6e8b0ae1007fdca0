//! Waiting for what happens soon, with a bound. The only place where tests sleep.

use std::time::{Duration, Instant};

/// How long anything may take; generous, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

const STEP: Duration = Duration::from_millis(5);

/// Returns when `holds` does.
///
/// # Panics
/// It does not within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "did not happen in time: {what}");
        std::thread::sleep(STEP);
    }
}

/// The first value that `find` finds.
///
/// # Panics
/// It finds none within [`PATIENCE`].
#[track_caller]
pub fn found<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut value = None;
    eventually(what, || {
        value = find();
        value.is_some()
    });
    value.expect("`eventually` returned because it was found")
}
