//! The command as scripts see it: what is on standard output, and the exit status.

use std::process::{Command, Output};

fn quorate_sim(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(words.split_whitespace())
        .output()
        .expect("quorate-sim was built with this test")
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document and nothing else")
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_was_meant() {
    let cases = [
        ("run --seed seven", "invalid digit"),
        ("run --seed 7 --scenario leader-restor", "did you mean leader-restore?"),
        ("run --seed 7 --nodes 0", "0 is not in"),
        ("sweep --count 10 --for 10m", "cannot be used with"),
    ];
    for (words, expected) in cases {
        let output = quorate_sim(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(output.stdout.is_empty() && said.contains(expected), "{words}: {said}");
    }
}

#[test]
fn a_broken_promise_ends_with_1_and_its_replay_command_repeats_it() {
    let swept =
        quorate_sim("sweep --count 24 --jobs 1 --stop-at-first --json --scenario leader-restore-default");
    assert_eq!(swept.status.code(), Some(1));
    let swept = document(&swept);
    let violation = &swept["violations"][0];
    assert!(violation["oracle"].as_str().is_some_and(|oracle| oracle.starts_with("O-")), "{violation}");
    let replay = violation["replay"].as_str().expect("a command");
    let words =
        replay.strip_prefix("make sim ARGS=\"").and_then(|words| words.strip_suffix('"')).expect(replay);
    assert_eq!(words, format!("run --seed {} --scenario leader-restore-default", violation["seed"]));

    let alone = quorate_sim(&format!("{words} --json"));
    assert_eq!(alone.status.code(), Some(1));
    assert_eq!(document(&alone)["violations"][0], swept["violations"][0]);

    let told = quorate_sim(words);
    assert_eq!(told.status.code(), Some(1));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for part in ["BROKEN O-", "nemesis: ", "; repeat it with: make sim ARGS="] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
