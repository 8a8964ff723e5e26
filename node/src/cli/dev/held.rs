//! What the folder of a `quorate dev` holds: a cluster of how many nodes, and whose data is missing.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::Failure;

const FILE: &str = "dev.json";
/// Folders with a higher number are none of ours.
const NODES_MAX: u16 = 999;

/// What is noted in the folder. Without it a lost folder would look like a smaller cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    nodes: u16,
    /// The cluster was ready once: a node without its folder has lost what it acknowledged. Before, it just was not
    /// started yet.
    formed: bool,
}

/// The nodes whose folder is missing, less than half of them: the others can go on without.
pub(super) fn missing(data: &Path, nodes: u16) -> Result<BTreeSet<u16>, Failure> {
    let there: BTreeSet<u16> =
        (1..=NODES_MAX).filter(|id| data.join(format!("node-{id}")).is_dir()).collect();
    let Some(last) = there.last() else {
        note(data, Held { nodes, formed: false })?;
        return Ok(BTreeSet::new());
    };
    let held = read(data)?.unwrap_or(Held { nodes: *last, formed: true });
    if held.nodes != nodes {
        return Err(Failure::work(format!(
            "{} holds a cluster of {} nodes: start it with --nodes {}, or give another --data",
            data.display(),
            held.nodes,
            held.nodes
        )));
    }
    if !held.formed {
        return Ok(BTreeSet::new());
    }
    let missing: BTreeSet<u16> = (1..=nodes).filter(|id| !there.contains(id)).collect();
    if !missing.is_empty() && usize::from(nodes) <= 2 * missing.len() {
        let names = missing.iter().map(|id| format!("node-{id}")).collect::<Vec<_>>().join(", ");
        return Err(Failure::work(format!(
            "{} holds a cluster of {nodes} nodes, and is without {names}: those left are no majority and cannot run; put \
             back what is missing, or give another --data",
            data.display()
        )));
    }
    Ok(missing)
}

/// Notes that the cluster was ready.
pub(super) fn formed(data: &Path, nodes: u16) -> Result<(), Failure> {
    let held = Held { nodes, formed: true };
    if read(data)? == Some(held) { Ok(()) } else { note(data, held) }
}

fn read(data: &Path) -> Result<Option<Held>, Failure> {
    let path = data.join(FILE);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::work(format!(
            "cannot read {}, which says how many nodes there are: {error}; if the folders of all nodes are there, \
             delete it: it is written anew",
            path.display()
        ))
    };
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn note(data: &Path, held: Held) -> Result<(), Failure> {
    let (path, part) = (data.join(FILE), data.join("dev.json.part"));
    let write = || {
        std::fs::write(&part, serde_json::to_vec(&held)?)?;
        std::fs::rename(&part, &path)
    };
    write().map_err(|error| Failure::work(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which nodes are missing from a folder with those of `there`, noted as `held`, when `nodes` are to be started.
    fn check(held: Option<Held>, there: &[u16], nodes: u16) -> Result<Vec<u16>, String> {
        let folder = tempfile::tempdir().unwrap();
        for id in there {
            std::fs::create_dir(folder.path().join(format!("node-{id}"))).unwrap();
        }
        if let Some(held) = held {
            note(folder.path(), held).unwrap();
        }
        match missing(folder.path(), nodes) {
            Ok(missing) => Ok(missing.into_iter().collect()),
            Err(Failure::Work(error)) => Err(error.to_string()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lost_folder_is_no_smaller_cluster() {
        let three = Some(Held { nodes: 3, formed: true });
        assert_eq!(check(three, &[1, 2, 3], 3), Ok(vec![]));
        assert_eq!(check(three, &[1, 3], 3), Ok(vec![2]));
        assert_eq!(check(three, &[1, 2], 3), Ok(vec![3]));
        assert!(check(three, &[1, 2], 2).unwrap_err().contains("--nodes 3"));
        let lost = check(three, &[2], 3).unwrap_err();
        assert!(lost.contains("node-1, node-3") && lost.contains("no majority"), "{lost}");
        // Half is no majority.
        assert!(check(Some(Held { nodes: 2, formed: true }), &[2], 2).is_err());
    }

    #[test]
    fn a_cluster_that_never_was_ready_has_lost_nothing() {
        let begun = Some(Held { nodes: 3, formed: false });
        assert_eq!(check(begun, &[1], 3), Ok(vec![]));
        assert!(check(begun, &[1], 1).is_err());
        // With nothing left it is a new one.
        assert_eq!(check(Some(Held { nodes: 3, formed: true }), &[], 5), Ok(vec![]));
    }

    #[test]
    fn a_note_that_cannot_be_read_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("node-1")).unwrap();
        for damaged in ["", "{\"nodes\":3", "{}", "\0\0\0"] {
            std::fs::write(folder.path().join(FILE), damaged).unwrap();
            for failure in [missing(folder.path(), 3).unwrap_err(), formed(folder.path(), 3).unwrap_err()] {
                let Failure::Work(error) = failure else { panic!("{failure:?}") };
                let said = error.to_string();
                assert!(said.starts_with("cannot read ") && said.contains("dev.json"), "{said}");
                assert!(said.ends_with("delete it: it is written anew"), "{said}");
            }
        }
    }

    #[test]
    fn without_a_note_the_highest_number_counts() {
        assert_eq!(check(None, &[], 3), Ok(vec![]));
        assert_eq!(check(None, &[1, 3], 3), Ok(vec![2]));
        assert!(check(None, &[1, 2, 3], 1).unwrap_err().contains("--nodes 3"));
    }
}
