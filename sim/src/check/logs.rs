//! The replicas' logs as they were seen: what several checks go by.

use std::collections::BTreeMap;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use crate::observe::{Line, Sight};

/// All replicas' logs.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<(GroupId, NodeId), Log>);

/// One replica's.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last entry that was trimmed: what lies before is known by a checkpoint alone.
    trimmed: Option<LogId>,
    /// The first entry's index.
    first: u64,
    lines: Vec<Line>,
}

impl Logs {
    /// Takes note of a sight.
    pub(super) fn see(&mut self, sight: &Sight) {
        match sight {
            Sight::Opened { node, groups, .. } => {
                self.forget(*node);
                for (group, on_disk) in groups {
                    let log = self.0.entry((*group, *node)).or_default();
                    log.trimmed = on_disk.purged;
                    log.write(on_disk.lines());
                }
            }
            Sight::Trimmed { node, group, through } => {
                self.0.entry((*group, *node)).or_default().trim(*through);
            }
            Sight::Log { node, group, from, lines } => {
                let log = self.0.entry((*group, *node)).or_default();
                log.cut(*from);
                log.write(lines.iter().copied());
            }
            Sight::Removed { node, group, .. } | Sight::Restarted { node, group, emptied: true } => {
                self.0.remove(&(*group, *node));
            }
            Sight::DiskLost { node } => self.forget(*node),
            _ => {}
        }
    }

    fn forget(&mut self, node: NodeId) {
        self.0.retain(|(_, of), _| *of != node);
    }

    /// One replica's log.
    pub(super) fn of(&self, node: NodeId, group: GroupId) -> Option<&Log> {
        self.0.get(&(group, node))
    }

    /// A replica's entry.
    pub(super) fn line(&self, node: NodeId, group: GroupId, index: LogIndex) -> Option<&Line> {
        self.of(node, group)?.line(index)
    }

    /// A replica's entry before that one.
    pub(super) fn before(&self, node: NodeId, group: GroupId, index: LogIndex) -> Option<LogId> {
        let (log, before) = (self.of(node, group)?, LogIndex(index.0.checked_sub(1)?));
        let trimmed = log.trimmed.filter(|trimmed| trimmed.index == before);
        trimmed.or_else(|| log.line(before).map(|line| LogId { term: line.term, index: line.index }))
    }

    /// Whether a replica has that entry, or had it and trimmed it.
    pub(super) fn holds(&self, node: NodeId, group: GroupId, id: LogId) -> bool {
        self.of(node, group).is_some_and(|log| log.holds(id))
    }
}

impl Log {
    /// `through` and all before it are gone, by right or because a checkpoint took the place of the whole log.
    fn trim(&mut self, through: LogId) {
        let next = through.index.0 + 1;
        let gone = usize::try_from(next.saturating_sub(self.first)).expect("logs are short here");
        self.lines.drain(..gone.min(self.lines.len()));
        self.first = self.first.max(next);
        self.trimmed = Some(through);
    }

    fn cut(&mut self, from: LogIndex) {
        let keep = usize::try_from(from.0.saturating_sub(self.first)).expect("logs are short here");
        self.lines.truncate(keep);
    }

    fn write(&mut self, lines: impl Iterator<Item = Line>) {
        for line in lines {
            if self.lines.last().is_none_or(|last| last.index.next() != line.index) {
                self.lines.clear();
                self.first = line.index.0;
            }
            self.lines.push(line);
        }
    }

    /// An entry.
    pub(super) fn line(&self, index: LogIndex) -> Option<&Line> {
        self.lines.get(usize::try_from(index.0.checked_sub(self.first)?).ok()?)
    }

    /// Whether it has that entry, or had it and trimmed it.
    pub(super) fn holds(&self, id: LogId) -> bool {
        match self.trimmed {
            Some(trimmed) if id.index < trimmed.index => true,
            Some(trimmed) if id.index == trimmed.index => id.term == trimmed.term,
            Some(_) | None => self.line(id.index).is_some_and(|line| line.term == id.term),
        }
    }

    /// Its entries from there on.
    pub(super) fn from(&self, index: LogIndex) -> &[Line] {
        let at = usize::try_from(index.0.saturating_sub(self.first)).expect("logs are short here");
        self.lines.get(at..).unwrap_or_default()
    }
}

/// The entries of one group by index, each as the first who saw it told.
#[derive(Debug)]
pub(super) struct ByIndex<T>(Vec<Option<T>>);

impl<T> Default for ByIndex<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByIndex<T> {
    /// The place of an index, made if need be.
    pub(super) fn at(&mut self, index: LogIndex) -> &mut Option<T> {
        let at = usize::try_from(index.0).expect("logs are short here");
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        &mut self.0[at]
    }

    /// What is known there.
    pub(super) fn get(&self, index: LogIndex) -> Option<&T> {
        self.0.get(usize::try_from(index.0).ok()?)?.as_ref()
    }

    /// All that is known, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LogIndex, &T)> {
        (0..).map(LogIndex).zip(&self.0).filter_map(|(index, known)| Some((index, known.as_ref()?)))
    }
}
