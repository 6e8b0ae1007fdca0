//! How far one node is with one kind of resource.

use std::time::SystemTime;

use shared_xds::Version;

/// The latest refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub version: Version,
    pub message: String,
    /// The resources named in the message, as far as it names them.
    pub names: Vec<String>,
    pub at: SystemTime,
}

/// In the words of the client status discovery service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigStatus {
    NotSent,
    Synced,
    /// Sent and not answered yet.
    Stale,
    /// The latest was refused, wholly or in part.
    Error,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindStatus {
    pub sent: Option<Version>,
    pub sent_at: Option<SystemTime>,
    pub acked: Option<Version>,
    pub acked_at: Option<SystemTime>,
    pub refusal: Option<Refusal>,
    pub refusals: u64,
    pub gate_timeouts: u64,
}

// What a node may make us keep of one message.
const MAX_MESSAGE: usize = 8192;
const MAX_NAMES: usize = 64;

impl KindStatus {
    pub fn status(&self) -> ConfigStatus {
        let refused = self.refusal.as_ref().is_some_and(|refusal| Some(refusal.version) == self.sent);
        match self.sent {
            None => ConfigStatus::NotSent,
            Some(_) if refused => ConfigStatus::Error,
            Some(_) if self.sent == self.acked => ConfigStatus::Synced,
            Some(_) => ConfigStatus::Stale,
        }
    }

    pub(crate) fn sent(&mut self, version: Version, now: SystemTime) {
        self.sent = Some(version);
        self.sent_at = Some(now);
    }

    pub(crate) fn acked(&mut self, version: Version, now: SystemTime) {
        self.acked = Some(version);
        self.acked_at = Some(now);
        // An ACK of the same version answers another part of it, which does not heal the refused one.
        if self.refusal.as_ref().is_some_and(|refusal| refusal.version != version) {
            self.refusal = None;
        }
    }

    pub(crate) fn nacked(&mut self, version: Version, message: &str, now: SystemTime) {
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = message[..end].to_owned();
        self.refusals += 1;
        self.refusal = Some(Refusal { version, names: names_in(&message), message, at: now });
    }
}

/// The resources that a refusal names: ours says `(name: reason)`, Envoy `Error adding/updating cluster(s) name: reason`.
pub fn names_in(message: &str) -> Vec<String> {
    let ours = message.split('(').skip(1).filter_map(|part| part.split_once(": "));
    let mut names: Vec<String> = ours.map(|(name, _)| name).filter(|name| is_name(name)).map(str::to_owned).collect();
    let envoys = message.split("(s) ").skip(1).flat_map(|list| list.split(", "));
    let envoys = envoys.filter_map(|part| part.split_once(": ")).map(|(name, _)| name);
    names.extend(envoys.filter(|name| is_name(name)).map(str::to_owned));
    names.truncate(MAX_NAMES);
    names
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.contains(char::is_whitespace)
}
