//! `rate_limit` of scope local as envoy.filters.http.local_ratelimit.

use cp_model::policy::RateLimit;
use serde_json::{Value, json};

use super::idle as idle_filter;
use crate::build::{always, duration, typed};

pub(super) const NAME: &str = "envoy.filters.http.local_ratelimit";
const MESSAGE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Envoy refills no faster.
const FASTEST_FILL: std::time::Duration = std::time::Duration::from_millis(50);

pub(super) fn idle() -> Value {
    idle_filter(NAME, MESSAGE, json!({ "stat_prefix": "rate_limit" }))
}

pub(super) fn per_route(policy: &str, limit: &RateLimit) -> Value {
    let (tokens, interval) = fill(limit);
    let config = json!({
        "stat_prefix": policy,
        "token_bucket": {
            "max_tokens": limit.burst.max(tokens),
            "tokens_per_fill": tokens,
            "fill_interval": duration(interval),
        },
        "filter_enabled": always(),
        "filter_enforced": always(),
    });
    typed(MESSAGE, config)
}

/// The rate in the smallest steps that are exact, so that a limit by the day does not open a whole day's tokens at once.
fn fill(limit: &RateLimit) -> (u32, std::time::Duration) {
    let (count, per) = (limit.limit.count, limit.limit.per);
    let millis = per.as_millis() as u64;
    // The greatest number of equal steps: whole tokens, whole milliseconds, none shorter than Envoy allows.
    let steps = (1..=count)
        .rev()
        .find(|s| count.is_multiple_of(*s) && millis.is_multiple_of(u64::from(*s)) && per / *s >= FASTEST_FILL);
    let steps = steps.unwrap_or(1);
    (count / steps, per / steps)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cp_model::value::rate;

    use super::*;

    #[test]
    fn a_rate_is_filled_in_small_exact_steps() {
        for (text, tokens, interval) in [
            ("60/min", 1, Duration::from_secs(1)),
            ("1000/s", 50, Duration::from_millis(50)),
            ("7/s", 7, Duration::from_secs(1)),
            ("1/day", 1, Duration::from_secs(86_400)),
        ] {
            let limit = rate(text).expect("a rate");
            assert_eq!(fill(&RateLimit { limit, burst: limit.count }), (tokens, interval), "{text}");
        }
    }
}
