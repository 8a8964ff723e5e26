//! What the disk keeps and loses, and what its faults do.

use std::collections::BTreeSet;

use super::*;

fn name(name: &str) -> FileName {
    FileName::new(name)
}

/// A disk with a published file of four sectors of ones.
fn disk_with_ones() -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.open(&name("new"), true).unwrap();
    file.write(0, &[1; 4 * SECTOR]).unwrap();
    file.sync_data().unwrap();
    disk.publish(&name("new"), &name("ones")).unwrap();
    disk
}

fn content(disk: &SimDisk, of: &str) -> Vec<u8> {
    let file = disk.open(&name(of), false).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_synced_and_published_survives_every_crash() {
    for seed in 0..50 {
        let disk = disk_with_ones();
        disk.crash(&mut Dice::new(seed));
        assert_eq!(content(&disk, "ones"), [1; 4 * SECTOR]);
    }
}

#[test]
fn each_unsynced_sector_comes_out_as_any_of_its_versions() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..2000 {
        let disk = disk_with_ones();
        let file = disk.open(&name("ones"), false).unwrap();
        file.write(SECTOR as u64, &[2; 2 * SECTOR]).unwrap();
        file.write(SECTOR as u64 + 10, &[3; SECTOR]).unwrap();
        disk.crash(&mut Dice::new(seed));
        let bytes = content(&disk, "ones");
        assert_eq!(bytes[..SECTOR], [1; SECTOR], "not touched");
        assert_eq!(bytes[3 * SECTOR..], [1; SECTOR], "not touched");
        // The second write changes the second sector but for its first 10 bytes, and 10 bytes of the third.
        outcomes.insert((bytes[SECTOR], bytes[SECTOR + 10], bytes[2 * SECTOR], bytes[2 * SECTOR + 10]));
    }
    let second = [(1, 1), (2, 2), (2, 3)];
    let third = [(1, 1), (2, 2), (3, 2)];
    let all = second.iter().flat_map(|s| third.iter().map(|t| (s.0, s.1, t.0, t.1))).collect();
    assert_eq!(outcomes, all);
}

#[test]
fn an_unsynced_length_may_be_lost_and_grown_space_is_zero() {
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk_with_ones();
        let file = disk.open(&name("ones"), false).unwrap();
        file.set_len(2 * SECTOR as u64).unwrap();
        file.set_len(6 * SECTOR as u64).unwrap();
        assert_eq!(content(&disk, "ones")[2 * SECTOR..], [0; 4 * SECTOR]);
        disk.crash(&mut Dice::new(seed));
        let bytes = content(&disk, "ones");
        assert!(bytes.iter().skip(4 * SECTOR).all(|byte| *byte == 0));
        lengths.insert(bytes.len() / SECTOR);
    }
    assert_eq!(lengths, BTreeSet::from([2, 4, 6]));
}

#[test]
fn names_come_undone_unless_published() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk_with_ones();
        let file = disk.open(&name("other"), true).unwrap();
        file.sync_data().unwrap();
        disk.remove(&name("ones")).unwrap();
        assert_eq!(disk.list().unwrap(), [name("other")]);
        disk.crash(&mut Dice::new(seed));
        outcomes.insert(disk.list().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(outcomes, ["", "ones", "ones other", "other"].map(str::to_owned).into());
}

#[test]
fn the_power_goes_at_the_operation_asked_for_and_files_of_before_stay_dead() {
    let disk = disk_with_ones();
    let file = disk.open(&name("ones"), false).unwrap();
    disk.cut_power_at(disk.operations() + 1);
    file.write(0, &[2; 8]).unwrap();
    file.sync_data().unwrap_err();
    file.read(0, &mut [0; 8]).unwrap_err();
    disk.list().unwrap_err();
    assert!(!disk.is_powered());
    disk.crash(&mut Dice::new(0));
    assert!(disk.is_powered());
    file.write(0, &[3; 8]).unwrap_err();
    assert_ne!(content(&disk, "ones")[0], 3);
}

#[test]
fn a_killed_process_leaves_its_writes_but_does_not_sync_them() {
    let mut survived = BTreeSet::new();
    for seed in 0..50 {
        let disk = disk_with_ones();
        let file = disk.open(&name("ones"), false).unwrap();
        file.write(0, &[2; SECTOR]).unwrap();
        disk.cut_power();
        disk.kill();
        file.write(0, &[3; SECTOR]).unwrap_err();
        assert_eq!(content(&disk, "ones")[0], 2);
        disk.crash(&mut Dice::new(seed));
        survived.insert(content(&disk, "ones")[0]);
    }
    assert_eq!(survived, BTreeSet::from([1, 2]));
}

#[test]
fn a_failed_sync_drops_or_keeps_the_dirty_pages() {
    for (pages, survives) in [(DirtyPages::Dropped, 1), (DirtyPages::Kept, 2)] {
        let disk = disk_with_ones();
        let file = disk.open(&name("ones"), false).unwrap();
        file.write(0, &[2; SECTOR]).unwrap();
        disk.fail_sync_after(0, pages);
        file.sync_data().unwrap_err();
        assert_eq!(content(&disk, "ones")[0], 2, "the process sees what it wrote");
        file.sync_data().unwrap();
        disk.crash(&mut Dice::new(0));
        assert_eq!(content(&disk, "ones")[0], survives);
    }
}

