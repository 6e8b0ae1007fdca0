//! The way to the control plane's management API: address, certificates, token. Knows no command.

use std::net::IpAddr;
use std::time::Duration;

use proto::weir::management::v1::config_service_client::ConfigServiceClient;
use proto::weir::management::v1::fleet_service_client::FleetServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::failure::{self, Failure};
use crate::flags::Global;

/// The largest answer: a whole configuration, or everything sent to a node.
const MAX_ANSWER: usize = 256 << 20;

pub(crate) type Service = InterceptedService<Channel, Bearer>;

/// Shows the token with every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A control plane that answers.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) server: String,
    pub(crate) config: ConfigServiceClient<Service>,
    pub(crate) fleet: FleetServiceClient<Service>,
    timeout: Duration,
}

impl Client {
    pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
        let server = url(global)?;
        let token = token(global, &server)?;
        let mut endpoint = Endpoint::from_shared(server.clone())
            .map_err(|e| Failure::usage(format!("--server: `{server}` is not a URL: {e}")))?
            .connect_timeout(global.timeout.min(Duration::from_secs(10)));
        if server.starts_with("https://") {
            let tls = tls(global)?;
            endpoint =
                endpoint.tls_config(tls).map_err(|e| Failure::refused(format!("certificates: {}", whole(&e))))?;
        }
        let channel = endpoint.connect().await.map_err(|e| failure::unreachable_at(&server, &whole(&e)))?;
        Ok(Self::over(channel, Bearer(token), server, global.timeout))
    }

    fn over(channel: Channel, bearer: Bearer, server: String, timeout: Duration) -> Client {
        let service = InterceptedService::new(channel, bearer);
        let config = ConfigServiceClient::new(service.clone());
        let fleet = FleetServiceClient::new(service);
        Client {
            config: config.max_decoding_message_size(MAX_ANSWER).max_encoding_message_size(MAX_ANSWER),
            fleet: fleet.max_decoding_message_size(MAX_ANSWER),
            server,
            timeout,
        }
    }

    /// A request that the server may take `--timeout` for.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    pub(crate) fn failure(&self, status: &Status) -> Failure {
        failure::of_status(status, &self.server)
    }
}

/// The error with all its causes: the first line alone is "transport error".
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

fn url(global: &Global) -> Result<String, Failure> {
    let server = global.server.trim_end_matches('/');
    let secured = global.tls_ca.is_some() || global.tls_cert.is_some();
    match server.split_once("://") {
        Some(("https", _)) => Ok(server.to_owned()),
        Some(("http", _)) if secured => {
            Err(Failure::usage("--tls-ca, --tls-cert and --tls-key need an https:// server".to_owned()))
        }
        Some(("http", _)) => Ok(server.to_owned()),
        Some((scheme, _)) => Err(Failure::usage(format!("--server: `{scheme}` is not http or https"))),
        None => Ok(format!("{}://{server}", if secured { "https" } else { "http" })),
    }
}

fn token(global: &Global, server: &str) -> Result<Option<MetadataValue<Ascii>>, Failure> {
    let Some(path) = &global.token_file else { return Ok(None) };
    if server.starts_with("http://") && !is_loopback(server) {
        return Err(Failure::usage("a token is not sent in the clear: use an https:// server".to_owned()));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::refused(format!("cannot read the token file {}: {e}", path.display())))?;
    let value = format!("Bearer {}", text.trim()).parse::<MetadataValue<Ascii>>();
    let mut value = value.map_err(|_| Failure::refused(format!("{} holds no token", path.display())))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn is_loopback(server: &str) -> bool {
    let authority = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split([':', '/']).next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls(global: &Global) -> Result<ClientTlsConfig, Failure> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| Failure::refused(format!("cannot read {}: {e}", path.display())))
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &global.tls_ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) = (&global.tls_cert, &global.tls_key) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn check(arguments: &[&str], expected: Result<&str, u8>) {
        let flags = crate::flags::Flags::parse_from([&["weir", "status"], arguments].concat());
        assert_eq!(url(&flags.global).map_err(|e| e.code()), expected.map(str::to_owned));
    }

    #[test]
    fn the_server_is_named_with_or_without_scheme() {
        check(&["--server", "10.0.0.1:5"], Ok("http://10.0.0.1:5"));
        check(&["--server", "10.0.0.1:5", "--tls-ca", "x"], Ok("https://10.0.0.1:5"));
        check(&["--server", "https://a/"], Ok("https://a"));
        check(&["--server", "http://a", "--tls-ca", "x"], Err(2));
        check(&["--server", "ftp://a"], Err(2));
    }

    #[test]
    fn a_token_goes_in_the_clear_to_this_machine_only() {
        for (server, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example.com", false),
            ("http://127.0.0.1.example.com:1", false),
        ] {
            assert_eq!(is_loopback(server), loopback, "{server}");
        }
    }
}
