//! Where a block stands: its prefix in Envoy's names, its family and labels in Prometheus.
//!
//! Resolved once, when the block is made; a scrape only copies text.

use std::fmt::Write;

/// The place of a block of statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// For example `cluster.api.`; empty or ending in a dot.
    prefix: String,
    /// For example `cluster`.
    family: String,
    /// For example `envoy_cluster_name="api"`, escaped, without braces.
    labels: String,
}

impl Scope {
    /// A scope with this Envoy prefix (without the last dot) and this Prometheus family (without `envoy_`).
    pub fn new(prefix: &str, family: &str) -> Self {
        let mut prefix = sanitize(prefix);
        if !prefix.is_empty() && !prefix.ends_with('.') {
            prefix.push('.');
        }
        Self { prefix, family: metric_name(family.trim_matches('.')), labels: String::new() }
    }

    /// `cluster.NAME.`
    pub fn cluster(name: &str) -> Self {
        Self::new(&format!("cluster.{name}"), "cluster").label("envoy_cluster_name", &sanitize(name))
    }

    /// `http.STAT_PREFIX.`
    pub fn http(stat_prefix: &str) -> Self {
        Self::new(&format!("http.{stat_prefix}"), "http")
            .label("envoy_http_conn_manager_prefix", &sanitize(stat_prefix))
    }

    /// `tcp.STAT_PREFIX.`
    pub fn tcp(stat_prefix: &str) -> Self {
        Self::new(&format!("tcp.{stat_prefix}"), "tcp").label("envoy_tcp_prefix", &sanitize(stat_prefix))
    }

    /// `listener.ADDRESS.`, where `address` is an address such as `0.0.0.0:80`, or the listener's stat prefix.
    pub fn listener(address: &str) -> Self {
        Self::new(&format!("listener.{address}"), "listener").label("envoy_listener_address", &sanitize(address))
    }

    /// A scope within this one: `http.ingress.` and `rbac` give `http.ingress.rbac.`
    pub fn child(&self, name: &str) -> Self {
        let name = sanitize(name.trim_matches('.'));
        let joint = if self.family.is_empty() { "" } else { "_" };
        Self {
            prefix: format!("{}{name}.", self.prefix),
            family: format!("{}{joint}{}", self.family, metric_name(&name)),
            labels: self.labels.clone(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        if !self.labels.is_empty() {
            self.labels.push(',');
        }
        let _ = write!(self.labels, "{}=\"", metric_name(name));
        for c in value.chars() {
            match c {
                '\\' => self.labels.push_str("\\\\"),
                '"' => self.labels.push_str("\\\""),
                '\n' => self.labels.push_str("\\n"),
                c => self.labels.push(c),
            }
        }
        self.labels.push('"');
        self
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn family(&self) -> &str {
        &self.family
    }

    pub fn labels(&self) -> &str {
        &self.labels
    }
}

/// Envoy writes `_` for `:` in the names of statistics. Line ends would break the text formats.
fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c == ':' || c.is_control() { '_' } else { c }).collect()
}

/// A name of Prometheus: letters, digits and `_`.
pub(crate) fn metric_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scope: Scope, prefix: &str, family: &str, labels: &str) {
        assert_eq!((scope.prefix(), scope.family(), scope.labels()), (prefix, family, labels));
    }

    #[test]
    fn scopes_have_the_names_envoy_gives_them() {
        check(Scope::cluster("a.b"), "cluster.a.b.", "cluster", r#"envoy_cluster_name="a.b""#);
        check(Scope::listener("[::]:80"), "listener.[__]_80.", "listener", r#"envoy_listener_address="[__]_80""#);
        check(Scope::http("in").child("rbac"), "http.in.rbac.", "http_rbac", r#"envoy_http_conn_manager_prefix="in""#);
        check(Scope::new("server", "server"), "server.", "server", "");
    }

    #[test]
    fn a_hostile_name_cannot_leave_its_label() {
        check(Scope::cluster("a\"\\\nb"), "cluster.a\"\\_b.", "cluster", r#"envoy_cluster_name="a\"\\_b""#);
    }
}
