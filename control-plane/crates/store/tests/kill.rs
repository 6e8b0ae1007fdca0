//! A process that commits is killed at any moment; every revision it had acknowledged is there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use cp_store::{Embedded, NewRevision, Store};

const PATH: &str = "WEIR_TEST_STORE";

/// Content that a torn write could not have.
fn content(id: u64) -> Vec<u8> {
    let length = 100 + (id as usize * 7919) % 60_000;
    (0..length).map(|i| (i as u64).wrapping_mul(id) as u8).collect()
}

#[tokio::test]
async fn the_child_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let store = Embedded::open(Path::new(&path)).expect("opens");
    loop {
        let base = *store.watch().borrow();
        let new = NewRevision { content: content(base + 1), ..NewRevision::default() };
        let revision = store.commit(base, new).await.expect("commits");
        use std::io::Write;
        writeln!(std::io::stdout().lock(), "ack {}", revision.header.id).expect("the parent reads");
    }
}

#[tokio::test]
async fn no_acknowledged_revision_is_lost_to_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weir.redb");
    let mut acknowledged = 0;
    for round in 0..10u32 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "the_child_commits_until_it_is_killed", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut acks = 0;
        let mut kill_after = 1 + (round * 7) % 23;
        while let Some(Ok(line)) = lines.next() {
            // The test harness puts its own words before the first line.
            if let Some((_, id)) = line.rsplit_once("ack ") {
                acknowledged = id.parse().expect("a number");
                acks += 1;
            }
            if acks == kill_after {
                child.kill().expect("SIGKILL");
                kill_after = u32::MAX;
            }
        }
        child.wait().expect("ends");
        assert!(acks > 0, "round {round} committed nothing");
        let store = Embedded::open(&path).expect("opens after the kill");
        let newest = *store.watch().borrow();
        assert!(newest >= acknowledged, "round {round}: {acknowledged} was acknowledged, {newest} is the newest");
        for id in 1..=newest {
            let revision = store.get(id).await.expect("reads").expect("no gaps");
            assert_eq!(revision.content, content(id), "revision {id} is whole");
        }
    }
    assert!(acknowledged > 20);
}
