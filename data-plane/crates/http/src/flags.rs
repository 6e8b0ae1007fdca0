//! Response flags: why a request ended as it did, in Envoy's words (access log operator `%RESPONSE_FLAGS%`).

/// A set of response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($constant:ident $short:literal $long:literal,)+) => {
        flags!(@bits 0u32; $($constant $short $long,)+);
        /// Every flag with its short and long name, in the order Envoy prints them.
        pub const ALL: &[(Flags, &str, &str)] = &[$((Flags::$constant, $short, $long),)+];
    };
    (@bits $n:expr; $constant:ident $short:literal $long:literal, $($rest:tt)*) => {
        impl Flags { #[doc = $long] pub const $constant: Flags = Flags(1 << $n); }
        flags!(@bits $n + 1; $($rest)*);
    };
    (@bits $n:expr;) => {};
}

flags! {
    FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck",
    NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream",
    UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout",
    LOCAL_RESET "LR" "LocalReset",
    UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset",
    UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure",
    UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination",
    UPSTREAM_OVERFLOW "UO" "UpstreamOverflow",
    NO_ROUTE_FOUND "NR" "NoRouteFound",
    DELAY_INJECTED "DI" "DelayInjected",
    FAULT_INJECTED "FI" "FaultInjected",
    RATE_LIMITED "RL" "RateLimited",
    UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService",
    RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError",
    DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination",
    UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded",
    STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout",
    INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders",
    DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError",
    UPSTREAM_MAX_STREAM_DURATION_REACHED "UMSDR" "UpstreamMaxStreamDurationReached",
    RESPONSE_FROM_CACHE_FILTER "RFCF" "ResponseFromCacheFilter",
    NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound",
    DURATION_TIMEOUT "DT" "DurationTimeout",
    UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError",
    NO_CLUSTER_FOUND "NC" "NoClusterFound",
    OVERLOAD_MANAGER "OM" "OverloadManagerTerminated",
    DNS_RESOLUTION_FAILED "DF" "DnsResolutionFailed",
    DROP_OVERLOAD "DO" "DropOverload",
    DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset",
    UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload",
}

impl Flags {
    pub fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flag with this short name, for access-log filters.
    pub fn by_short_name(name: &str) -> Option<Flags> {
        ALL.iter().find(|(_, short, _)| *short == name).map(|(flag, ..)| *flag)
    }

    /// The short names, comma-separated; empty when no flag is set.
    pub fn write_short(self, out: &mut String) {
        let mut first = true;
        for (_, short, _) in ALL.iter().filter(|(flag, ..)| self.has(*flag)) {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            out.push_str(short);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_flags_are_written_with_their_short_names() {
        let mut flags = Flags::default();
        flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
        let mut text = String::new();
        flags.write_short(&mut text);
        assert_eq!(text, "UF,URX");
        assert_eq!(Flags::by_short_name("UF"), Some(Flags::UPSTREAM_CONNECTION_FAILURE));
    }
}
