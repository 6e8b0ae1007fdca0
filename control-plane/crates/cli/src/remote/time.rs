//! Times for people: ages, and dates in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `350ms`, `42s`, `7m`, `3h`, `12d`.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        s @ 1..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// How long ago.
pub(crate) fn since(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time.and_then(|t| SystemTime::try_from(*t).ok()) else { return "-".to_owned() };
    age(SystemTime::now().duration_since(time).unwrap_or_default())
}

/// `2026-03-01 12:30:05Z`.
pub(crate) fn date(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time.and_then(|t| SystemTime::try_from(*t).ok()) else { return "-".to_owned() };
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let stamp = prost_types::Timestamp { seconds: i64::try_from(seconds).unwrap_or_default(), nanos: 0 };
    stamp.to_string().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in [(0, "0ms"), (5, "5s"), (119, "119s"), (120, "2m"), (7_300, "2h"), (200_000, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn dates_have_no_letter_in_the_middle() {
        let time = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5 };
        assert_eq!(date(Some(&time)), "2027-01-15 08:00:00Z");
        assert_eq!(date(None), "-");
    }
}
