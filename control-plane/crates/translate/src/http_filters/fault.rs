//! `fault` as envoy.filters.http.fault.

use cp_model::policy::Fault;
use serde_json::{Value, json};

use super::idle as idle_filter;
use crate::build::{duration, fraction, typed};

pub(super) const NAME: &str = "envoy.filters.http.fault";
const MESSAGE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

pub(super) fn idle() -> Value {
    idle_filter(NAME, MESSAGE, json!({}))
}

pub(super) fn config(fault: Option<&Fault>) -> Value {
    let mut value = json!({});
    if let Some((time, percent)) = fault.and_then(|f| f.delay) {
        value["delay"] = json!({ "fixed_delay": duration(time), "percentage": fraction(percent) });
    }
    if let Some((status, percent)) = fault.and_then(|f| f.abort) {
        value["abort"] = json!({ "http_status": status, "percentage": fraction(percent) });
    }
    typed(MESSAGE, value)
}
