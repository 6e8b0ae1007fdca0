//! A TCP check: a connection is enough, or bytes are sent and others are waited for.

use std::io;

use dp_http::Io;
use shared_config::health_check::TcpCheck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Subject;
use super::payload;
use super::status::{Failure, Outcome};
use crate::pool::connect::Wanted;
use crate::proxy_header::header;

/// An answer that is longer than this without a match is none.
const LONGEST: usize = 1 << 20;

/// One check; `kept` is the connection of the one before, if it may be used again.
pub(super) async fn check(subject: &Subject, config: &TcpCheck, kept: &mut Option<Io>) -> Outcome {
    let (mut io, header) = match kept.take() {
        Some(io) => (io, Vec::new()),
        None => match subject.connect(Wanted::Raw).await {
            Ok(made) => {
                let local = made.local.as_ref();
                let header = config.proxy_protocol.as_ref().map(|own| header(own, &subject.endpoint, None, local));
                (made.io, header.unwrap_or_default())
            }
            Err(failure) => return Outcome::Failed(failure),
        },
    };
    match exchange(&mut io, &header, config).await {
        Ok(()) => {
            // A connection over which nothing was asked proves nothing the second time.
            if subject.check.reuse_connection && !config.receive.is_empty() {
                *kept = Some(io);
            }
            Outcome::Passed { degraded: false }
        }
        Err(error) => {
            tracing::debug!(cluster = %subject.cluster.name(), %error, "a health check failed");
            Outcome::Failed(Failure::network())
        }
    }
}

async fn exchange(io: &mut Io, header: &[u8], config: &TcpCheck) -> io::Result<()> {
    if !header.is_empty() || !config.send.is_empty() {
        io.write_all(header).await?;
        io.write_all(&config.send).await?;
        io.flush().await?;
    }
    if config.receive.is_empty() {
        return Ok(());
    }
    let mut answer = Vec::new();
    while !payload::matches(&config.receive, &answer) {
        if io.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if answer.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}
