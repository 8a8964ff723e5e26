//! Each kind of fault takes hold, and breaks no promise by itself.

use super::*;
use crate::cluster::Knobs;
use crate::run::{Options, on_stage};

/// Lets one kind alone strike for a while, and gives what took hold; everything else of a run must hold.
fn faults_of(kind: Kind, seed: u64, options: Options) -> BTreeMap<&'static str, u64> {
    let report = on_stage(seed, options, async |stage| {
        stage.workload.begin();
        let plan = Plan { pause_max: Duration::from_millis(600), ..Plan::of(&[kind]) };
        let mut nemesis = Nemesis::new(plan, Dice::named(seed, "nemesis"));
        nemesis.rage(&mut stage.cluster, clock::now() + Duration::from_secs(6)).await;
    });
    assert!(report.violations.is_empty(), "{kind:?}, seed {seed}: {:?}", report.violations);
    report.faults
}

#[test]
fn each_kind_takes_hold_and_ends() {
    let expected = [
        (Kind::CutLink, "cut link"),
        (Kind::Clog, "clog"),
        (Kind::Reset, "reset"),
        (Kind::LoseReply, "reply lost"),
        (Kind::LoseClientReply, "reply lost"),
        (Kind::HalfOpen, "half-open connection"),
        (Kind::Step, "clock step"),
        (Kind::Leap, "clock leap"),
        (Kind::Freeze, "clock freeze"),
        (Kind::Pause, "pause"),
        (Kind::Slow, "slow node"),
        (Kind::Stop, "stop"),
        (Kind::Stranger, "wrong disk"),
        (Kind::Kill, "kill"),
        (Kind::PowerCut, "power cut"),
        (Kind::CrashLoop, "power cut at an operation"),
        (Kind::All, "all at once"),
        (Kind::SlowDisk, "slow disk"),
        (Kind::Stall, "stalled disk"),
        (Kind::FailSync, "failed sync"),
        (Kind::DiskFull, "full disk"),
        (Kind::Enospc, "no space"),
        (Kind::CutClient, "cut client"),
        (Kind::PauseClient, "pause of a client"),
        (Kind::LoseMeta, "meta.redb lost"),
        (Kind::LoseTail, "newest volume lost"),
        (Kind::Transfer, "leader transfer"),
        (Kind::Rolling, "rolling restart"),
    ];
    for (seed, (kind, fault)) in (0..).zip(expected) {
        // What is drawn may find nothing to take hold of: a disk without room, and nobody who writes to it.
        let mut seeds = (0..5).map(|again| seed + 100 * again);
        let took = seeds.any(|seed| faults_of(kind, seed, Options::default()).contains_key(fault));
        assert!(took, "{kind:?} in none of five runs");
    }
}

/// In the time of such a run larger volumes are not filled.
#[test]
fn sealed_volumes_rot_and_go_missing() {
    fn small_volumes(knobs: &mut Knobs) {
        knobs.volume_bytes_max = 4_096;
    }
    let options = Options { adjust: Some(small_volumes), ..Options::default() };
    for (kind, fault) in [(Kind::Rot, "rotten sectors"), (Kind::LoseVolume, "volume lost")] {
        let took = (0..5).any(|seed| faults_of(kind, seed, options).contains_key(fault));
        assert!(took, "{kind:?} in none of five runs");
    }
}
