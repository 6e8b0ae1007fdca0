//! A TLS ClientHello, read without taking part in the handshake: server name and application protocols.
//!
//! Bounded and total: any bytes give an answer. Extensions it does not know, GREASE among them, are passed over.

/// What a ClientHello asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// In lower case; `None` when there is none or it is not a plausible host name.
    pub server_name: Option<String>,
    /// Protocols that are text, in the client's order.
    pub alpn: Vec<String>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    Hello(ClientHello),
    /// More bytes are needed: at least this many in all.
    Incomplete(usize),
    /// Not TLS, or broken.
    NotTls,
}

/// The most bytes looked at.
pub const LIMIT: usize = 64 << 10;

/// The most records one ClientHello may be spread over: a client needs one or two.
const MAX_RECORDS: usize = 32;

/// Parses the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    for _ in 0..MAX_RECORDS {
        let [kind, major, _minor, high, low, body @ ..] = rest else {
            // The type and version are refused as soon as they are there.
            let plausible = rest.first().is_none_or(|kind| *kind == 22) && rest.get(1).is_none_or(|major| *major == 3);
            return if plausible { Parsed::Incomplete(bytes.len() - rest.len() + 5) } else { Parsed::NotTls };
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != 22 || *major != 3 || length == 0 || length > (16 << 10) + 2048 {
            return Parsed::NotTls;
        }
        if body.first().is_some_and(|kind| message.is_empty() && *kind != 1) {
            return Parsed::NotTls;
        }
        let Some(fragment) = body.get(..length) else {
            return Parsed::Incomplete(bytes.len() - body.len() + length);
        };
        message.extend_from_slice(fragment);
        rest = &body[length..];
        if let [_, a, b, c, hello @ ..] = &message[..] {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > LIMIT {
                return Parsed::NotTls;
            }
            if let Some(hello) = hello.get(..length) {
                return read_hello(hello).map_or(Parsed::NotTls, Parsed::Hello);
            }
        }
    }
    Parsed::NotTls
}

fn read_hello(bytes: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(bytes);
    reader.take(2 + 32)?;
    reader.vector8()?;
    let suites = reader.vector16()?;
    let compressions = reader.vector8()?;
    if suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector16()?;
        match kind {
            0 => hello.server_name = read_server_name(body)?,
            16 => hello.alpn = read_alpn(body)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The first host name; the outer `None` says that the extension is broken.
fn read_server_name(body: &[u8]) -> Option<Option<String>> {
    let mut list = Reader(Reader(body).vector16()?);
    while !list.0.is_empty() {
        let kind = list.take(1)?[0];
        let name = list.vector16()?;
        if kind == 0 {
            let plausible = !name.is_empty() && name.len() <= 255 && name.iter().all(|b| b.is_ascii_graphic());
            let text = std::str::from_utf8(name).ok().filter(|_| plausible);
            return Some(text.map(|name| name.trim_end_matches('.').to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn read_alpn(body: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(body).vector16()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
            found.extend(std::str::from_utf8(name).ok().map(str::to_owned));
        }
    }
    Some(found)
}

/// Takes bytes from the front; `None` when there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests;
