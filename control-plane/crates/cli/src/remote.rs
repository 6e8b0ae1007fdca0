//! Commands that ask the control plane. One file a command; here only which is which.

pub(crate) mod apply;
pub(crate) mod converge;
mod describe;
mod endpoint;
pub(crate) mod get;
mod history;
pub(crate) mod kind;
mod proxy_config;
pub(crate) mod status;
pub(crate) mod time;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Command, Flags};
use crate::out::Out;

pub(crate) async fn run(command: &Command, flags: &Flags, out: &Out) -> Result<u8, Failure> {
    let global = &flags.global;
    match command {
        Command::Apply(given) => apply::apply(given, global, out).await,
        Command::Diff(given) => {
            apply::diff(given, global, out).await.map_err(|failure| Failure::NoDiff(Box::new(failure)))
        }
        Command::Delete(given) => apply::delete(given, global, out).await,
        Command::Get(given) => get::get(given, global, out).await,
        Command::Describe { kind, name } => describe::describe(kind, name, global, out).await,
        Command::Endpoint { command } => endpoint::change(command, &mut Client::connect(global).await?, out).await,
        Command::History { limit } => history::history(*limit, &mut Client::connect(global).await?, out).await,
        Command::Rollback { revision, message, dry_run } => {
            history::rollback(*revision, message, *dry_run, &mut Client::connect(global).await?, out).await
        }
        Command::Status { group } => status::status(group, &mut Client::connect(global).await?, out).await,
        Command::ProxyConfig(given) => proxy_config::proxy_config(given, global, out).await,
        other => unreachable!("`run` of the library sends only remote commands here, not {other:?}"),
    }
}
