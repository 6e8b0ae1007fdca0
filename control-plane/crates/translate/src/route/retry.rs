//! Retry policies, in Envoy's words.

use cp_model::route::Retry;
use cp_model::route::retry::Backoff;
use serde_json::{Value, json};

use crate::build::{duration, extension, set, set_list};

/// Picks of an endpoint that was not tried before.
const RESELECT: u32 = 5;

pub(super) fn policy(retry: &Retry) -> Value {
    let mut on: Vec<&str> = retry.on.iter().map(String::as_str).collect();
    if !retry.statuses.is_empty() {
        on.push("retriable-status-codes");
    }
    if !retry.response_headers.is_empty() {
        on.push("retriable-headers");
    }
    let present = |names: &[String]| names.iter().map(|n| json!({ "name": n, "present_match": true })).collect();
    let mut value = json!({ "retry_on": on.join(","), "num_retries": retry.attempts });
    set(&mut value, "per_try_timeout", retry.per_try_timeout.map(duration));
    set(&mut value, "per_try_idle_timeout", retry.per_try_idle_timeout.map(duration));
    set_list(&mut value, "retriable_status_codes", retry.statuses.iter().map(|s| (*s).into()).collect());
    set_list(&mut value, "retriable_headers", present(&retry.response_headers));
    set_list(&mut value, "retriable_request_headers", present(&retry.request_headers));
    if retry.avoid_tried {
        value["retry_host_predicate"] = json!([extension(
            "envoy.retry_host_predicates.previous_hosts",
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            json!({}),
        )]);
        value["host_selection_retry_max_attempts"] = RESELECT.into();
    }
    if retry.avoid_tried_priority {
        value["retry_priority"] = extension(
            "envoy.retry_priorities.previous_priorities",
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            json!({ "update_frequency": 1 }),
        );
    }
    if let Some(backoff) = &retry.backoff {
        waits(&mut value, backoff);
    }
    value
}

fn waits(value: &mut Value, backoff: &Backoff) {
    if let Some(base) = backoff.base {
        let mut wait = json!({ "base_interval": duration(base) });
        set(&mut wait, "max_interval", backoff.max.map(duration));
        value["retry_back_off"] = wait;
    }
    if !backoff.after.is_empty() {
        let format = |unix| if unix { "UNIX_TIMESTAMP" } else { "SECONDS" };
        let headers: Vec<Value> =
            backoff.after.iter().map(|a| json!({ "name": a.header, "format": format(a.unix) })).collect();
        let mut wait = json!({ "reset_headers": headers });
        set(&mut wait, "max_interval", backoff.after_max.map(duration));
        value["rate_limited_retry_back_off"] = wait;
    }
}
