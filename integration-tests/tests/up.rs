//! `weir up` as a new user runs it: three programs, one file, pushes under load, wrong files, and no orphans.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(60);

/// Where this build's programs are; built now, which does nothing when they are fresh.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    // All of the workspace, and examples with it, which need what tests need: so dependencies have the features that the
    // tests have built them with, and nothing is built twice.
    cargo.args(["build", "--offline", "--workspace", "--bins", "--examples"]);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    folder
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|l| l.local_addr().unwrap().port())
}

fn configuration(ports: [u16; 3], blue: u32, green: u32) -> String {
    let [web, b, g] = ports;
    format!(
        "listeners:\n  web: \"127.0.0.1:{web}\"\nroutes:\n  - to: {{ blue: {blue}, green: {green} }}\n\
         clusters:\n  blue: [\"127.0.0.1:{b}\"]\n  green: [\"127.0.0.1:{g}\"]\n"
    )
}

struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Up {
    fn start(arguments: &[&str]) -> Up {
        let mut command = Command::new(programs().join("weir"));
        command.arg("up").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let other = send.clone();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).for_each(|l| drop(send.send(l))));
        std::thread::spawn(move || BufReader::new(err).lines().map_while(Result::ok).for_each(|l| drop(other.send(l))));
        Up { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with these words.
    fn says(&mut self, words: &str) {
        let end = Instant::now() + BOUND;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("never said `{words}`:\n{}", self.seen.join("\n")));
            self.seen.push(line);
            if self.seen.last().unwrap().contains(words) {
                return;
            }
        }
    }

    fn children(&self) -> Vec<u32> {
        let id = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + BOUND;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until none of these processes runs.
fn all_end(processes: &[u32]) {
    let end = Instant::now() + BOUND;
    let runs = |p: &&u32| {
        let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        // A zombie whose new parent has not looked yet has ended.
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    };
    while processes.iter().any(|p| runs(&p)) {
        assert!(Instant::now() < end, "orphans: {processes:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_demo_balances_and_swaps_without_a_failed_request() {
    let folder = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let file = folder.path().join("weir.yaml");
    std::fs::write(&file, configuration(ports, 90, 10)).unwrap();
    std::fs::write(folder.path().join("next.yaml"), configuration(ports, 0, 100)).unwrap();
    let mut up = Up::start(&["--demo", "--once", file.to_str().unwrap()]);
    up.says("requests to http://");
    up.says("blue");
    up.says("requests during the push, 0 failed");
    up.says("requests during the push, 0 failed");
    up.says("no request failed");
    assert_eq!(up.exit_code(), Some(0), "{}", up.seen.join("\n"));
}

#[test]
fn a_changed_file_is_applied_a_wrong_one_is_told_about_and_all_stops() {
    let folder = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let file = folder.path().join("weir.yaml");
    std::fs::write(&file, configuration(ports, 1, 1)).unwrap();
    let mut up = Up::start(&["--proxies", "2", file.to_str().unwrap()]);
    up.says("following");
    let children = up.children();
    assert_eq!(children.len(), 3, "one control plane and two proxies");
    std::fs::write(&file, configuration(ports, 1, 1).replace("green: 1", "gren: 1")).unwrap();
    up.says("did you mean `green`?");
    up.says("the last good configuration keeps serving");
    std::fs::write(&file, configuration(ports, 0, 1)).unwrap();
    up.says("revision 2");
    let status = Command::new("kill").arg("-TERM").arg(up.child.id().to_string()).status().unwrap();
    assert!(status.success());
    assert_eq!(up.exit_code(), Some(0), "{}", up.seen.join("\n"));
    all_end(&children);
}

#[test]
fn children_end_when_up_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.yaml");
    std::fs::write(&file, configuration(free_ports(), 1, 1)).unwrap();
    let mut up = Up::start(&[file.to_str().unwrap()]);
    up.says("following");
    let children = up.children();
    assert_eq!(children.len(), 2);
    up.child.kill().unwrap();
    up.child.wait().unwrap();
    all_end(&children);
}

#[test]
fn a_port_in_use_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.yaml");
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let [_, b, g] = free_ports();
    std::fs::write(&file, configuration([held.local_addr().unwrap().port(), b, g], 1, 1)).unwrap();
    let mut up = Up::start(&[file.to_str().unwrap()]);
    up.says("cannot listen on 127.0.0.1:");
    up.says("another program listens there");
    assert_eq!(up.exit_code(), Some(1));
}
