//! Real files are damaged, one replica at a time, in every kind of way, while the node is down: nothing wrong is ever
//! served, and all replicas are equal at the end without anybody's help.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helper is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::cluster::{Shape, signal};
use quorate_tests::command::{quorate, run};
use quorate_tests::{Cluster, wait};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::{Value, json};

/// Lines for each harm.
const LINES: usize = 300;

/// What is done to a folder. `older` is how its newest volume was before the last lines were written.
type Harm = fn(folder: &Path, older: &Older);

/// A volume and its bytes.
type Older = (PathBuf, Vec<u8>);

/// What a node holds of a group.
#[derive(Debug, Default)]
struct Replica {
    /// Up to here it knows its entries to be committed.
    committed: u64,
    /// Term and body's checksum of each entry, by index.
    entries: BTreeMap<u64, (u64, u64)>,
}

/// All harms, by name.
const HARMS: [(&str, Harm); 15] = [
    ("meta.redb is gone", |folder, _| fs::remove_file(folder.join("meta.redb")).unwrap()),
    ("meta.redb is another file", |folder, _| {
        fs::write(folder.join("meta.redb"), vec![0xa5_u8; 9_000]).unwrap()
    }),
    ("facts in meta.redb", |folder, _| spoil_fact(folder)),
    ("peers in meta.redb", |folder, _| spoil_rows(folder, "peers")),
    ("volumes in meta.redb", |folder, _| spoil_rows(folder, "volumes")),
    ("votes in meta.redb", |folder, _| spoil_votes(folder)),
    ("a sealed volume is gone", |folder, _| fs::remove_file(&volumes(folder)[0]).unwrap()),
    ("a sealed volume is cut", |folder, _| cut(&volumes(folder)[0])),
    ("a sealed volume is another one", |folder, _| {
        let volumes = volumes(folder);
        fs::write(&volumes[0], fs::read(&volumes[1]).unwrap()).unwrap();
    }),
    ("heads in a sealed volume", |folder, _| flip(&volumes(folder)[0], "stream")),
    ("bodies in a sealed volume", |folder, _| flip(&volumes(folder)[0], "bodies")),
    ("the index of a sealed volume", |folder, _| flip_index(&volumes(folder)[0])),
    ("heads in the newest volume", |folder, older| flip(&newest(folder, older), "stream")),
    ("the newest volume is gone", |folder, older| fs::remove_file(newest(folder, older)).unwrap()),
    ("the newest volume is an older copy", |_, (file, bytes)| fs::write(file, bytes).unwrap()),
];

/// The volumes of a folder, in order; at least three.
fn volumes(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_volume = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with("volume-");
    let mut volumes = files.filter(is_volume).collect::<Vec<_>>();
    volumes.sort();
    assert!(volumes.len() >= 3, "{volumes:?}");
    volumes
}

/// The volume that was written last, if it is still there and holds entries: a new one holds none until the next commit.
fn newest(folder: &Path, (older, _): &Older) -> PathBuf {
    let volumes = volumes(folder);
    let by_age = volumes.iter().filter(|volume| *volume == older).chain(volumes.iter().rev());
    by_age.into_iter().find(|volume| last_value(volume, "stream").is_some()).unwrap().clone()
}

fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

