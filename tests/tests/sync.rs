//! Nothing is acknowledged before it is synced: real nodes, whose syncs are slowed down or made to fail by strace.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate_tests::cluster::{is_alive, signal};
use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::{Cluster, wait};

/// How long a slowed sync takes, in microseconds and in milliseconds.
const DELAY_US: u64 = 50_000;
const DELAY_MS: f64 = 50.0;

/// An strace that has hold of a process; it lets go when dropped, and the process goes on.
struct Strace(Child);

impl Strace {
    /// Injects a fault into each sync of a process, from now on. `None`, and a word on standard error: it is not let
    /// near processes here, or is missing on somebody's own machine.
    ///
    /// # Panics
    /// If it is missing in continuous integration.
    fn attach(pid: u32, fault: &str) -> Option<Self> {
        let started = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-e", "trace=fsync,fdatasync", "-e", "status=none"])
            .args(["-e", &format!("inject=fsync,fdatasync:{fault}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut strace = match started {
            Ok(strace) => strace,
            Err(error) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "strace is missing here, where this test must run: {error}"
                );
                eprintln!("SKIPPED: strace cannot be started ({error}); apt-get install strace");
                return None;
            }
        };
        let mut said = String::new();
        let mut lines = BufReader::new(strace.stderr.take().expect("its standard error is a pipe"));
        // It says "attached" once it has every thread, or why not.
        let attached = wait::until("strace to attach", || {
            said.clear();
            lines.read_line(&mut said).ok()?;
            let attached = said.contains("attached");
            (attached || said.is_empty() || said.contains("ptrace(")).then_some(attached)
        });
        // Whatever else it says must not block it.
        std::thread::spawn(move || drop(std::io::copy(&mut lines, &mut std::io::sink())));
        if !attached {
            eprintln!("SKIPPED: strace may not attach to processes here: {}", said.trim());
        }
        attached.then_some(Self(strace))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // A kill would take the process along; an interruption makes it let go.
        if is_alive(self.0.id()) {
            signal(self.0.id(), "INT");
        }
        drop(self.0.wait());
    }
}

/// Acknowledgement times of single records, in ms: the fastest and the median.
fn ack_ms(cluster: &Cluster) -> (f64, f64) {
    let args =
        ["bench", "produce", "--topic", "t", "--rate", "20", "--seconds", "2", "--linger-ms", "0", "--json"];
    let report = cluster.run(args).done().json();
    assert!(report["records"].as_u64().is_some_and(|records| records > 10), "{report}");
    let time = |key: &str| report["ack_ms"][key].as_f64().expect("a time is a number");
    (time("min"), time("p50"))
}

#[test]
fn no_acknowledgement_comes_before_a_majority_has_synced() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    drop(cluster.run_with(["produce", "t"], "first\n").done());
    let slow = format!("delay_exit={DELAY_US}");
    let leader = cluster.leader("t", 0);
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();

    // Nothing is shown where there is no strace; it has said so.
    let Some(one) = Strace::attach(cluster.node(follower).pid(), &slow) else { return };
    // One slow disk of three holds nothing up.
    let (_, median) = ack_ms(&cluster);
    assert!(median < DELAY_MS, "with one slow node an acknowledgement takes {median} ms");
    drop(one);

    let slowed: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|id| Strace::attach(cluster.node(id).pid(), &slow).expect("strace attached before"))
        .collect();
    let (fastest, median) = ack_ms(&cluster);
    assert!(
        fastest >= DELAY_MS,
        "acknowledged after {fastest} ms (median {median}), before any sync had ended"
    );
    drop(slowed);

    // Two disks fail: nothing more is acknowledged, and both nodes stop with a status of their own.
    cluster.create("numbers", 1, 3);
    let plan =
        Plan { topic: "numbers".to_owned(), partitions: 1, rate: 100, timeout: Duration::from_secs(8) };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgements", || (numbered.acked() > 20).then_some(()));
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != follower).collect();
    let failing: Vec<_> = others
        .iter()
        .map(|id| Strace::attach(cluster.node(*id).pid(), "error=EIO").expect("strace attached before"))
        .collect();
    for id in &others {
        assert_eq!(cluster.wait_end(*id).code(), Some(3), "node {id}");
    }
    drop(failing);
    let acked = numbered.acked();
    let sent = numbered.stop();
    assert_eq!(sent.acked, acked, "acknowledged after two disks had failed");
    assert!(sent.first_error.is_some());

    // Everything acknowledged is there when they come back.
    for id in others {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    let verdict = sent.judge(&cluster.read_all("numbers"));
    assert!(verdict.is_good(), "{verdict}");
}
