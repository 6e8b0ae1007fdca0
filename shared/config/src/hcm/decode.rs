//! Decodes the HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use pb::http_connection_manager as pb_hcm;
use proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

use super::{
    Codec, EscapedSlashes, ForwardClientCertificate, ForwardMode, HostOptions, HttpConnectionManager, PathOptions,
    RequestId, RouteSource, Scheme, ServerHeader, StripPort, Timeouts, Upgrade, address, local_reply, protocol,
};
use crate::access_log;
use crate::core::{config_source, duration_at, extension, timeout_at, unpack};
use crate::http_filter;
use crate::invalid::Problems;
use crate::refuse_set;
use crate::route::RouteConfiguration;

/// Decodes the filter.
pub fn decode(proto: &pb::HttpConnectionManager, p: &mut Problems) -> Option<HttpConnectionManager> {
    let before = p.count();
    refuse(proto, p);
    if proto.stat_prefix.is_empty() {
        p.refuse_at::<()>("stat_prefix", "must not be empty");
    }
    if proto.stream_error_on_invalid_http_message == Some(true) {
        p.warn("stream_error_on_invalid_http_message", protocol::STREAM_ERRORS);
    }
    let routes = routes(proto, p);
    refuse_access_log_options(proto, p);
    let http_filters = http_filter::decode_chain(&proto.http_filters, p);
    let upgrades = p.each("upgrade_configs", &proto.upgrade_configs, |p, upgrade| upgrade_of(upgrade, p));
    let max_request_headers_kb = proto.max_request_headers_kb.unwrap_or(60);
    if !(1..=8192).contains(&max_request_headers_kb) {
        p.refuse_at::<()>("max_request_headers_kb", "must be between 1 and 8192");
    }
    let http = proto.common_http_protocol_options.as_ref();
    let http1 = proto.http_protocol_options.as_ref();
    let http2 = proto.http2_protocol_options.as_ref();
    for (name, text) in [("server_name", &proto.server_name), ("via", &proto.via)] {
        if text.contains(['\r', '\n', '\0']) {
            p.refuse_at::<()>(name, "is not a header value");
        }
    }
    let manager = HttpConnectionManager {
        stat_prefix: proto.stat_prefix.clone(),
        codec: codec(proto.codec_type, p),
        routes: routes?,
        http_filters,
        upgrades,
        http: p.at("common_http_protocol_options", |p| protocol::http_options(http, p)),
        http1: p.at("http_protocol_options", |p| protocol::http1_options(http1, p)),
        http2: p.at("http2_protocol_options", |p| protocol::http2_options(http2, p)),
        max_request_headers_kb,
        timeouts: timeouts(proto, p),
        server_name: if proto.server_name.is_empty() { "envoy".to_owned() } else { proto.server_name.clone() },
        server_header: server_header(proto.server_header_transformation, p),
        scheme: scheme(proto, p),
        client: address::decode(proto, p),
        client_certificate: client_certificate(proto, p),
        request_id: request_id(proto, p),
        via: proto.via.clone(),
        add_user_agent: proto.add_user_agent.unwrap_or(false),
        proxy_100_continue: proto.proxy_100_continue,
        path: path(proto, p),
        host: host(proto, p),
        local_reply: local_reply::decode(proto.local_reply_config.as_ref(), p),
        access_logs: access_log::decode_all(&proto.access_log, "access_log", p),
    };
    (p.count() == before).then_some(manager)
}

/// What a connection manager can say and we cannot do. `add_proxy_protocol_connection_state` is about a filter state that
/// only an upstream PROXY protocol socket reads, which is refused too.
fn refuse(proto: &pb::HttpConnectionManager, p: &mut Problems) {
    refuse_set!(
        p, proto;
        tracing, http1_safe_max_connection_duration, http3_protocol_options, drain_timeout_jitter,
        early_header_mutation_extensions, forward_client_cert_matcher, path_normalization_options,
        proxy_status_config, typed_header_validation_config, append_local_overload, forward_proto_config,
    );
}

