//! ClientHellos whole, in pieces and broken.

use proptest::prelude::*;

use super::*;

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(body)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    extension(0, &vector16(&[&[0][..], &vector16(name.as_bytes())].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect();
    extension(16, &vector16(&list))
}

/// The handshake message, without record headers.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(vector16(&[0x0A, 0x0A, 0x13, 0x01]));
    hello.extend([1, 0]);
    hello.extend(vector16(&extensions.concat()));
    let length = (hello.len() as u32).to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], &hello].concat()
}

/// The message in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

fn grease() -> Vec<Vec<u8>> {
    vec![
        extension(0x1A1A, b""),
        server_name("WWW.Example.com."),
        alpn(&[b"\x0A\x0A\xFF", b"h2", b"http/1.1"]),
        extension(0xFAFA, b"\0"),
    ]
}

fn expected() -> Parsed {
    let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
    Parsed::Hello(ClientHello { server_name: Some("www.example.com".into()), alpn })
}

#[test]
fn name_and_protocols_are_read_past_grease_in_one_record_or_many() {
    let message = message(&grease());
    for size in [16_000, 50, 10, 6] {
        assert_eq!(parse(&records(&message, size)), expected(), "records of {size}");
    }
    assert_eq!(parse(&[records(&message, 100), b"more".to_vec()].concat()), expected());
}

#[test]
fn every_prefix_asks_for_more_and_never_for_less_than_it_has() {
    let bytes = records(&message(&grease()), 40);
    for n in 0..bytes.len() {
        match parse(&bytes[..n]) {
            Parsed::Incomplete(wanted) => assert!(wanted > n && wanted <= bytes.len(), "{n}: {wanted}"),
            other => panic!("{n}: {other:?}"),
        }
    }
}

#[test]
fn a_hello_without_extensions_is_a_hello() {
    let mut bytes = message(&[]);
    bytes.truncate(bytes.len() - 2);
    bytes[3] -= 2;
    assert_eq!(parse(&records(&bytes, 500)), Parsed::Hello(ClientHello::default()));
}

#[test]
fn what_is_not_a_client_hello_is_refused_at_once() {
    for bytes in [
        &b"GET / HTTP/1.1"[..],
        b"\x16\x02\x01",
        b"\x17",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xFF\xFF",
    ] {
        assert_eq!(parse(bytes), Parsed::NotTls, "{bytes:?}");
    }
    // A handshake message that claims 16 MiB.
    assert_eq!(parse(&records(&[1, 0xFF, 0xFF, 0xFF, 0], 100)), Parsed::NotTls);
    // More records than any client needs.
    assert_eq!(parse(&records(&message(&grease()), 1)), Parsed::NotTls);
}

#[test]
fn an_implausible_name_is_no_name() {
    let parsed = parse(&records(&message(&[server_name("a b\n")]), 500));
    assert_eq!(parsed, Parsed::Hello(ClientHello::default()));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes);
        parse(&[&[22, 3, 1, 0, 120, 1, 0, 0, 100][..], &bytes].concat());
    }

    #[test]
    fn no_damaged_hello_panics(at in 0usize..150, value in any::<u8>(), cut in 0usize..150) {
        let mut bytes = records(&message(&grease()), 60);
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        parse(&bytes);
    }
}