/// Writes a row whose checksum does not fit.
fn spoil_fact(folder: &Path) {
    let table = TableDefinition::<&str, &[u8]>::new("facts");
    let database = Database::open(folder.join("meta.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(table).unwrap().insert("node", &b"neither a fact nor its checksum"[..]).unwrap();
    write.commit().unwrap();
}

/// All rows of a table whose keys are numbers of 32 bits.
fn spoil_rows(folder: &Path, name: &str) {
    let table = TableDefinition::<u32, &[u8]>::new(name);
    let database = Database::open(folder.join("meta.redb")).unwrap();
    let keys: Vec<u32> = {
        let read = database.begin_read().unwrap();
        let rows = read.open_table(table).unwrap();
        rows.iter().unwrap().map(|row| row.unwrap().0.value()).collect()
    };
    assert!(!keys.is_empty(), "{name} holds nothing");
    let write = database.begin_write().unwrap();
    for key in keys {
        write.open_table(table).unwrap().insert(key, &b"neither a row nor its checksum"[..]).unwrap();
    }
    write.commit().unwrap();
}

/// The vote of the metadata group.
fn spoil_votes(folder: &Path) {
    let table = TableDefinition::<u64, &[u8]>::new("votes");
    let database = Database::open(folder.join("meta.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(table).unwrap().insert(0_u64, &b"neither a vote nor its checksum"[..]).unwrap();
    write.commit().unwrap();
}

/// Flips a bit in the middle of the last value of a table, wherever that lies in the file.
fn flip(file: &Path, table: &str) {
    flip_in(file, &last_value(file, table).unwrap());
}

/// The last value of a table whose keys are numbers of 32 bits.
fn last_value(file: &Path, table: &str) -> Option<Vec<u8>> {
    value_of(file, |database| {
        let table = TableDefinition::<u32, &[u8]>::new(table);
        let read = database.begin_read().unwrap();
        let rows = read.open_table(table).unwrap();
        rows.last().unwrap().map(|(_, value)| value.value().to_vec())
    })
}

/// The same of the index, whose keys are pairs.
fn flip_index(file: &Path) {
    let value = value_of(file, |database| {
        let table = TableDefinition::<(u64, u64), &[u8]>::new("index");
        let read = database.begin_read().unwrap();
        let rows = read.open_table(table).unwrap();
        let (_, value) = rows.first().unwrap().unwrap();
        value.value().to_vec()
    });
    flip_in(file, &value);
}

/// Reads in a copy: redb writes when it opens.
fn value_of<T>(file: &Path, read: impl FnOnce(&Database) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    fs::copy(file, &copy).unwrap();
    read(&Database::open(&copy).unwrap())
}

fn flip_in(file: &Path, value: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    let sign = &value[..value.len().min(60)];
    let is_it = |(_, window): &(usize, &[u8])| *window == sign;
    let places = bytes.windows(sign.len()).enumerate().filter(is_it).map(|(at, _)| at);
    let places = places.collect::<Vec<_>>();
    let mut flipped = 0;
    for place in places {
        // At the end of a file only the beginning of a value may be left, from before it was cut.
        if let Some(byte) = bytes.get_mut(place + value.len() / 2) {
            *byte ^= 0x10;
            flipped += 1;
        }
    }
    assert!(flipped > 0, "the value is not in {}", file.display());
    fs::write(file, bytes).unwrap();
}

/// The file that was written to last.
fn written_last(folder: &Path) -> PathBuf {
    let volumes = volumes(folder).into_iter();
    volumes.max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap()).unwrap()
}

struct Played {
    cluster: Cluster,
    lines: usize,
    /// Holds the nodes' configuration, which each start reads.
    _config: tempfile::TempDir,
}

impl Played {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("node.toml");
        fs::write(&config, "[storage]\nscrub_seconds = 1\nvolume_bytes_max = 131072\nrecent_bytes_max = 1048576\n[partition]\nunsynced_bytes_max = 1048576\n")
            .unwrap();
        let shape = Shape::of(3).flag("--config").flag(config.to_str().unwrap());
        let cluster = Cluster::start_as(&shape);
        cluster.create("t", 1, 3);
        let mut played = Self { cluster, lines: 0, _config: folder };
        // One after the other: a volume is closed after a commit, however large that is.
        for _ in 0..10 {
            played.write(200);
        }
        for id in played.cluster.ids() {
            assert!(volumes(&played.cluster.node(id).data).len() >= 3);
        }
        played.cluster.wait_all_ready();
        played
    }

    fn line(number: usize) -> String {
        format!("{number} {}", "x".repeat(200))
    }

    fn write(&mut self, count: usize) {
        let lines: String =
            (self.lines..self.lines + count).map(|n| format!("{}\n", Self::line(n))).collect();
        drop(self.cluster.run_with(["produce", "t"], &lines).done());
        self.lines += count;
    }

    /// All that was acknowledged is there, in order, and nothing else.
    fn check(&self, when: &str) {
        let read = self.cluster.read_all("t");
        assert_eq!(read.len(), self.lines, "{when}");
        for (number, record) in read.iter().enumerate() {
            assert_eq!(record["value"], json!(Self::line(number)), "{when}");
        }
    }

    /// Waits until nothing needs attention: while a node has not caught up, another one must not be stopped.
    fn until_whole(&self) {
        wait::until("nothing that needs attention", || {
            let status = self.cluster.run(["cluster", "status", "--json"]).done().json();
            (status["attention"] == json!([])).then_some(())
        });
    }

    /// Waits until each node has read again all that it stores: what nobody asked for may be damaged.
    fn until_scrubbed(&self) {
        let rounds = |id: u32| {
            let page = self.cluster.node(id).get("/metrics").unwrap().body;
            let rounds =
                page.lines().find_map(|line| line.strip_prefix("quorate_storage_scrub_rounds_total "));
            rounds.unwrap().parse::<u64>().unwrap()
        };
        let before = self.cluster.ids().into_iter().map(|id| (id, rounds(id))).collect::<Vec<_>>();
        // The one under way may have passed by what was damaged.
        let is_read = |(id, before): &(u32, u64)| rounds(*id) >= before + 2;
        wait::until("two rounds of the scrubber", || before.iter().all(is_read).then_some(()));
    }

    /// What `log dump` shows of each group on a node that does not run.
    fn dump(&self, id: u32) -> BTreeMap<u64, Replica> {
        let data = self.cluster.node(id).data.to_str().unwrap().to_owned();
        let mut groups = BTreeMap::<_, Replica>::new();
        for line in run(&mut quorate(["log", "dump", "--json", "--data", &data])).done().json_lines() {
            let number = |name: &str| line[name].as_u64();
            let Some(group) = number("group") else { continue };
            let replica = groups.entry(group).or_default();
            if let (Some(index), Some(term), Some(crc)) =
                (number("index"), number("term"), number("body_crc"))
            {
                replica.entries.insert(index, (term, crc));
            } else if let Some(committed) = number("committed") {
                replica.committed = committed;
            }
        }
        groups
    }

    /// Ends all nodes at once, and compares what they hold.
    fn end(mut self) {
        let ids = self.cluster.ids();
        wait::until("equal replicas", || {
            self.until_scrubbed();
            self.until_whole();
            self.cluster.kill_all(&ids);
            ids.iter().for_each(|id| self.verify(*id));
            let dumps = ids.iter().map(|id| self.dump(*id)).collect::<Vec<_>>();
            let groups = dumps.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>();
            let is_equal = |group: &&u64| {
                let replicas = dumps.iter().map(|dump| dump.get(*group)).collect::<Option<Vec<_>>>();
                replicas.is_some_and(|replicas| are_equal(**group, &replicas))
            };
            if groups.iter().filter(|group| is_equal(group)).count() == groups.len() {
                return Some(());
            }
            for id in &ids {
                self.cluster.launch(*id);
            }
            self.cluster.wait_all_ready();
            None
        });
    }

    /// Nothing is damaged in the folder of a node that does not run.
    fn verify(&self, id: u32) {
        let data = self.cluster.node(id).data.to_str().unwrap().to_owned();
        let verified = run(&mut quorate(["log", "verify", "--json", "--data", &data])).json();
        assert_eq!(verified["damaged"], json!([]), "node {id}");
        assert!(verified["entries"].as_u64().unwrap() > 0, "node {id}");
    }
}

/// Whether these hold the same entries, from where the last of them begins. What two of them know to be committed has to be the same; who was ended in the
/// middle of something may miss the last entries, or hold others that were never committed, until it runs again.
fn are_equal(group: u64, replicas: &[&Replica]) -> bool {
    let first = replicas.iter().map(|replica| replica.entries.keys().next().copied());
    let Some(first) = first.collect::<Option<Vec<_>>>().and_then(|first| first.into_iter().max()) else {
        return false;
    };
    let indexes = replicas.iter().flat_map(|replica| replica.entries.range(first..)).map(|(index, _)| *index);
    let mut equal = true;
    for index in indexes.collect::<BTreeSet<_>>() {
        let entries = replicas.iter().map(|replica| replica.entries.get(&index)).collect::<Vec<_>>();
        if entries.iter().all(|entry| *entry == entries[0]) {
            continue;
        }
        equal = false;
        let committed = replicas.iter().map(|replica| replica.committed).collect::<Vec<_>>();
        println!("group {group} differs at {index}: {entries:?}, committed up to {committed:?}");
        let settled = replicas.iter().filter(|replica| index <= replica.committed);
        let settled = settled.map(|replica| replica.entries.get(&index)).collect::<BTreeSet<_>>();
        assert!(
            settled.len() <= 1,
            "replicas of group {group} differ at {index}, which is committed: {settled:?}"
        );
    }
    equal
}

/// Each harm strikes the next node; `behind`: another one has missed the last lines then.
fn survive(behind: bool) {
    let mut played = Played::start();
    for (round, (name, harm)) in HARMS.into_iter().enumerate() {
        let ids = played.cluster.ids();
        let (victim, other) = (ids[round % 3], ids[(round + 1) % 3]);
        let data = played.cluster.node(victim).data.clone();
        let older = written_last(&data);
        let older = (older.clone(), fs::read(&older).unwrap());
        if behind {
            played.cluster.kill(other);
        }
        played.write(LINES);
        if round % 2 == 0 {
            signal(played.cluster.node(victim).pid(), "TERM");
            assert_eq!(played.cluster.wait_end(victim).code(), Some(0));
        } else {
            played.cluster.kill(victim);
        }
        println!("{name}, on node {victim}");
        harm(&data, &older);
        if behind {
            played.cluster.launch(other);
        }
        played.cluster.launch(victim);
        played.cluster.wait_all_ready();
        played.write(10);
        played.check(name);
        played.until_whole();
    }
    played.end();
}

#[test]
fn whatever_is_damaged_comes_back_from_the_others() {
    survive(false);
}

#[test]
fn whatever_is_damaged_comes_back_though_another_one_is_behind() {
    survive(true);
}

#[test]
fn a_stopped_nodes_folder_is_looked_into_and_not_changed() {
    let mut cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    drop(cluster.run_with(["produce", "t"], "one\na line of its own\n").done());
    let data = cluster.node(1).data.clone();
    let command = |args: &[&str]| {
        let mut command = quorate(args.iter().copied());
        command.arg("--data").arg(&data);
        run(&mut command)
    };
    command(&["log", "verify"]).refused(1, "in use by another process");
    signal(cluster.node(1).pid(), "TERM");
    assert_eq!(cluster.wait_end(1).code(), Some(0));
    let files = || {
        let files = fs::read_dir(&data).unwrap().map(|file| file.unwrap().path());
        files.map(|file| (file.clone(), fs::read(file).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    let verified = command(&["log", "verify", "--json"]).done().json();
    assert_eq!(verified["damaged"], json!([]));
    let shown = command(&["log", "dump"]).done();
    assert!(shown.text().contains("group 0") && shown.text().contains("batch"), "{}", shown.text());
    let lines = command(&["log", "dump", "--json", "--group", "0"]).done().json_lines();
    assert!(lines.iter().all(|line| line["group"] == json!(0)), "{lines:?}");
    command(&["log", "dump", "--group", "77"]).refused(1, "nothing of group 77");
    assert_eq!(files(), before, "not a byte is changed");

    // One bit of a body, whatever file it lies in.
    let line = b"a line of its own";
    let holds = |bytes: &[u8]| bytes.windows(line.len()).any(|window| window == line);
    let (file, _) = before.iter().find(|(_, bytes)| holds(bytes)).unwrap();
    flip_in(file, line);
    let verified = command(&["log", "verify", "--json"]);
    assert_eq!(verified.status, Some(1), "{verified:?}");
    let damaged = verified.json()["damaged"].as_array().unwrap().clone();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let what = |damage: &Value| damage["what"].as_str().unwrap().to_owned();
    assert!(what(&damaged[0]).starts_with("body: "), "{damaged:?}");

    // The whole file.
    fs::remove_file(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let verified = command(&["log", "verify"]);
    assert_eq!(verified.status, Some(1), "{verified:?}");
    let said = verified.text();
    assert!(said.starts_with(&format!("{name}: it is missing\n")), "{said}");
    let why = format!("log may be missing from here on: {name} was perhaps written last (it is missing)\n");
    assert!(said.contains(&why), "{said}");
    let shown = command(&["log", "dump"]).done();
    assert!(shown.text().contains(&format!("DAMAGED: {name}: it is missing\n")), "{}", shown.text());

    let empty = tempfile::tempdir().unwrap();
    let verify = |folder: &Path| run(quorate(["log", "verify", "--data"]).arg(folder));
    verify(empty.path()).refused(1, "holds no data of a node\n");
    let missing = verify(&empty.path().join("missing"));
    missing.refused(1, "No such file");
    assert_eq!(missing.stderr.matches("No such file").count(), 1, "{}", missing.stderr);
    let node = empty.path().join("node-1");
    fs::create_dir(&node).unwrap();
    fs::write(node.join("meta.redb"), "").unwrap();
    verify(empty.path()).refused(1, &format!("folders of nodes lie in it: {}", node.display()));
}
