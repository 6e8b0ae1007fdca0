//! The program as people and scripts run it, without a control plane: exit codes, what goes to stdout, what to stderr.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOOD: &str = "listeners:\n  web: \":8080\"\nroutes:\n  - to: app\nclusters:\n  app: [\"127.0.0.1:9000\"]\n";
const BAD: &str =
    "listeners:\n  web: \":8080\"\nroutes:\n  - to: ap\n  - tu: app\nclusters:\n  app: [\"127.0.0.1:9000\"]\n";

fn weir(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    // Whatever the environment of the test says is not meant for it.
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("WEIR_")) {
            command.env_remove(key);
        }
    }
    command.args(arguments).output().unwrap()
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Exit code, and words that stdout and stderr must hold.
fn check(arguments: &[&str], code: i32, stdout: &[&str], stderr: &[&str]) -> (String, String) {
    let output = weir(arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    for word in stdout {
        assert!(out.contains(word), "{arguments:?}: no `{word}` in stdout:\n{out}\n{err}");
    }
    for word in stderr {
        assert!(err.contains(word), "{arguments:?}: no `{word}` in stderr:\n{err}\n{out}");
    }
    (out, err)
}

#[test]
fn a_right_file_is_ok_and_stdout_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(folder.path(), "good.yaml", GOOD);
    let (out, _) = check(&["check", &good], 0, &[], &["OK: 1 listener, 1 route, 1 cluster"]);
    assert_eq!(out, "");
    let (_, err) = check(&["-q", "check", &good], 0, &[], &[]);
    assert_eq!(err, "");
}

#[test]
fn every_problem_of_a_wrong_file_is_told_with_place_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    let bad = file(folder.path(), "bad.yaml", BAD);
    let first = format!("{bad}:4:9: routes[0].to: cluster `ap` is not defined");
    check(&["check", &bad], 1, &[], &[&first, "hint: did you mean `app`?", "bad.yaml:5:5", "W0101", "W0002"]);
    let (out, _) = check(&["check", &bad, "-o", "json"], 1, &["\"code\": \"W0101\"", "\"line\": 4"], &[]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value["errors"].as_array().unwrap().len() >= 2, "{value}");
}

#[test]
fn warnings_are_errors_only_when_strict() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{GOOD}  unused: [\"127.0.0.1:9001\"]\n");
    let odd = file(folder.path(), "odd.yaml", &text);
    check(&["check", &odd], 0, &[], &["warning: ", "W0301"]);
    check(&["check", "--strict", &odd], 1, &[], &["1 warning"]);
}

#[test]
fn wrong_use_is_exit_code_2() {
    check(&["check"], 2, &[], &["required"]);
    check(&["no-such-command"], 2, &[], &["no-such-command"]);
    check(&["get", "clutsers"], 2, &[], &["did you mean `clusters`?"]);
    check(&["explain", "W9999"], 2, &[], &["W0101"]);
    check(&["route", "test", "/path"], 2, &[], &["is not a URL"]);
    check(&["proxy-config", "n", "bootstrap"], 2, &[], &["--admin"]);
    check(&["up", "-"], 2, &[], &["stdin"]);
}

#[test]
fn a_missing_file_is_named() {
    check(&["check", "/no/such/file.yaml"], 1, &[], &["/no/such/file.yaml"]);
    check(&["up", "/no/such/file.yaml"], 1, &[], &["/no/such/file.yaml"]);
}

#[test]
fn a_control_plane_that_does_not_answer_is_exit_code_3() {
    // A port that was free a moment ago, and that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    check(&["--server", &server, "status"], 3, &[], &[&server, "does not answer", "--server"]);
    check(&["--server", &server, "get", "clusters"], 3, &[], &["does not answer"]);
    check(&["--server", &server, "diff", "-f", "-"], 3, &[], &["does not answer"]);
}

#[test]
fn the_comparison_of_a_missing_file_is_never_taken_for_a_difference() {
    check(&["diff", "-f", "/no/such/file.yaml"], 2, &[], &["/no/such/file.yaml"]);
}

#[test]
fn adapt_prints_resources_that_are_envoys() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(folder.path(), "good.yaml", GOOD);
    check(&["adapt", &good], 0, &["resources:", "envoy.config.listener.v3.Listener"], &[]);
    let (out, _) = check(&["adapt", "--to", "json", &good], 0, &[], &[]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let types: Vec<&str> = value["resources"].as_array().unwrap().iter().filter_map(|r| r["@type"].as_str()).collect();
    assert_eq!(types.len(), 4, "{types:?}");
}

#[test]
fn fmt_writes_only_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let text = "clusters:\n    app: [\"127.0.0.1:9000\"]   # why\n";
    let wide = file(folder.path(), "wide.yaml", text);
    check(&["fmt", "--check", &wide], 1, &["-    app", "+  app"], &[]);
    check(&["fmt", &wide], 0, &["\n  app: [\"127.0.0.1:9000\"]   # why\n"], &[]);
    assert_eq!(std::fs::read_to_string(&wide).unwrap(), text);
    check(&["fmt", "--write", &wide], 0, &[], &["laid out"]);
    check(&["fmt", "--check", &wide], 0, &[], &[]);
}

#[test]
fn a_route_is_found_and_explained_offline() {
    let folder = tempfile::tempdir().unwrap();
    let text = GOOD.replace("  - to: app", "  - { name: api, match: /api, to: app }");
    let routes = file(folder.path(), "routes.yaml", &text);
    check(
        &["route", "test", "GET http://h:8080/api/1", "-f", &routes],
        0,
        &["api", "path is /api or below", "to cluster app"],
        &[],
    );
    check(&["route", "test", "http://h/other", "-f", &routes], 1, &["path is not /api or below", "404"], &[]);
}

#[test]
fn up_starts_nothing_for_a_wrong_file_or_a_port_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let bad = file(folder.path(), "bad.yaml", BAD);
    check(&["up", &bad], 1, &[], &["cluster `ap` is not defined"]);
}

#[test]
fn a_child_cannot_be_had_without_up() {
    check(&["child", "--parent", "1", "/bin/true"], 1, &[], &["started by `weir up` only"]);
}

#[test]
fn the_shipped_examples_are_right_and_laid_out() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/examples");
    let mut seen = 0;
    for folder in std::fs::read_dir(&examples).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_none_or(|e| e != "yaml") || !text.contains("\nclusters:") {
                continue;
            }
            let path = path.display().to_string();
            check(&["check", "--strict", &path], 0, &[], &["OK"]);
            check(&["fmt", "--check", &path], 0, &[], &[]);
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} examples");
}

#[test]
fn version_and_completion_are_data() {
    check(&["version"], 0, &["weir 0."], &[]);
    check(&["version", "-o", "json"], 0, &["\"version\""], &[]);
    check(&["completion", "bash"], 0, &["_weir"], &[]);
}
