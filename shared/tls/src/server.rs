//! The TLS configuration of a listener.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::ticketer::TicketRotator;

use crate::TlsError;
use crate::certificate::Certificate;
use crate::provider::Params;
use crate::resolver::ByServerName;
use crate::ticket::{DEFAULT_LIFETIME, Ticketer};
use crate::verify::{Verification, Verifier};

/// Sessions in memory, per configuration.
const SESSIONS: usize = 4096;
/// How long a generated key makes tickets; they are opened for twice as long.
const ROTATION: Duration = Duration::from_secs(6 * 3600);

/// What a server does.
#[derive(Clone, Default)]
pub struct ServerSettings {
    /// At least one; the first is for clients that ask for none of them.
    pub certificates: Vec<Certificate>,
    /// Versions and algorithms.
    pub params: Params,
    /// Protocols by preference.
    pub alpn: Vec<String>,
    /// Ask for a client certificate.
    pub client_auth: Option<ClientAuth>,
    /// Session tickets.
    pub tickets: Tickets,
    /// Keep sessions in memory.
    pub stateful_resumption: bool,
    /// How long sessions can be resumed.
    pub session_timeout: Option<Duration>,
    /// For a server name we do not have, look for a certificate the client can use among all.
    pub full_scan: bool,
    /// Prefer the order of the client's cipher list.
    pub prefer_client_ciphers: bool,
}

/// How clients are asked for a certificate.
#[derive(Clone)]
pub struct ClientAuth {
    /// Refuse clients without one.
    pub required: bool,
    /// How it is verified.
    pub verification: Verification,
}

/// How session tickets are made.
#[derive(Debug, Clone, Default)]
pub enum Tickets {
    /// With keys of our own, replaced every six hours.
    #[default]
    Generated,
    /// With the first of these keys of 80 bytes; all of them open tickets.
    Keys(Vec<Vec<u8>>),
    /// Not at all.
    Disabled,
}

/// Builds the configuration of a server.
///
/// # Errors
/// A certificate is missing, roots, lists or keys are broken, or no version is left.
pub fn server_config(settings: ServerSettings) -> Result<Arc<ServerConfig>, TlsError> {
    if settings.certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let builder = ServerConfig::builder_with_provider(settings.params.provider()?)
        .with_protocol_versions(&settings.params.versions())?;
    let builder = match settings.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(Arc::new(Verifier::new(auth.verification, auth.required)?)),
    };
    let resolver = ByServerName::new(&settings.certificates, settings.full_scan);
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = settings.alpn.into_iter().map(String::into_bytes).collect();
    config.ignore_client_order = !settings.prefer_client_ciphers;
    config.session_storage = if settings.stateful_resumption {
        ServerSessionMemoryCache::new(SESSIONS)
    } else {
        Arc::new(NoServerSessionStorage {})
    };
    let lifetime = settings.session_timeout;
    match settings.tickets {
        Tickets::Generated => {
            let seconds = lifetime.unwrap_or(ROTATION).as_secs().max(1);
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            config.ticketer = Arc::new(TicketRotator::new(seconds, Ticketer::random)?);
        }
        Tickets::Keys(keys) => {
            config.ticketer = Arc::new(Ticketer::new(&keys, lifetime.unwrap_or(DEFAULT_LIFETIME))?);
        }
        Tickets::Disabled if !settings.stateful_resumption => config.send_tls13_tickets = 0,
        // What is sent as a ticket is the key of a session in memory.
        Tickets::Disabled => {}
    }
    Ok(Arc::new(config))
}