fn codec(codec: i32, p: &mut Problems) -> Codec {
    match pb_hcm::CodecType::try_from(codec) {
        Ok(pb_hcm::CodecType::Auto) => Codec::Auto,
        Ok(pb_hcm::CodecType::Http1) => Codec::Http1,
        Ok(pb_hcm::CodecType::Http2) => Codec::Http2,
        Ok(pb_hcm::CodecType::Http3) => {
            p.refuse_at("codec_type", "HTTP3 is not implemented by weir-proxy").unwrap_or_default()
        }
        Err(_) => p.refuse_at("codec_type", format!("unknown value {codec}")).unwrap_or_default(),
    }
}

fn routes(proto: &pb::HttpConnectionManager, p: &mut Problems) -> Option<RouteSource> {
    match &proto.route_specifier {
        Some(pb_hcm::RouteSpecifier::Rds(rds)) => p.at("rds", |p| {
            if rds.route_config_name.is_empty() {
                p.refuse_at::<()>("route_config_name", "must not be empty");
            }
            let Some(source) = &rds.config_source else { return p.refuse_at("config_source", "is required") };
            let source = p.at("config_source", |p| config_source(source, p))?;
            Some(RouteSource::Rds { name: rds.route_config_name.clone(), source })
        }),
        Some(pb_hcm::RouteSpecifier::RouteConfig(routes)) => {
            let routes = p.at("route_config", |p| RouteConfiguration::decode(routes, p))?;
            Some(RouteSource::Inline(Arc::new(routes)))
        }
        Some(pb_hcm::RouteSpecifier::ScopedRoutes(_)) => {
            p.unimplemented("scoped_routes");
            None
        }
        None => {
            p.refuse("one of rds and route_config is required");
            None
        }
    }
}

fn upgrade_of(proto: &pb_hcm::UpgradeConfig, p: &mut Problems) -> Option<Upgrade> {
    if proto.upgrade_type.is_empty() {
        return p.refuse_at("upgrade_type", "must not be empty");
    }
    // Upgraded requests pass the filters that all others pass.
    p.unimplemented_if("filters", !proto.filters.is_empty());
    let protocol = proto.upgrade_type.to_ascii_lowercase();
    Some(Upgrade { protocol, enabled: proto.enabled.unwrap_or(true) })
}

fn timeouts(proto: &pb::HttpConnectionManager, p: &mut Problems) -> Timeouts {
    let five_minutes = Some(Duration::from_secs(300));
    // Envoy waits for ever unless told; a stranger should not be able to make us.
    let minute = Some(Duration::from_secs(60));
    // Only checked: between the two GOAWAY of a drain our codec waits for the answer to a PING instead of a time.
    duration_at(proto.drain_timeout.as_ref(), "drain_timeout", p);
    let stream_idle = timeout_at(proto.stream_idle_timeout.as_ref(), "stream_idle_timeout", five_minutes, p);
    Timeouts {
        stream_idle,
        request: timeout_at(proto.request_timeout.as_ref(), "request_timeout", None, p),
        request_headers: timeout_at(proto.request_headers_timeout.as_ref(), "request_headers_timeout", minute, p),
        delayed_close: timeout_at(
            proto.delayed_close_timeout.as_ref(),
            "delayed_close_timeout",
            Some(Duration::from_secs(1)),
            p,
        ),
    }
}

fn server_header(transformation: i32, p: &mut Problems) -> ServerHeader {
    use pb_hcm::ServerHeaderTransformation;
    match ServerHeaderTransformation::try_from(transformation) {
        Ok(ServerHeaderTransformation::Overwrite) => ServerHeader::Overwrite,
        Ok(ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
        Err(_) => {
            let reason = format!("unknown value {transformation}");
            p.refuse_at("server_header_transformation", reason).unwrap_or_default()
        }
    }
}

fn scheme(proto: &pb::HttpConnectionManager, p: &mut Problems) -> Scheme {
    use proto::envoy::config::core::v3::scheme_header_transformation::Transformation;
    let Some(proto) = &proto.scheme_header_transformation else { return Scheme::Keep };
    p.at("scheme_header_transformation", |p| match &proto.transformation {
        Some(Transformation::SchemeToOverwrite(_)) if proto.match_upstream => {
            p.refuse_at("match_upstream", "cannot be set together with scheme_to_overwrite").unwrap_or_default()
        }
        Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => {
                let reason = format!("{other:?} is not a scheme, use http or https");
                p.refuse_at("scheme_to_overwrite", reason).unwrap_or_default()
            }
        },
        None if proto.match_upstream => Scheme::MatchUpstream,
        None => Scheme::Keep,
    })
}

