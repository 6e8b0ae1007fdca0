//! What a client carries: Envoy's `envoy.Cookie { string address = 1; int64 expires = 2; }` or the address alone, in
//! base64. It comes from the client, so nothing in it is trusted.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dp_http::info::Address;

use super::unix_seconds;

pub(super) struct Token;

/// Numbers below this are not seconds since 1970 but since a machine started, as Envoy counts them; only the browser
/// can judge those.
const EARLIEST: u64 = 1_000_000_000;

impl Token {
    /// The address in a cookie, unless it has expired.
    pub(super) fn read(value: &[u8], now: SystemTime) -> Option<Address> {
        let bytes = STANDARD.decode(value).ok()?;
        match fields(&bytes) {
            Some((address, expires)) => {
                let is_over = expires >= EARLIEST && expires < unix_seconds(now);
                if is_over { None } else { parse(address) }
            }
            None => parse(&bytes),
        }
    }

    pub(super) fn read_plain(value: &[u8]) -> Option<Address> {
        parse(&STANDARD.decode(value).ok()?)
    }

    pub(super) fn write(address: &Address, expires: Option<u64>) -> String {
        let address = address.to_string();
        let mut bytes = vec![0x0a];
        varint(address.len() as u64, &mut bytes);
        bytes.extend_from_slice(address.as_bytes());
        if let Some(expires) = expires {
            bytes.push(0x10);
            varint(expires, &mut bytes);
        }
        STANDARD.encode(bytes)
    }

    pub(super) fn write_plain(address: &Address) -> String {
        STANDARD.encode(address.to_string())
    }
}

fn parse(bytes: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.starts_with('/') {
        return Some(Address::Pipe(text.into()));
    }
    text.parse().ok().map(Address::Ip)
}

/// Address and expiry of the message; `None` when it is none.
fn fields(mut bytes: &[u8]) -> Option<(&[u8], u64)> {
    let (mut address, mut expires) = (None, 0);
    while let Some((&tag, rest)) = bytes.split_first() {
        let (number, rest) = take_varint(rest)?;
        bytes = rest;
        match tag {
            0x0a => {
                let (text, rest) = bytes.split_at_checked(usize::try_from(number).ok()?)?;
                (address, bytes) = (Some(text), rest);
            }
            0x10 => expires = number,
            _ => return None,
        }
    }
    Some((address?, expires))
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits")]
fn varint(mut number: u64, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_token_is_envoys_message() {
        let address = Address::Ip("1.2.3.4:80".parse().unwrap());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let check = |token: &str, wanted: Option<&Address>| {
            assert_eq!(Token::read(token.as_bytes(), now).as_ref(), wanted, "{token}");
        };
        // protoc --encode: address: "1.2.3.4:80"
        assert_eq!(Token::write(&address, None), "CgoxLjIuMy40Ojgw");
        check("CgoxLjIuMy40Ojgw", Some(&address));
        check(&Token::write(&address, Some(1_800_000_000)), Some(&address));
        check(&Token::write(&address, Some(1_799_999_999)), None);
        // Seconds since Envoy's machine started.
        check(&Token::write(&address, Some(1005)), Some(&address));
        check(&Token::write_plain(&address), Some(&address));
        for broken in ["", "!", "Cv8=", "CgU=", "CoCAgICAgICAgICAgA==", "/w==", "EAE="] {
            check(broken, None);
        }
        assert_eq!(Token::read_plain(Token::write_plain(&address).as_bytes()), Some(address));
    }
}
