//! What checks speak of, in words.

use quorate_node::storage::{HardVote, LogId};
use quorate_proto::ids::{NodeId, Term};

use crate::observe::{Line, OnDisk};

/// A log id.
pub(super) fn told(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".to_owned(), |id| format!("entry {} of term {}", id.index, id.term))
}

/// An entry, with what tells it from another one of the same index and term.
pub(super) fn entry(line: Option<&Line>) -> String {
    let Some(Line { index, term, digest }) = line else { return "no entry".to_owned() };
    match digest {
        Some(digest) => format!("entry {index} of term {term} with the checksum {digest:016x}"),
        None => format!("entry {index} of term {term}"),
    }
}

/// What an entry holds.
pub(super) fn content(digest: Option<u64>) -> String {
    digest.map_or_else(|| "unseen content".to_owned(), |digest| format!("the checksum {digest:016x}"))
}

/// A term that may be none.
pub(super) fn term(term: Option<Term>) -> String {
    term.map_or_else(|| "no entry".to_owned(), |term| format!("an entry of term {term}"))
}

/// A vote as a disk has it.
pub(super) fn vote(vote: Option<HardVote>) -> String {
    match vote {
        None => "no vote".to_owned(),
        Some(HardVote { term, node: 0, .. }) => format!("term {term} without a vote"),
        Some(HardVote { term, node, committed: true }) => {
            format!("the vote of term {term} for node {node}, who leads")
        }
        Some(HardVote { term, node, committed: false }) => {
            format!("the vote of term {term} for node {node}")
        }
    }
}

/// What a disk holds of a group.
pub(super) fn disk(found: Option<&OnDisk>) -> String {
    let Some(found) = found else { return "nothing".to_owned() };
    let log = found.last.map_or_else(
        || "an empty log".to_owned(),
        |last| {
            let starts =
                found.starts.iter().map(|start| format!("term {} from entry {}", start.term, start.index));
            let terms = starts.collect::<Vec<_>>().join(", ");
            format!("a log up to entry {} of term {} ({terms})", last.index, last.term)
        },
    );
    let purged = found.purged.map(|purged| format!(", trimmed up to {}", purged.index)).unwrap_or_default();
    format!("{} and {log}{purged}", vote(found.vote))
}

/// Nodes, by their ids.
pub(super) fn nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let names = nodes.into_iter().map(ToString::to_string).collect::<Vec<_>>();
    match names.as_slice() {
        [] => "no node".to_owned(),
        [one] => format!("node {one}"),
        [rest @ .., last] => format!("nodes {} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::LogIndex;

    use super::*;

    #[test]
    fn nothing_is_said_as_the_code_has_it() {
        let id = LogId { term: Term(3), index: LogIndex(7) };
        let line = Line { index: id.index, term: id.term, digest: Some(0xab) };
        let given = HardVote { term: Term(4), node: 2, committed: false };
        let found = OnDisk { vote: Some(given), last: Some(id), starts: vec![id], ..OnDisk::default() };
        assert_eq!(told(Some(id)), "entry 7 of term 3");
        assert_eq!(entry(Some(&line)), "entry 7 of term 3 with the checksum 00000000000000ab");
        assert_eq!(
            (entry(None), told(None), term(None)),
            ("no entry".into(), "nothing".into(), "no entry".into())
        );
        assert_eq!(
            disk(Some(&found)),
            "the vote of term 4 for node 2 and a log up to entry 7 of term 3 (term 3 from entry 7)"
        );
        assert_eq!(nodes(&[NodeId(1), NodeId(2), NodeId(3)]), "nodes 1, 2 and 3");
        assert_eq!((nodes(&[NodeId(2)]), nodes(&[])), ("node 2".into(), "no node".into()));
    }
}