fn client_certificate(proto: &pb::HttpConnectionManager, p: &mut Problems) -> ForwardClientCertificate {
    use pb_hcm::ForwardClientCertDetails as Details;
    let mode = match Details::try_from(proto.forward_client_cert_details) {
        Ok(Details::Sanitize) => ForwardMode::Sanitize,
        Ok(Details::ForwardOnly) => ForwardMode::ForwardOnly,
        Ok(Details::AppendForward) => ForwardMode::AppendForward,
        Ok(Details::SanitizeSet) => ForwardMode::SanitizeSet,
        Ok(Details::AlwaysForwardOnly) => ForwardMode::AlwaysForwardOnly,
        Err(_) => {
            let reason = format!("unknown value {}", proto.forward_client_cert_details);
            p.refuse_at("forward_client_cert_details", reason).unwrap_or_default()
        }
    };
    let details = proto.set_current_client_cert_details.unwrap_or_default();
    p.at("set_current_client_cert_details", |p| {
        refuse_set!(p, details; issuer, format);
    });
    ForwardClientCertificate {
        mode,
        subject: details.subject.unwrap_or(false),
        certificate: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

fn request_id(proto: &pb::HttpConnectionManager, p: &mut Problems) -> RequestId {
    // Only checked: `pack_trace_reason` marks why a request is traced, and `use_request_id_for_trace_sampling` decides
    // whether it is, and tracing is refused.
    proto.request_id_extension.as_ref().and_then(|proto| {
        p.at("request_id_extension", |p| {
            let Some(any) = &proto.typed_config else { return p.refuse_at("typed_config", "is required") };
            p.at("typed_config", |p| {
                let any = extension(any, p)?;
                if !any.is::<UuidRequestIdConfig>() {
                    p.refuse(format!("request id extension {} is not implemented by weir-proxy", any.type_name()));
                    return None;
                }
                unpack::<UuidRequestIdConfig>(&any, p)
            })
        })
    });
    RequestId {
        generate: proto.generate_request_id.unwrap_or(true),
        preserve_external: proto.preserve_external_request_id,
        in_response: proto.always_set_request_id_in_response,
    }
}

fn path(proto: &pb::HttpConnectionManager, p: &mut Problems) -> PathOptions {
    use pb_hcm::PathWithEscapedSlashesAction as Action;
    let escaped_slashes = match Action::try_from(proto.path_with_escaped_slashes_action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => {
            let reason = format!("unknown value {}", proto.path_with_escaped_slashes_action);
            p.refuse_at("path_with_escaped_slashes_action", reason).unwrap_or_default()
        }
    };
    // Unset is Envoy's runtime flag `http_connection_manager.normalize_path`, which is off.
    PathOptions {
        normalize: proto.normalize_path.unwrap_or(false),
        merge_slashes: proto.merge_slashes,
        escaped_slashes,
    }
}

fn host(proto: &pb::HttpConnectionManager, p: &mut Problems) -> HostOptions {
    let any = matches!(proto.strip_port_mode, Some(pb_hcm::StripPortMode::StripAnyHostPort(true)));
    if any && proto.strip_matching_host_port {
        p.refuse_at::<()>("strip_any_host_port", "cannot be set together with strip_matching_host_port");
    }
    let strip_port = match (any, proto.strip_matching_host_port) {
        (true, _) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::Keep,
    };
    HostOptions { strip_port, strip_trailing_dot: proto.strip_trailing_host_dot }
}

/// Logs have one line a request, at its end.
fn refuse_access_log_options(proto: &pb::HttpConnectionManager, p: &mut Problems) {
    #[allow(deprecated)]
    {
        refuse_set!(p, proto; access_log_options, access_log_flush_interval, flush_access_log_on_new_request);
    }
    // A client that takes nothing is bounded by the idle timeout of the stream.
    refuse_set!(p, proto; stream_flush_timeout);
}
