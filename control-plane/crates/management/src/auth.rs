//! Who asks, and what they may do. Tokens are kept and compared only as hashes.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::calls::Call;
use crate::failure::Failure;

/// Each may do what the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Changes the configuration, and drains endpoints.
    Editor,
    /// Sees private keys.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Editor => "editor",
            Role::Admin => "admin",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    pub role: Role,
    hash: [u8; 32],
}

/// How callers are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody is an admin. Only for a socket that nobody else can reach.
    Open,
    Tokens(Vec<Token>),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("line {0}: expected `NAME ROLE sha256:HEX`")]
    Line(usize),
    #[error("line {0}: role `{1}` is not one of viewer, editor, admin")]
    Role(usize, String),
    #[error("line {0}: `{1}` is not `sha256:` and 64 hexadecimal digits")]
    Hash(usize, String),
    #[error("line {0}: the name `{1}` is there twice")]
    Twice(usize, String),
    #[error("there is no token in it")]
    Empty,
}

/// The caller of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub role: Role,
}

impl Caller {
    /// Whether private keys are shown; `[redacted]` stands for them otherwise.
    pub(crate) fn may_see_keys(&self) -> bool {
        self.role >= Role::Admin
    }
}

/// What to write into a token file for `secret`.
pub fn hash_token(secret: &str) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, secret.as_bytes())))
}

impl Access {
    /// Reads a token file: `NAME ROLE sha256:HEX` a line; empty lines and lines with `#` in front are left out.
    pub fn from_file(text: &str) -> Result<Access, TokenError> {
        let mut tokens: Vec<Token> = Vec::new();
        for (i, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = token(i, line)?;
            if tokens.iter().any(|t| t.name == token.name) {
                return Err(TokenError::Twice(i, token.name));
            }
            tokens.push(token);
        }
        if tokens.is_empty() { Err(TokenError::Empty) } else { Ok(Access::Tokens(tokens)) }
    }

    /// The caller behind an `authorization` header, if the role is enough.
    pub(crate) fn caller(&self, authorization: Option<&str>, call: &Call) -> Result<Caller, Failure> {
        let tokens = match self {
            Access::Open => return Ok(Caller { name: "anonymous".to_owned(), role: Role::Admin }),
            Access::Tokens(tokens) => tokens,
        };
        let secret = authorization.and_then(bearer).ok_or(Failure::Unauthenticated("a bearer token is needed"))?;
        let hash = digest(&SHA256, secret.as_bytes());
        // Every token is compared, and each in constant time, so that timing tells nothing.
        let found =
            tokens.iter().fold(None, |found, token| match verify_slices_are_equal(&token.hash, hash.as_ref()) {
                Ok(()) => Some(token),
                Err(_) => found,
            });
        let token = found.ok_or(Failure::Unauthenticated("the token is not known"))?;
        if token.role < call.role {
            return Err(Failure::Denied { name: token.name.clone(), role: token.role, call: *call });
        }
        Ok(Caller { name: token.name.clone(), role: token.role })
    }
}

fn token(line_number: usize, line: &str) -> Result<Token, TokenError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, role, hash] = words[..] else { return Err(TokenError::Line(line_number)) };
    let role = match role {
        "viewer" => Role::Viewer,
        "editor" => Role::Editor,
        "admin" => Role::Admin,
        other => return Err(TokenError::Role(line_number, other.to_owned())),
    };
    let bytes = hash.strip_prefix("sha256:").and_then(|h| hex::decode(h).ok()).and_then(|b| b.try_into().ok());
    let hash = bytes.ok_or_else(|| TokenError::Hash(line_number, hash.to_owned()))?;
    Ok(Token { name: name.to_owned(), role, hash })
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, secret) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let line = |name, role, secret| format!("{name} {role} {}\n", hash_token(secret));
        Access::from_file(&format!("# people\n\n{}{}", line("ann", "editor", "s1"), line("bob", "viewer", "s2")))
            .expect("right")
    }

    fn needing(role: Role) -> Call {
        *crate::calls::CALLS.iter().find(|c| c.role == role).expect("there is one")
    }

    #[test]
    fn a_token_gives_its_name_and_only_its_role() {
        for (header, needed, expected) in [
            (Some("Bearer s1"), Role::Editor, Ok("ann")),
            (Some("bearer s2"), Role::Viewer, Ok("bob")),
            (Some("Bearer s2"), Role::Editor, Err("denied")),
            (Some("Bearer s3"), Role::Viewer, Err("unknown")),
            (Some("Basic s1"), Role::Viewer, Err("unknown")),
            (Some("Bearer"), Role::Viewer, Err("unknown")),
            (None, Role::Viewer, Err("unknown")),
        ] {
            let found = access().caller(header, &needing(needed));
            match (&found, expected) {
                (Ok(caller), Ok(name)) => assert_eq!(caller.name, name),
                (Err(Failure::Denied { .. }), Err("denied")) | (Err(Failure::Unauthenticated(_)), Err("unknown")) => (),
                other => panic!("{header:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_token_file_is_refused_with_its_line() {
        for (text, expected) in [
            ("ann editor", TokenError::Line(1)),
            ("\nann boss sha256:00", TokenError::Role(2, "boss".into())),
            ("ann admin sha256:00", TokenError::Hash(1, "sha256:00".into())),
            ("# nothing\n", TokenError::Empty),
        ] {
            assert_eq!(Access::from_file(text), Err(expected), "{text}");
        }
    }
}
