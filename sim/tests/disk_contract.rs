//! What every `Disk` must do, run on the simulated one and on the real one.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::io::ErrorKind;

use quorate_node::env::os::OsDisk;
use quorate_node::env::{Disk, FileName};
use quorate_sim::env::disk::SimDisk;

fn name(name: &str) -> FileName {
    FileName::new(name)
}

fn names(disk: &dyn Disk) -> Vec<String> {
    disk.list().unwrap().iter().map(ToString::to_string).collect()
}

/// Everything that can be seen without a crash. `disk` is empty.
fn keeps_its_contract(disk: &dyn Disk) {
    assert!(names(disk).is_empty());
    assert!(!disk.describe().is_empty());

    // Opening: with `create` only what is new, without it only what is there.
    assert_eq!(disk.open(&name("a"), false).unwrap_err().kind(), ErrorKind::NotFound);
    let a = disk.open(&name("a"), true).unwrap();
    assert_eq!(disk.open(&name("a"), true).unwrap_err().kind(), ErrorKind::AlreadyExists);

    // Bytes: zero where nothing was written, read back where something was, refused beyond the end.
    assert_eq!(a.len().unwrap(), 0);
    a.set_len(10_000).unwrap();
    assert_eq!(a.len().unwrap(), 10_000);
    a.write(4_000, &[7; 1_000]).unwrap();
    let mut read = [1; 1_002];
    a.read(3_999, &mut read).unwrap();
    assert_eq!((read[0], &read[1..1_001], read[1_001]), (0, &[7; 1_000][..], 0));
    assert!(a.read(9_000, &mut [0; 1_001]).is_err(), "beyond the end");
    a.read(9_000, &mut [0; 1_000]).unwrap();
    a.set_len(4_500).unwrap();
    a.set_len(5_000).unwrap();
    let mut read = [1; 1_000];
    a.read(4_000, &mut read).unwrap();
    assert_eq!((&read[..500], &read[500..]), (&[7; 500][..], &[0; 500][..]), "grown space is zero");
    a.sync_data().unwrap();

    // Publishing: the new name has the content, the old one is gone, whatever had the new name is replaced.
    let b = disk.open(&name("b"), true).unwrap();
    b.write(0, b"old").unwrap();
    b.sync_data().unwrap();
    drop(b);
    disk.publish(&name("a"), &name("b")).unwrap();
    assert_eq!(names(disk), ["b"]);
    assert_eq!(disk.open(&name("b"), false).unwrap().len().unwrap(), 5_000);
    assert_eq!(disk.publish(&name("a"), &name("c")).unwrap_err().kind(), ErrorKind::NotFound);

    // A file stays what it is for those who hold it, under a new name and without one.
    a.write(0, b"still").unwrap();
    let again = disk.open(&name("b"), false).unwrap();
    let mut read = [0; 5];
    again.read(0, &mut read).unwrap();
    assert_eq!(&read, b"still", "two holds on one file see the same");
    disk.remove(&name("b")).unwrap();
    a.read(0, &mut read).unwrap();
    assert_eq!(&read, b"still");
    assert_eq!(disk.remove(&name("b")).unwrap_err().kind(), ErrorKind::NotFound);
    drop((a, again));

    // Room.
    let space = disk.space().unwrap();
    assert!(0 < space.free_bytes && space.free_bytes <= space.total_bytes, "{space:?}");

    // Marks.
    disk.mark(&name("mark"), b"long words").unwrap();
    disk.mark(&name("mark"), b"word").unwrap();
    let mark = disk.open(&name("mark"), false).unwrap();
    assert_eq!(mark.len().unwrap(), 4);

    // Names come in order.
    for new in ["z", "volume-2", "volume-10"] {
        disk.open(&name(new), true).unwrap();
    }
    assert_eq!(names(disk), ["mark", "volume-10", "volume-2", "z"]);
}

#[test]
fn the_simulated_disk_keeps_its_contract() {
    keeps_its_contract(&SimDisk::new());
}

#[test]
fn the_real_disk_keeps_it_too() {
    let folder = tempfile::tempdir().unwrap();
    keeps_its_contract(&OsDisk::open(folder.path()).unwrap());
}
