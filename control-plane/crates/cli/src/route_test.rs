//! `weir route test`: which route a request takes, asked of the control plane or, with `-f`, of files.

use std::path::PathBuf;

use cp_explain::{Configuration, Request};
use proto::weir::management::v1 as pb;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Flags, RouteCommand, RouteTest};
use crate::offline;
use crate::out::{Out, Paint, message};

pub(crate) async fn run(command: &RouteCommand, flags: &Flags, out: &Out) -> Result<u8, Failure> {
    let RouteCommand::Test(given) = command;
    // What cannot be a request is wrong use, whoever would answer.
    let request = Request::parse(&given.request, &given.headers).map_err(Failure::Usage)?;
    let found = match given.files.is_empty() {
        false => of_files(&given.files, given, &request, out)?,
        true => of_server(given, flags).await?,
    };
    if !out.machine(&message(&found)?) {
        show(&found, &request, out);
    }
    Ok(u8::from(found.route.is_empty()))
}

fn of_files(
    paths: &[PathBuf],
    given: &RouteTest,
    request: &Request,
    out: &Out,
) -> Result<pb::RouteTestResponse, Failure> {
    let (files, compiled) = offline::compiled(paths)?;
    out.warnings(&compiled.checked.warnings);
    let mut problems = cp_model::Problems::default();
    let draft = cp_model::Draft::read(&files.sources, &[], files.attachments, &mut problems);
    let proxies = compiled.resources.iter().filter(|r| r.audience != cp_translate::Audience::Grpc).map(|r| &r.any);
    let failure = |e: cp_explain::Unexplained| match e.is_of_question() {
        true => Failure::usage(e.to_string()),
        false => Failure::refused(e.to_string()),
    };
    let configuration = Configuration::new(proxies, &draft).map_err(failure)?;
    Ok(configuration.explain(request, given.listener.as_deref()).map_err(failure)?.into())
}

async fn of_server(given: &RouteTest, flags: &Flags) -> Result<pb::RouteTestResponse, Failure> {
    let mut client = Client::connect(&flags.global).await?;
    let request = pb::RouteTestRequest {
        request: given.request.clone(),
        headers: given.headers.clone(),
        listener: given.listener.clone().unwrap_or_default(),
    };
    let answer = client.fleet.route_test(client.request(request)).await;
    Ok(answer.map_err(|s| client.failure(&s))?.into_inner())
}

fn show(found: &pb::RouteTestResponse, request: &Request, out: &Out) {
    let line =
        |name: &str, text: &str| out.data(&format!("{} {text}", out.paint(&format!("{name:<13}"), Paint::Strong)));
    line("Listener", &found.listener);
    match found.virtual_host.as_str() {
        "" => line("Virtual host", &format!("none has a domain that fits {}: answered 404", request.host)),
        host => line("Virtual host", &format!("{host} (domain {} fits {})", found.domain, request.host)),
    }
    found.passed_over.iter().for_each(|p| line("Passed over", &format!("{}: {}", p.route, p.why)));
    if !found.route.is_empty() {
        line("Route", &out.paint(&found.route, Paint::Good));
        found.because.iter().for_each(|because| line("Because", because));
        line("Action", &found.action);
        let policies = &found.policies;
        line("Policies", &if policies.is_empty() { "none".to_owned() } else { policies.join(", ") });
    } else if !found.virtual_host.is_empty() {
        line("Route", "none matches: answered 404");
    }
    found.notes.iter().for_each(|note| line("Note", note));
}
