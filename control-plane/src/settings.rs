//! What the control plane is started with: flags over environment over file over defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use cp_pipeline::{Groups, Selector};
use serde::Deserialize;

/// Every setting that a flag, a variable or the file can give. The names are the same in all three.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The file with all revisions; made when it is not there [default: weir-control.redb]
    #[arg(long, env = "WEIR_CONTROL_STORE", value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Where nodes connect [default: 127.0.0.1:18000]
    #[arg(long, env = "WEIR_CONTROL_XDS_ADDRESS", value_name = "ADDRESS")]
    pub xds_address: Option<SocketAddr>,
    /// Where operators connect, gRPC and REST [default: 127.0.0.1:18001]
    #[arg(long, env = "WEIR_CONTROL_MANAGEMENT_ADDRESS", value_name = "ADDRESS")]
    pub management_address: Option<SocketAddr>,
    /// Certificate of both servers, PEM
    #[arg(long, env = "WEIR_CONTROL_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "WEIR_CONTROL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The authority whose certificates nodes must show, PEM
    #[arg(long, env = "WEIR_CONTROL_NODE_CA", value_name = "FILE")]
    pub node_ca: Option<PathBuf>,
    /// Tokens of operators: `NAME viewer|editor|admin sha256:HEX` a line
    #[arg(long, env = "WEIR_CONTROL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// No certificates and no tokens; only loopback addresses are allowed then
    #[arg(long, env = "WEIR_CONTROL_INSECURE_LOOPBACK", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure_loopback: Option<bool>,
    /// How often nodes are asked to report load and the health of endpoints, 1s to 1h [default: 10s]
    #[arg(long, env = "WEIR_CONTROL_LOAD_INTERVAL", value_name = "TIME")]
    pub load_interval: Option<String>,
    /// trace, debug, info, warning, error or off [default: info]
    #[arg(short = 'l', long, env = "WEIR_CONTROL_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// [default: text]
    #[arg(long, env = "WEIR_CONTROL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Node groups; the first that fits is a node's group. Only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub groups: Vec<GivenGroup>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenGroup {
    pub name: String,
    pub cluster: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

const LOAD_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{0}")]
    Usage(String),
}

/// Complete and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: PathBuf,
    pub xds_address: SocketAddr,
    pub management_address: SocketAddr,
    pub access: Access,
    pub groups: Groups,
    pub load_interval: Duration,
}

#[derive(Debug, Clone)]
pub enum Access {
    /// Nobody is asked for anything; both addresses are loopback.
    InsecureLoopback,
    Guarded {
        tls_cert: PathBuf,
        tls_key: PathBuf,
        node_ca: PathBuf,
        token_file: PathBuf,
    },
}

impl Given {
    pub fn from_file(path: &Path) -> Result<Given, SettingsError> {
        let wrong = |reason: String| SettingsError::File { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))
    }

    /// What is not given here is taken from `other`.
    pub fn or(self, other: Given) -> Given {
        Given {
            store: self.store.or(other.store),
            xds_address: self.xds_address.or(other.xds_address),
            management_address: self.management_address.or(other.management_address),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            node_ca: self.node_ca.or(other.node_ca),
            token_file: self.token_file.or(other.token_file),
            insecure_loopback: self.insecure_loopback.or(other.insecure_loopback),
            load_interval: self.load_interval.or(other.load_interval),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            groups: if self.groups.is_empty() { other.groups } else { self.groups },
        }
    }

    pub fn complete(self) -> Result<Settings, SettingsError> {
        let xds_address = self.xds_address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 18000)));
        let management_address = self.management_address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 18001)));
        let usage = |text: &str| Err(SettingsError::Usage(text.to_owned()));
        let secured = [&self.tls_cert, &self.tls_key, &self.node_ca, &self.token_file].iter().any(|f| f.is_some());
        let access = match (
            self.insecure_loopback.unwrap_or(false),
            self.tls_cert,
            self.tls_key,
            self.node_ca,
            self.token_file,
        ) {
            (true, ..) if secured => {
                return usage("--insecure-loopback contradicts --tls-cert, --tls-key, --node-ca and --token-file");
            }
            (true, ..) => {
                for address in [xds_address, management_address] {
                    if !address.ip().is_loopback() {
                        return usage(&format!(
                            "--insecure-loopback is for loopback addresses only, and {address} is none"
                        ));
                    }
                }
                Access::InsecureLoopback
            }
            (false, Some(tls_cert), Some(tls_key), Some(node_ca), Some(token_file)) => {
                Access::Guarded { tls_cert, tls_key, node_ca, token_file }
            }
            (false, ..) => {
                return usage(
                    "--tls-cert, --tls-key, --node-ca and --token-file are all needed (or --insecure-loopback, to try it out)",
                );
            }
        };
        let mut groups: Vec<(String, Selector)> = Vec::new();
        for group in self.groups {
            if groups.iter().any(|(name, _)| *name == group.name) {
                return usage(&format!("the node group `{}` is defined twice", group.name));
            }
            groups.push((group.name, Selector { cluster: group.cluster, labels: group.labels }));
        }
        let load_interval = match &self.load_interval {
            None => LOAD_INTERVAL,
            Some(text) => match cp_pipeline::duration(text) {
                Ok(time) if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&time) => time,
                _ => return usage(&format!("load_interval: `{text}` is not a time from 1s to 1h")),
            },
        };
        let store = self.store.unwrap_or_else(|| PathBuf::from("weir-control.redb"));
        Ok(Settings { store, xds_address, management_address, access, groups: Groups(groups), load_interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: Result<(), &str>) {
        let given: Given = serde_saphyr::from_str(yaml).expect("known keys");
        match (given.complete(), expected) {
            (Ok(_), Ok(())) => (),
            (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
            (other, _) => panic!("{yaml}: {other:?}"),
        }
    }

    #[test]
    fn insecure_only_on_loopback_and_else_everything_that_secures() {
        check("insecure_loopback: true", Ok(()));
        check("{ insecure_loopback: true, xds_address: '[::1]:0' }", Ok(()));
        check("{ insecure_loopback: true, xds_address: '0.0.0.0:18000' }", Err("0.0.0.0:18000 is none"));
        check("{ insecure_loopback: true, token_file: x }", Err("contradicts"));
        check("store: x", Err("are all needed"));
        check("{ tls_cert: a, tls_key: b, node_ca: c }", Err("are all needed"));
        check("{ tls_cert: a, tls_key: b, node_ca: c, token_file: d }", Ok(()));
        check("{ insecure_loopback: true, groups: [{ name: a }, { name: a }] }", Err("defined twice"));
        check("{ insecure_loopback: true, load_interval: 2s }", Ok(()));
        check("{ insecure_loopback: true, load_interval: 10ms }", Err("is not a time from 1s to 1h"));
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused() {
        assert!(serde_saphyr::from_str::<Given>("stoer: x").is_err());
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flag = Given { store: Some("a".into()), ..Given::default() };
        let file = Given { store: Some("b".into()), log: Some("debug".into()), ..Given::default() };
        let both = flag.or(file);
        assert_eq!((both.store, both.log.as_deref()), (Some("a".into()), Some("debug")));
    }
}
