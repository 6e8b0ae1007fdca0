//! What our proxies add to a load report about an endpoint: how well it is, why, and how fast it answers.
//!
//! It travels in `UpstreamEndpointStats.metadata` under one key, which other servers leave alone.

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// The key in the metadata.
const KEY: &str = "weir";
/// What a report may make its reader keep of one endpoint.
const MAX_REASONS: usize = 16;
const MAX_TEXT: usize = 64;

/// One endpoint as a proxy sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointView {
    /// `healthy`, `degraded`, `unhealthy` or `draining`.
    pub health: String,
    /// Envoy's words for why it is left out.
    pub reasons: Vec<String>,
    pub weight: u32,
    /// The mean of the requests of the time reported; None without any.
    pub latency: Option<Duration>,
}

impl EndpointView {
    pub fn to_metadata(&self) -> Struct {
        let text = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
        let number = |number: f64| Value { kind: Some(Kind::NumberValue(number)) };
        let mut fields = BTreeMap::from([
            ("health".to_owned(), text(&self.health)),
            ("weight".to_owned(), number(f64::from(self.weight))),
        ]);
        if !self.reasons.is_empty() {
            let values = self.reasons.iter().map(text).collect();
            fields.insert("reasons".to_owned(), Value { kind: Some(Kind::ListValue(ListValue { values })) });
        }
        if let Some(latency) = self.latency {
            fields.insert("latency_ms".to_owned(), number(latency.as_secs_f64() * 1000.0));
        }
        let inner = Value { kind: Some(Kind::StructValue(Struct { fields })) };
        Struct { fields: BTreeMap::from([(KEY.to_owned(), inner)]) }
    }

    /// None: it is not from one of our proxies.
    pub fn from_metadata(metadata: &Struct) -> Option<EndpointView> {
        let Some(Kind::StructValue(inner)) = &metadata.fields.get(KEY)?.kind else { return None };
        let kind = |key: &str| inner.fields.get(key).and_then(|value| value.kind.as_ref());
        let number = |key: &str| match kind(key) {
            Some(Kind::NumberValue(number)) if number.is_finite() && *number >= 0.0 => Some(*number),
            _ => None,
        };
        let reasons = match kind("reasons") {
            Some(Kind::ListValue(list)) => list.values.iter().filter_map(text_of).take(MAX_REASONS).collect(),
            _ => Vec::new(),
        };
        Some(EndpointView {
            health: inner.fields.get("health").and_then(text_of).unwrap_or_default(),
            reasons,
            weight: number("weight").map_or(0, |weight| weight as u32),
            latency: number("latency_ms").and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()),
        })
    }
}

fn text_of(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) if text.len() <= MAX_TEXT => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_comes_back() {
        let view = EndpointView {
            health: "unhealthy".into(),
            reasons: vec!["failed_active_hc".into(), "failed_outlier_check".into()],
            weight: 3,
            latency: Some(Duration::from_micros(2500)),
        };
        assert_eq!(EndpointView::from_metadata(&view.to_metadata()), Some(view));
        let idle = EndpointView { health: "healthy".into(), weight: 1, ..EndpointView::default() };
        assert_eq!(EndpointView::from_metadata(&idle.to_metadata()), Some(idle));
    }

    #[test]
    fn what_others_put_there_is_no_view() {
        assert_eq!(EndpointView::from_metadata(&Struct::default()), None);
        let text = Value { kind: Some(Kind::StringValue("x".into())) };
        let other = Struct { fields: BTreeMap::from([(KEY.to_owned(), text)]) };
        assert_eq!(EndpointView::from_metadata(&other), None);
    }
}
