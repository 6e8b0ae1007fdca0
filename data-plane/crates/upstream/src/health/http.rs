//! An HTTP check: one request, and what its answer says.

use dp_http::{Method, RequestHead, ResponseHead, Scheme};
use shared_config::header::{AppendAction, HeaderChanges};
use shared_config::health_check::HttpCheck;

use super::dial::Subject;
use super::exchange::{self, Answer, Kept};
use super::payload;
use super::status::{Failure, Outcome};
use crate::pool::connect::Wanted;

/// Envoy's name for its checks, which origins know to leave out of their logs.
pub(super) const USER_AGENT: &[u8] = b"Envoy/HC";

/// One check; `kept` is the connection of the one before, if it may be used again.
pub(super) async fn check(subject: &Subject, config: &HttpCheck, kept: &mut Option<Kept>) -> Outcome {
    let wanted = if config.http2 { Wanted::Http2 } else { Wanted::Http1 };
    let request = exchange::Request {
        head: request(subject, config),
        body: config.send.clone(),
        wanted,
        keep: if config.receive.is_empty() { 0 } else { limit(config) },
    };
    match exchange::exchange(subject, &request, kept).await {
        Ok(answer) => judge(subject, config, &answer),
        Err(failure) => Outcome::Failed(failure),
    }
}

/// How much of the body is looked at.
fn limit(config: &HttpCheck) -> usize {
    match usize::try_from(config.response_buffer) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

fn request(subject: &Subject, config: &HttpCheck) -> RequestHead {
    let mut head = RequestHead::new(Method::parse(&config.method), subject.host(&config.host), &config.path);
    head.scheme = scheme(subject);
    head.headers.set("user-agent", USER_AGENT);
    change(&mut head, &config.headers);
    if !config.send.is_empty() {
        head.headers.set("content-length", config.send.len().to_string().as_bytes());
    }
    head
}

pub(super) fn scheme(subject: &Subject) -> Scheme {
    if subject.cluster.tls.is_some() { Scheme::Https } else { Scheme::Http }
}

/// Headers that the configuration removes and adds.
pub(super) fn change(head: &mut RequestHead, changes: &HeaderChanges) {
    for name in &changes.remove {
        head.headers.remove(name.as_str());
    }
    for option in &changes.add {
        let (name, value) = (option.name.as_str(), option.value.as_bytes());
        if value.is_empty() && !option.keep_empty_value {
            continue;
        }
        let there = head.headers.contains(name);
        match (option.action, there) {
            (AppendAction::AppendIfExistsOrAdd, _) | (AppendAction::AddIfAbsent, false) => {
                head.headers.append(name, value);
            }
            (AppendAction::OverwriteIfExistsOrAdd, _) | (AppendAction::OverwriteIfExists, true) => {
                head.headers.set(name, value);
            }
            (AppendAction::AddIfAbsent, true) | (AppendAction::OverwriteIfExists, false) => {}
        }
    }
}

/// What the answer means: the body first, then the status, then whose endpoint it is.
fn judge(subject: &Subject, config: &HttpCheck, answer: &Answer) -> Outcome {
    let ResponseHead { status, headers, .. } = &answer.head;
    let immediate = headers.contains("x-envoy-immediate-health-check-fail");
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(start, end)| (*start..*end).contains(status));
    if !payload::matches(&config.receive, &answer.body) {
        return Outcome::Failed(Failure::answered(false, immediate));
    }
    if !within(&config.expected) {
        return Outcome::Failed(Failure::answered(within(&config.retriable), immediate));
    }
    if let Some(wanted) = &config.service_name {
        if let Some(stats) = subject.cluster.health_stats() {
            stats.verify_cluster().inc(0);
        }
        let told = headers.get("x-envoy-upstream-healthchecked-cluster").unwrap_or_default();
        if !wanted.matches(told) {
            return Outcome::Failed(Failure::answered(false, false));
        }
    }
    Outcome::Passed { degraded: headers.contains("x-envoy-degraded") }
}
