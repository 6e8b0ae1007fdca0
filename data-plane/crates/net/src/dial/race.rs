//! Connecting to whichever of several addresses of one endpoint answers first ("happy eyeballs", RFC 8305).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use dp_http::info::Address;
use tokio::time::sleep;

use super::{DialOptions, dial};
use crate::stream::Stream;

/// How long an attempt may take before the next one begins beside it; Envoy's value.
const HEAD_START: Duration = Duration::from_millis(300);

type Attempt<'a> = (usize, Pin<Box<dyn Future<Output = io::Result<Stream>> + 'a>>);

/// Connects to one of `addresses`, tried in their order: the next one begins when one failed, and at the latest
/// [`HEAD_START`] after the one before. Says which one it is. The error is that of the last attempt.
pub async fn dial_first(addresses: &[Address], options: &DialOptions) -> io::Result<(Stream, usize)> {
    let mut left = addresses.iter().enumerate();
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match left.next() {
            Some((index, address)) => attempts.push((index, Box::pin(dial(address, options)))),
            None if attempts.is_empty() => return Err(error),
            None => {}
        }
        let mut head_start = pin!(sleep(HEAD_START));
        let is_last = left.len() == 0;
        let won = poll_fn(|cx| {
            let mut index = 0;
            let mut failed = false;
            while let Some((number, attempt)) = attempts.get_mut(index) {
                match attempt.as_mut().poll(cx) {
                    Poll::Pending => index += 1,
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Some((stream, *number))),
                    Poll::Ready(Err(reason)) => {
                        error = reason;
                        failed = true;
                        drop(attempts.swap_remove(index));
                    }
                }
            }
            if failed || (!is_last && head_start.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        if let Some(won) = won {
            return Ok(won);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    async fn listening() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        (listener, address)
    }

    async fn refusing() -> Address {
        listening().await.1
    }

    /// A listener whose queue is full: connecting to it takes for ever.
    async fn silent() -> (Vec<Stream>, std::net::TcpListener, Address) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = Address::Ip(listener.local_addr().unwrap());
        let mut held = Vec::new();
        let options = DialOptions::default();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), dial(&address, &options)).await {
            held.push(stream);
        }
        (held, listener, address)
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let (_listener, good) = listening().await;
        let begun = Instant::now();
        let (_, index) = dial_first(&[refusing().await, good], &DialOptions::default()).await.unwrap();
        assert_eq!(index, 1);
        assert!(begun.elapsed() < HEAD_START, "nothing was waited for");
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_overtaken() {
        let ((_listener, good), (_held, _full, silent)) = (listening().await, silent().await);
        let begun = Instant::now();
        let (_, index) = dial_first(&[silent, good], &DialOptions::default()).await.unwrap();
        assert_eq!(index, 1);
        assert!(begun.elapsed() >= HEAD_START, "the first one has its head start");
    }

    #[tokio::test]
    async fn when_all_fail_there_is_an_error() {
        let all = [refusing().await, refusing().await];
        let error = dial_first(&all, &DialOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
