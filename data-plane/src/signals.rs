//! Signals as commands: TERM and INT end the process, HUP reads files again, USR1 opens logs again.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::control::Command;

/// Passes signals on for as long as somebody listens.
pub(crate) async fn follow(commands: mpsc::UnboundedSender<Command>) {
    let kinds = [
        (SignalKind::terminate(), Command::ShutDown),
        (SignalKind::interrupt(), Command::ShutDown),
        (SignalKind::hangup(), Command::Reload),
        (SignalKind::user_defined1(), Command::ReopenLogs),
    ];
    for (kind, command) in kinds {
        let commands = commands.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::task::spawn_local(async move {
                    while signals.recv().await.is_some() && commands.send(command).is_ok() {}
                });
            }
            Err(error) => tracing::error!(?kind, %error, "cannot listen for a signal"),
        }
    }
}
