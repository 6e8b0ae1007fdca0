//! Tests that need something that is not everywhere.

use std::io::Write;

/// Says that a test was skipped, past the capture of its output, so that it is seen.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
