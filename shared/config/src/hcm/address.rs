//! Decodes who the client of a connection manager is.

use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use proto::envoy::extensions::http::original_ip_detection::{custom_header::v3 as pb_header, xff::v3 as pb_xff};

use super::{AddressDetection, ClientAddress, InternalAddresses};
use crate::core::{cidr, extension, unpack};
use crate::invalid::Problems;

pub(super) fn decode(proto: &pb::HttpConnectionManager, p: &mut Problems) -> ClientAddress {
    let detection = p.each("original_ip_detection_extensions", &proto.original_ip_detection_extensions, detection);
    let use_remote_address = proto.use_remote_address.unwrap_or(false);
    if !proto.original_ip_detection_extensions.is_empty() {
        if use_remote_address {
            p.refuse_at::<()>("original_ip_detection_extensions", "cannot be used with use_remote_address");
        }
        if proto.xff_num_trusted_hops > 0 {
            p.refuse_at::<()>("original_ip_detection_extensions", "cannot be used with xff_num_trusted_hops");
        }
    }
    ClientAddress {
        use_remote_address,
        xff_trusted_hops: proto.xff_num_trusted_hops,
        skip_xff_append: proto.skip_xff_append,
        as_mapped_ipv6: proto.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        append_x_forwarded_port: proto.append_x_forwarded_port,
        internal: internal(proto.internal_address_config.as_ref(), p),
        detection,
    }
}

fn internal(proto: Option<&pb::http_connection_manager::InternalAddressConfig>, p: &mut Problems) -> InternalAddresses {
    let Some(proto) = proto else { return InternalAddresses::default() };
    p.at("internal_address_config", |p| InternalAddresses {
        unix_sockets: proto.unix_sockets,
        ranges: p.each("cidr_ranges", &proto.cidr_ranges, |p, range| cidr(range, p)),
    })
}

fn detection(p: &mut Problems, proto: &pb_core::TypedExtensionConfig) -> Option<AddressDetection> {
    let Some(any) = &proto.typed_config else { return p.refuse_at("typed_config", "is required") };
    p.at("typed_config", |p| {
        let any = extension(any, p)?;
        match any.type_name() {
            "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => xff(&unpack(&any, p)?, p),
            "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
                header(&unpack(&any, p)?, p)
            }
            other => {
                p.refuse(format!("original ip detection {other} is not implemented by weir-proxy"));
                None
            }
        }
    })
}

fn xff(proto: &pb_xff::XffConfig, p: &mut Problems) -> Option<AddressDetection> {
    if proto.xff_num_trusted_hops > 0 && proto.xff_trusted_cidrs.is_some() {
        return p.refuse_at("xff_trusted_cidrs", "cannot be set together with xff_num_trusted_hops");
    }
    let ranges = proto.xff_trusted_cidrs.as_ref();
    Some(AddressDetection::Xff {
        trusted_hops: proto.xff_num_trusted_hops,
        trusted_ranges: p.at("xff_trusted_cidrs", |p| {
            p.each("cidrs", ranges.map_or(&[], |ranges| &ranges.cidrs), |p, range| cidr(range, p))
        }),
        // Unlike the field of the connection manager, unset means yes.
        skip_append: proto.skip_xff_append.unwrap_or(true),
    })
}

fn header(proto: &pb_header::CustomHeaderConfig, p: &mut Problems) -> Option<AddressDetection> {
    let name = proto.header_name.to_ascii_lowercase();
    if !crate::header::is_header_name(&name) {
        return p.refuse_at("header_name", format!("{name:?} is not a header name"));
    }
    // Envoy takes 403 for what is not an error status.
    let error_status = |code: i32| u16::try_from(code).ok().filter(|code| (400..600).contains(code)).unwrap_or(403);
    let reject_with = proto.reject_with_status.as_ref().map(|status| error_status(status.code));
    Some(AddressDetection::Header { name, trusted: proto.allow_extension_to_set_address_as_trusted, reject_with })
}
