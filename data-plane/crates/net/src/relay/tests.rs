//! Relays over memory and loopback sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::buffer;

async fn write_then_end(stream: &mut DuplexStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn bytes_go_both_ways_and_a_half_close_is_passed_on() {
    let (mut client, mut near) = duplex(100);
    let (mut far, mut server) = duplex(7);
    let request = vec![b'q'; 100_000];
    let relayed = async { relay(&mut near, &mut far, None, |_, _| {}).await };
    let client = async {
        write_then_end(&mut client, &request).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let server = async {
        // The whole request, up to its end: only then the answer.
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        write_then_end(&mut server, b"answer").await;
        got.len()
    };
    let (relayed, answer, got) = tokio::join!(relayed, client, server);
    assert_eq!((answer.as_slice(), got), (&b"answer"[..], request.len()));
    assert_eq!((relayed.forward, relayed.backward), (100_000, 6));
    assert!(matches!(relayed.end, End::Closed));
}

#[tokio::test]
async fn the_hook_hears_of_every_byte() {
    let (mut client, mut near) = duplex(1000);
    let (mut far, mut server) = duplex(1000);
    write_then_end(&mut client, &[1; 300]).await;
    write_then_end(&mut server, &[2; 200]).await;
    let mut counts = [0, 0];
    relay(&mut near, &mut far, None, |direction, n| counts[usize::from(direction == Direction::Backward)] += n).await;
    assert_eq!(counts, [300, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_relay_in_which_nothing_moves_ends_after_the_idle_time() {
    let (mut client, mut near) = duplex(1000);
    let (mut far, _server) = duplex(1000);
    let start = Instant::now();
    let busy = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let idle = Some(Duration::from_secs(10));
    let relayed = tokio::select! {
        relayed = relay(&mut near, &mut far, idle, |_, _| {}) => relayed,
        () = busy => unreachable!("it waits for ever"),
    };
    assert!(matches!(relayed.end, End::Idle));
    assert_eq!((relayed.forward, start.elapsed().as_secs()), (3, 34));
}

#[tokio::test]
async fn a_waiting_relay_holds_no_buffer_and_a_slow_reader_stops_the_writer() {
    let (mut client, mut near) = duplex(1 << 20);
    let (mut far, mut server) = duplex(1000);
    client.write_all(&[0; 100_000]).await.unwrap();
    let watch = async {
        // Every turn of this loop lets the relay run as far as it can.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // Only one buffer's worth was taken from the client, and that buffer is held.
        assert_eq!(buffer::in_use(), 1);
        let mut got = vec![0; 100_000];
        server.read_exact(&mut got).await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(buffer::in_use(), 0);
    };
    tokio::select! {
        biased;
        _ = relay(&mut near, &mut far, None, |_, _| {}) => unreachable!("both sides are open"),
        () = watch => {}
    }
}

#[test]
fn buffers_grow_with_full_reads_and_shrink_after_several_small_ones() {
    let mut pump = Pump::new();
    let mut sizes = Vec::new();
    for read in [16 << 10, 64 << 10, 256 << 10, 1000, 1000, 1000, 1000, 20_000, 500, 500, 500, 500] {
        pump.adapt(read);
        sizes.push(pump.size);
    }
    assert_eq!(sizes, [1, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0]);
}

#[tokio::test]
async fn a_relay_says_which_side_broke() {
    let (mut client, mut near) = duplex(1000);
    let (mut far, server) = duplex(1000);
    drop(server);
    client.write_all(b"x").await.unwrap();
    let relayed = relay(&mut near, &mut far, None, |_, _| {}).await;
    assert!(matches!(relayed.end, End::Failed(Side::Second, _)));
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Numbers, so that a piece that is lost, doubled or out of its place shows.
fn numbers(from: u32) -> Vec<u8> {
    (from..from + (2 << 20)).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn bulk_between_sockets_goes_without_a_copy_and_comes_whole() {
    let (client, mut near) = sockets().await;
    let (far, server) = sockets().await;
    let talk = |stream: TcpStream, first: u32| async move {
        let (mut reader, mut writer) = stream.into_split();
        let write = async {
            writer.write_all(&numbers(first)).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut got));
        read.unwrap();
        got
    };
    let (mut resettable, _) = Resettable::new(crate::Stream::Tcp(far));
    let mut counts = [0, 0];
    let relayed = async {
        let relayed = relay(&mut near, &mut resettable, Some(Duration::from_secs(60)), |direction, n| {
            counts[usize::from(direction == Direction::Backward)] += n;
        })
        .await;
        // The direction that ended last ends with its socket.
        drop((near, resettable));
        relayed
    };
    let (relayed, back, there) = tokio::join!(relayed, talk(client, 1), talk(server, 2));
    assert!(matches!(relayed.end, End::Closed), "{relayed:?}");
    assert!(back == numbers(2) && there == numbers(1));
    assert_eq!((relayed.forward, relayed.backward, counts), (8 << 20, 8 << 20, [8 << 20, 8 << 20]));
    assert!((1..=2).contains(&splice::kept()), "pipes were used and given back: {}", splice::kept());
    assert_eq!(buffer::in_use(), 0);
}

#[tokio::test]
async fn a_socket_that_is_gone_in_the_middle_of_bulk_is_the_one_that_broke() {
    let (mut client, mut near) = sockets().await;
    let (mut far, mut server) = sockets().await;
    let write = async { while client.write_all(&[7; 1 << 20]).await.is_ok() {} };
    let read = async {
        let mut got = vec![0; 16 << 20];
        server.read_exact(&mut got).await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
    };
    let relayed = async {
        let relayed = relay(&mut near, &mut far, None, |_, _| {}).await;
        drop(near);
        relayed
    };
    let (relayed, (), ()) = tokio::join!(relayed, write, read);
    assert!(matches!(relayed.end, End::Failed(Side::Second, _)), "{relayed:?}");
}