#[test]
fn redb_keeps_what_it_committed() {
    const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("t");
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let disk = SimDisk::new();
        let made = redb::Builder::new()
            .create_with_backend(BoxedBackend(disk.open(&name("new"), true).unwrap()))
            .unwrap();
        drop(made);
        disk.publish(&name("new"), &name("db")).unwrap();
        let mut next = 0;
        for _ in 0..5 {
            disk.cut_power_at(disk.operations() + dice.between(20, 120));
            let backend = BoxedBackend(disk.open(&name("db"), false).unwrap());
            if let Ok(database) = redb::Builder::new().create_with_backend(backend) {
                while let Ok(transaction) = database.begin_write() {
                    let inserted = transaction
                        .open_table(TABLE)
                        .is_ok_and(|mut table| table.insert(next, next * 3).is_ok());
                    if !inserted || transaction.commit().is_err() {
                        break;
                    }
                    next += 1;
                }
            }
            disk.crash(&mut dice);
        }
        let backend = BoxedBackend(disk.open(&name("db"), false).unwrap());
        let database = redb::Builder::new().create_with_backend(backend).unwrap();
        let table = redb::ReadableDatabase::begin_read(&database).unwrap();
        let table = table.open_table(TABLE).unwrap();
        assert!(next > 0);
        for key in 0..next {
            assert_eq!(table.get(key).unwrap().map(|value| value.value()), Some(key * 3), "seed {seed}");
        }
    }
}

/// redb takes its backend by value.
#[derive(Debug)]
struct BoxedBackend(Box<dyn redb::StorageBackend>);

impl redb::StorageBackend for BoxedBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

#[test]
fn operations_take_their_time_and_one_stalls() {
    let disk = disk_with_ones();
    let told = std::sync::Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    disk.watch(move |event| telling.lock().unwrap().push(event));
    let file = disk.open(&name("ones"), false).unwrap();
    let took = |act: &dyn Fn()| {
        disk.take_elapsed();
        act();
        disk.take_elapsed()
    };
    let read: &dyn Fn() = &|| file.read(0, &mut [0; 8]).unwrap();
    let write: &dyn Fn() = &|| file.write(0, &[2; 8]).unwrap();
    let sync: &dyn Fn() = &|| file.sync_data().unwrap();
    assert_eq!([read, write, sync].map(took), [Duration::ZERO; 3]);
    let slow = Pace {
        sync_min: Duration::from_millis(10),
        sync_max: Duration::from_millis(20),
        read_max: Duration::from_millis(1),
        write_max: Duration::from_millis(2),
    };
    disk.set_pace(slow, Dice::new(1));
    assert!((1..=1_000).contains(&took(read).as_micros()));
    assert!((1..=2_000).contains(&took(write).as_micros()));
    assert!((10_000..=20_000).contains(&took(sync).as_micros()));
    disk.set_pace(Pace::default(), Dice::new(1));
    told.lock().unwrap().clear();
    for (operation, act) in [(Operation::Read, read), (Operation::Write, write), (Operation::Sync, sync)] {
        let time = Duration::from_secs(3);
        disk.stall_next(operation, time);
        assert_eq!(took(act), time, "{operation:?}");
        assert_eq!(took(act), Duration::ZERO, "once");
        file.sync_data().unwrap();
        let mut told = told.lock().unwrap();
        assert!(told.contains(&DiskEvent::Stalled { operation, time }), "{told:?}");
        told.clear();
    }
    disk.stall_next(Operation::Sync, Duration::from_secs(1));
    disk.spare();
    assert_eq!(took(sync), Duration::ZERO);
}

#[test]
fn a_full_disk_takes_what_fits_and_what_is_overwritten() {
    let disk = disk_with_ones();
    assert_eq!(disk.used(), 4_096);
    let file = disk.open(&name("ones"), false).unwrap();
    disk.set_capacity(Some(3 * 4_096));
    let told = std::sync::Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    disk.watch(move |event| telling.lock().unwrap().push(event));
    file.set_len(100_000).unwrap();
    assert_eq!(disk.space().unwrap(), DiskSpace { free_bytes: 2 * 4_096, total_bytes: 3 * 4_096 });
    let refused = file.write(4_096, &[2; 3 * 4_096]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(matches!(told.lock().unwrap()[..], [DiskEvent::NoSpace { .. }]));
    assert_eq!(content(&disk, "ones")[3 * 4_096 - 1..][..2], [2, 0], "a part of it was written");
    file.write(0, &[3; 8_192]).unwrap();
    assert_eq!(disk.space().unwrap().free_bytes, 0);
    assert_eq!(disk.mark(&name("mark"), b"why").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.list().unwrap(), [name("mark"), name("ones")], "the mark is there, without words");
    disk.crash(&mut Dice::new(1));
    let file = disk.open(&name("ones"), false).unwrap();
    disk.set_capacity(None);
    file.write(200_000, &[4; 4_096]).unwrap();
}
