//! The `date` of responses (RFC 9110 §6.6.1), formatted once a second on each worker.

use std::cell::RefCell;
use std::time::SystemTime;

thread_local! {
    static NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Calls `put` with the value of `date` for this moment.
pub(crate) fn with_now(put: impl FnOnce(&[u8])) {
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    NOW.with_borrow_mut(|(formatted, text)| {
        if *formatted != second || text.is_empty() {
            *text = httpdate::fmt_http_date(now);
            *formatted = second;
        }
        put(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_date_has_the_form_of_rfc_9110() {
        super::with_now(|date| {
            let text = std::str::from_utf8(date).unwrap();
            assert!(httpdate::parse_http_date(text).is_ok() && text.ends_with(" GMT"), "{text}");
        });
    }
}
