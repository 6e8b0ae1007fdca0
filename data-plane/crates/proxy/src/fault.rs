//! What went wrong with a stream, and the one table that says what the client sees of it.
//!
//! Modules below have their own small errors and know no status codes; they meet here.

use std::borrow::Cow;

use dp_http::LocalReply;
use dp_http::flags::Flags;

/// Why a stream cannot go on.
#[derive(Debug)]
pub(crate) enum Fault {
    NoRoute,
    /// The route asks for TLS or another place.
    NoCluster(u16),
    NoHealthyUpstream,
    /// The endpoint that the session sticks to is not there, and no other will do.
    NoStickyUpstream(u16),
    Overflow,
    ConnectFailure(Cow<'static, str>),
    ConnectTimeout,
    UpstreamTermination,
    UpstreamReset,
    UpstreamProtocol(Cow<'static, str>),
    RouteTimeout,
    PerTryTimeout,
    PerTryIdleTimeout,
    StreamIdle,
    RequestTimeout,
    MaxStreamDuration,
    UpstreamMaxStreamDuration,
    /// The client reset the stream or closed the connection.
    DownstreamGone,
    DownstreamProtocol(Cow<'static, str>),
    RequestTooLarge,
    ResponseTooLarge,
    BadRequest(&'static str),
    UpgradeRefused,
    MissingHost,
    PathEscape,
    Internal(&'static str),
    /// Another try was faster; never seen outside of `retry.rs`.
    Overtaken,
    /// The cluster drops this share of its requests (EDS `drop_overloads`), or `all` of them.
    Dropped {
        all: bool,
    },
    /// A filter answers; the response passes back through the filters.
    Reply(Box<LocalReply>),
    /// A filter replaces the response, or there was no request to show to filters.
    Replace(Box<LocalReply>),
}

/// A row of the table.
struct Answer {
    status: u16,
    flag: Option<Flags>,
    details: Cow<'static, str>,
    body: Cow<'static, str>,
}

const RESET: &str = "upstream connect error or disconnect/reset before headers. ";
const REASON: &str = "reset reason: ";
const RETRIED: &str = "retried and the latest ";

impl Fault {
    /// The response for a client that has not seen a head yet. `retried`: there was more than one try.
    pub(crate) fn reply(self, retried: bool) -> LocalReply {
        if let Self::Reply(reply) | Self::Replace(reply) = self {
            return *reply;
        }
        let told = match self {
            Self::Overflow => Some("x-envoy-overloaded"),
            Self::Dropped { all: false } => Some("x-envoy-drop-overload"),
            Self::Dropped { all: true } => Some("x-envoy-unconditional-drop-overload"),
            _ => None,
        };
        // DEADLINE_EXCEEDED
        let grpc_status = matches!(self, Self::MaxStreamDuration).then_some(4);
        let answer = self.answer(if retried { RETRIED } else { "" });
        let mut reply = LocalReply::new(answer.status, answer.details).body(answer.body.into_owned());
        if let Some(flag) = answer.flag {
            reply = reply.flag(flag);
        }
        if let Some(name) = told {
            reply.headers.append(name, b"true");
        }
        reply.grpc_status = grpc_status;
        reply
    }

    /// The status that the cluster's statistics count in the place of a response, as in Envoy.
    pub(crate) fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::NoHealthyUpstream
            | Self::Overflow
            | Self::ConnectFailure(_)
            | Self::ConnectTimeout
            | Self::UpstreamTermination
            | Self::Dropped { .. }
            | Self::UpstreamReset => Some(503),
            Self::UpstreamProtocol(_) => Some(502),
            Self::RouteTimeout | Self::PerTryTimeout | Self::PerTryIdleTimeout => Some(504),
            _ => None,
        }
    }

    /// Whether the answer tells how many tries were made (`include_attempt_count_in_response`).
    pub(crate) fn is_of_tries(&self) -> bool {
        let counted = self.upstream_status().is_some() && !matches!(self, Self::Dropped { .. });
        counted || matches!(self, Self::NoStickyUpstream(_) | Self::UpstreamMaxStreamDuration)
    }

    /// Whether the stream lasted too long. A client whose request is complete is not to blame for that.
    pub(crate) fn is_of_time(&self) -> bool {
        matches!(self, Self::StreamIdle | Self::MaxStreamDuration | Self::UpstreamMaxStreamDuration)
    }

    /// Whether nobody is left to answer.
    pub(crate) fn client_is_gone(&self) -> bool {
        matches!(self, Self::DownstreamGone)
    }

    #[rustfmt::skip] // a table is read by columns
    fn answer(&self, retried: &str) -> Answer {
        use Flags as F;
        let row = |status, flag, details: &'static str, body: &'static str| Answer { status, flag, details: details.into(), body: body.into() };
        let reset = |flag, reason: &str| Answer {
            status: 503, flag: Some(flag),
            details: format!("upstream_reset_before_response_started{{{}}}", reason.replace(' ', "_")).into(),
            body: format!("{RESET}{retried}{REASON}{reason}").into(),
        };
        match self {
            Self::NoRoute => row(404, Some(F::NO_ROUTE_FOUND), "route_not_found", ""),
            Self::NoCluster(status) => row(*status, Some(F::NO_CLUSTER_FOUND), "cluster_not_found", ""),
            Self::NoHealthyUpstream => row(503, Some(F::NO_HEALTHY_UPSTREAM), "no_healthy_upstream", "no healthy upstream"),
            Self::NoStickyUpstream(status) => row(*status, Some(F::NO_HEALTHY_UPSTREAM), "no_healthy_upstream", "no healthy upstream"),
            Self::Overflow => reset(F::UPSTREAM_OVERFLOW, "overflow"),
            Self::ConnectFailure(why) => Answer {
                status: 503, flag: Some(F::UPSTREAM_CONNECTION_FAILURE),
                details: format!("upstream_reset_before_response_started{{remote_connection_failure|{}}}", why.replace(' ', "_")).into(),
                // Why is for the log, not for strangers.
                body: format!("{RESET}{retried}{REASON}remote connection failure").into(),
            },
            Self::ConnectTimeout => reset(F::UPSTREAM_CONNECTION_FAILURE, "connection timeout"),
            Self::UpstreamTermination => reset(F::UPSTREAM_CONNECTION_TERMINATION, "connection termination"),
            Self::UpstreamReset => reset(F::UPSTREAM_REMOTE_RESET, "remote reset"),
            Self::UpstreamProtocol(why) => Answer {
                status: 502, flag: Some(F::UPSTREAM_PROTOCOL_ERROR),
                details: format!("upstream_reset_before_response_started{{protocol_error{}}}", if why.is_empty() { String::new() } else { format!("|{}", why.replace(' ', "_")) }).into(),
                body: format!("{RESET}{retried}{REASON}protocol error").into(),
            },
            Self::RouteTimeout => row(504, Some(F::UPSTREAM_REQUEST_TIMEOUT), "response_timeout", "upstream request timeout"),
            Self::PerTryTimeout => row(504, Some(F::UPSTREAM_REQUEST_TIMEOUT), "upstream_per_try_timeout", "upstream request timeout"),
            Self::PerTryIdleTimeout => row(504, Some(F::UPSTREAM_REQUEST_TIMEOUT), "upstream_per_try_idle_timeout", "upstream request timeout"),
            Self::StreamIdle => row(408, Some(F::STREAM_IDLE_TIMEOUT), "stream_idle_timeout", "stream timeout"),
            Self::RequestTimeout => row(408, Some(F::DOWNSTREAM_PROTOCOL_ERROR), "request_overall_timeout", "request timeout"),
            Self::MaxStreamDuration => row(408, None, "max_duration_timeout", "downstream duration timeout"),
            Self::UpstreamMaxStreamDuration => row(408, Some(F::UPSTREAM_MAX_STREAM_DURATION_REACHED), "upstream_max_stream_duration_reached", "upstream max stream duration reached"),
            Self::DownstreamGone => row(0, Some(F::DOWNSTREAM_CONNECTION_TERMINATION), "downstream_remote_disconnect", ""),
            Self::DownstreamProtocol(why) => Answer { status: 400, flag: Some(F::DOWNSTREAM_PROTOCOL_ERROR), details: why.clone(), body: "Bad Request".into() },
            Self::RequestTooLarge => row(413, None, "request_payload_too_large", "Payload Too Large"),
            Self::ResponseTooLarge => row(500, None, "response_payload_too_large", "Internal Server Error"),
            Self::BadRequest(details) => row(400, None, details, ""),
            Self::UpgradeRefused => row(403, None, "upgrade_failed", ""),
            Self::MissingHost => row(400, None, "missing_host_header", ""),
            Self::PathEscape => row(400, None, "path_normalization_failed", ""),
            Self::Overtaken => row(500, None, "overtaken", "Internal Server Error"),
            Self::Dropped { all: false } => row(503, Some(F::DROP_OVERLOAD), "drop_overload", "drop overload"),
            Self::Dropped { all: true } => row(503, Some(F::UNCONDITIONAL_DROP_OVERLOAD), "unconditional_drop_overload", "unconditional drop overload"),
            Self::Reply(_) | Self::Replace(_) => row(500, None, "filter_reply", "Internal Server Error"),
            Self::Internal(details) => row(500, None, details, "Internal Server Error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sees_names_the_reason() {
        let reply = Fault::ConnectFailure("Connection refused".into()).reply(false);
        assert_eq!(reply.status, 503);
        assert!(reply.flags.has(Flags::UPSTREAM_CONNECTION_FAILURE));
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
        assert_eq!(Fault::UpstreamReset.reply(false).details, "upstream_reset_before_response_started{remote_reset}");
    }
}
