//! Pieces of Envoy's JSON that every resource uses. Knows nothing of the model beyond its small values.

use std::net::SocketAddr;
use std::time::Duration;

use cp_model::value::{Network, Percent};
use serde_json::{Map, Value, json};

/// A message with its `@type`.
pub(crate) fn typed(message: &str, fields: Value) -> Value {
    let mut out = Map::new();
    out.insert("@type".into(), format!("type.googleapis.com/{message}").into());
    if let Value::Object(fields) = fields {
        out.extend(fields);
    }
    Value::Object(out)
}

/// `{ name, typed_config }`, as extensions stand in Envoy's messages.
pub(crate) fn extension(name: &str, message: &str, fields: Value) -> Value {
    json!({ "name": name, "typed_config": typed(message, fields) })
}

/// Sets a key only where there is something to say.
pub(crate) fn set<T: Into<Value>>(object: &mut Value, key: &str, value: Option<T>) {
    if let (Value::Object(map), Some(value)) = (object, value) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a list unless it is empty.
pub(crate) fn set_list(object: &mut Value, key: &str, list: Vec<Value>) {
    set(object, key, (!list.is_empty()).then_some(Value::Array(list)));
}

pub(crate) fn duration(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos => format!("{}.{}s", duration.as_secs(), format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// From this very control plane, on the stream the resource itself came by.
pub(crate) fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

pub(crate) fn socket(address: SocketAddr) -> Value {
    host_port(&address.ip().to_string(), address.port())
}

pub(crate) fn host_port(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

pub(crate) fn network(network: &Network) -> Value {
    json!({ "address_prefix": network.address.to_string(), "prefix_len": network.prefix })
}

pub(crate) fn fraction(percent: Percent) -> Value {
    match percent.0 % 100 {
        0 => json!({ "numerator": percent.0 / 100, "denominator": "HUNDRED" }),
        _ => json!({ "numerator": percent.0, "denominator": "TEN_THOUSAND" }),
    }
}

/// `envoy.type.v3.Percent`.
pub(crate) fn percent(percent: Percent) -> Value {
    json!({ "value": f64::from(percent.0) / 100.0 })
}

/// Always, unless the operator of a stock Envoy changes its runtime.
pub(crate) fn always() -> Value {
    json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } })
}

/// A literal inside a regular expression.
pub(crate) fn escape(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    for c in literal.chars() {
        if c.is_ascii_punctuation()
            && !matches!(
                c,
                '/' | '_'
                    | '-'
                    | '"'
                    | '\''
                    | '%'
                    | ','
                    | ';'
                    | ':'
                    | '@'
                    | '!'
                    | '='
                    | '<'
                    | '>'
                    | '~'
                    | '`'
                    | '&'
                    | '#'
            )
        {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_proto_json() {
        for (millis, text) in [(5000, "5s"), (250, "0.25s"), (0, "0s"), (1001, "1.001s")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn literals_are_escaped() {
        assert_eq!(escape("/a.b+(c)-_%"), "/a\\.b\\+\\(c\\)-_%");
    }
}
