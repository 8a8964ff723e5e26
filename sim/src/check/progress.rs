//! O-27, Raft's part: once everything is mended among a core of nodes, every group that has its majority there has a
//! leader within ten election time-outs, terms come to rest, whoever lies outside, and who lagged is up to date within
//! a minute (Raft §5.4.3, dissertation §9.6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::words::nodes;
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-27";

/// Election time-outs until there must be a leader.
const TIMEOUTS_MAX: u32 = 10;
/// Who lagged must be up to date after that.
const CATCH_UP: Duration = Duration::from_secs(60);
/// New terms of one group in a minute, once there was time for a leader.
const TERMS_MAX: u64 = 3;

#[derive(Default)]
pub(super) struct Progress {
    /// What each replica was last seen as: its term, whether it leads, and where its log ends.
    replicas: BTreeMap<(GroupId, NodeId), Seen>,
    committed: BTreeMap<GroupId, LogIndex>,
    /// The voters of the groups that exist, as the newest metadata have them.
    groups: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Who votes in each group, by the newest membership that was seen, and where that lies.
    configs: BTreeMap<GroupId, (LogIndex, Vec<BTreeSet<NodeId>>)>,
    metadata_of: LogIndex,
    terms: BTreeMap<GroupId, Term>,
    healed: Option<Healed>,
}

struct Healed {
    core: BTreeSet<NodeId>,
    led_by: Duration,
    /// How long a group may be without a leader, and since when some are.
    patience: Duration,
    unled: BTreeMap<GroupId, Duration>,
    up_to_date_by: Duration,
    /// What was committed when all was mended.
    committed: BTreeMap<GroupId, LogIndex>,
    /// The terms when there had been time for a leader, once that moment has passed.
    terms: Option<BTreeMap<GroupId, Term>>,
    caught_up: bool,
}

impl Judge for Progress {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        self.judge(at, matches!(sight, Sight::Quiet), found);
        match sight {
            Sight::Replica { node, group, replica } => {
                let last = replica.last.map_or(LogIndex(0), |last| last.index);
                self.replicas.insert((*group, *node), (replica.term, replica.leads, last));
                let term = self.terms.entry(*group).or_default();
                *term = (*term).max(replica.term);
                if let Some(now) = replica.committed {
                    let committed = self.committed.entry(*group).or_default();
                    *committed = (*committed).max(now.index);
                }
                self.look(at, *group);
            }
            Sight::Config { group, at: place, config, .. } => {
                let newest = self.configs.entry(*group).or_default();
                if place.index >= newest.0 {
                    *newest = (place.index, config.voters.clone());
                }
                if *group == GroupId::METADATA {
                    self.groups.insert(*group, config.all_voters());
                }
            }
            Sight::Metadata { applied, metadata, .. } if *applied > self.metadata_of => {
                self.metadata_of = *applied;
                let of_all = self.groups.remove(&GroupId::METADATA);
                let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
                self.groups = partitions
                    .map(|partition| (partition.group, partition.replicas.iter().copied().collect()))
                    .collect();
                self.groups.extend(of_all.map(|voters| (GroupId::METADATA, voters)));
            }
            Sight::Ended { node } => {
                self.replicas.retain(|(_, of), _| of != node);
                for group in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.look(at, group);
                }
            }
            Sight::Removed { node, group, .. } => {
                self.replicas.remove(&(*group, *node));
                self.look(at, *group);
            }
            Sight::Healed { core, election_timeout } => {
                self.healed = Some(Healed {
                    core: core.iter().copied().collect(),
                    led_by: at + *election_timeout * TIMEOUTS_MAX,
                    patience: *election_timeout * TIMEOUTS_MAX,
                    unled: BTreeMap::new(),
                    up_to_date_by: at + CATCH_UP,
                    committed: self.committed.clone(),
                    terms: None,
                    caught_up: false,
                });
                for group in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.look(at, group);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, at: Duration, found: &mut Found) {
        let Some(healed) = &self.healed else { return };
        let Some(then) = &healed.terms else { return };
        let minutes = at.saturating_sub(healed.led_by).as_secs() / 60 + 1;
        for (group, term) in &self.terms {
            let then = then.get(group).copied().unwrap_or_default();
            // A group made since begins with elections of its own.
            if then > Term(0) && self.is_core(healed, *group) && term.0 - then.0 > TERMS_MAX * minutes {
                let what = format!(
                    "terms come to rest once all is mended: group {group} went from term {then} at {:?} to {term} \
                     within {minutes} minutes",
                    healed.led_by
                );
                found.tell(ID, at, what);
            }
        }
    }
}

/// A replica's newest term, whether it leads in it, and the end of its log.
type Seen = (Term, bool, LogIndex);

/// Who was last seen where.
fn terms<'a>(seen: impl Iterator<Item = (&'a (GroupId, NodeId), &'a Seen)>) -> String {
    let words = seen.map(|((_, node), (term, leads, last))| {
        let role = if *leads { "leads" } else { "follows" };
        format!("node {node} {role} in term {term} with a log up to {last}")
    });
    let words = words.collect::<Vec<_>>().join(", ");
    if words.is_empty() { "no replica was seen".to_owned() } else { words }
}

fn reached(last: Option<LogIndex>) -> String {
    last.map_or_else(|| "was not seen".to_owned(), |last| format!("has a log up to {last}"))
}

impl Progress {
    /// Whether a group's majority lies in the core, so that it must make progress: of those who are to hold it, and of
    /// each set of those who vote while its members change.
    fn is_core(&self, healed: &Healed, group: GroupId) -> bool {
        let has_majority =
            |voters: &BTreeSet<NodeId>| voters.intersection(&healed.core).count() * 2 > voters.len();
        let sets = self.configs.get(&group).map(|(_, sets)| sets.as_slice()).unwrap_or_default();
        self.groups.get(&group).is_some_and(has_majority) && sets.iter().all(has_majority)
    }

    fn seen(&self, group: GroupId) -> impl Iterator<Item = (&(GroupId, NodeId), &Seen)> + Clone {
        self.replicas.range((group, NodeId(0))..=(group, NodeId(u32::MAX)))
    }

    /// Whether somebody leads whom the core does not know to be deposed.
    fn is_led(&self, healed: &Healed, group: GroupId) -> bool {
        let seen = self.seen(group);
        // Whoever lies outside may have voted on without being heard: that deposes nobody.
        let within = seen.clone().filter(|((_, node), _)| healed.core.contains(node));
        let term = within.map(|(_, (term, ..))| *term).max().unwrap_or_default();
        // Nor does one of the core depose a leader outside that a majority follows, but that cannot reach it.
        let Some(voters) = self.groups.get(&group) else { return false };
        let follow = |of: Term| {
            seen.clone().filter(|((_, node), (term, ..))| *term == of && voters.contains(node)).count()
        };
        seen.clone().any(|((_, node), (of, leads, _))| {
            let outside = !healed.core.contains(node);
            *leads && (*of >= term || (outside && follow(*of) * 2 > voters.len()))
        })
    }

    /// A group is led from now on, or is not: an outsider's vote, long on its way, may depose a leader at any time.
    fn look(&mut self, at: Duration, group: GroupId) {
        let Some(mut healed) = self.healed.take() else { return };
        if self.is_led(&healed, group) {
            healed.unled.remove(&group);
        } else {
            healed.unled.entry(group).or_insert(at);
        }
        self.healed = Some(healed);
    }

    /// What is due by now.
    fn judge(&mut self, at: Duration, quiet: bool, found: &mut Found) {
        let Some(mut healed) = self.healed.take() else { return };
        if at > healed.led_by && healed.terms.is_none() {
            healed.terms = Some(self.terms.clone());
        }
        let late = |since: &Duration| at > *since + healed.patience;
        let unled =
            healed.unled.iter().filter(|(_, since)| late(since)).map(|(group, since)| (*group, *since));
        for (group, since) in unled.collect::<Vec<_>>() {
            // Told once.
            healed.unled.remove(&group);
            // A group made just now is not late.
            let known = healed.committed.contains_key(&group);
            if known && self.is_core(&healed, group) && !self.is_led(&healed, group) {
                let what = format!(
                    "a leader within ten election time-outs: all was mended among {}, and from {since:?} to {at:?} \
                     nobody led group {group}: {}",
                    nodes(&healed.core),
                    terms(self.seen(group))
                );
                found.tell(ID, at, what);
            }
        }
        if (quiet || at > healed.up_to_date_by) && !healed.caught_up {
            healed.caught_up = true;
            for (group, committed) in &healed.committed {
                let Some(voters) = self.groups.get(group).filter(|_| self.is_core(&healed, *group)) else {
                    continue;
                };
                let lagging = voters.intersection(&healed.core).find(|node| {
                    self.replicas.get(&(*group, **node)).is_none_or(|(_, _, last)| last < committed)
                });
                if let Some(node) = lagging {
                    let what = format!(
                        "who lagged catches up: entry {committed} of group {group} was committed when all was mended, \
                         and node {node} {}",
                        reached(self.replicas.get(&(*group, *node)).map(|(_, _, last)| *last))
                    );
                    found.tell(ID, at, what);
                }
            }
        }
        self.healed = Some(healed);
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    const BEFORE: &str = "voters 1 is 1 2 3\nassigned at 7: 1 2 3\nlog 1 from 0: 1 1\n\
         replica 1 t1 leads committed 1/1 last 1/1\nlog 2 from 0: 1\nreplica 2 t1 last 0/1\nreplica 3 t1 last 0/1";

    #[test]
    fn a_cluster_that_does_not_come_back_is_seen() {
        let history = format!("{BEFORE}\nend 1\nat 10\nhealed 1 2 3\nat 30\nreplica 2 t2 last 0/1");
        assert_eq!(broken(&history), ["O-27"], "no leader");
        let storm = (3..9).map(|term| format!("\nreplica 2 t{term} last 0/1")).collect::<String>();
        assert_eq!(
            broken(&format!("{BEFORE}\nat 10\nhealed 1 2 3\nat 30{storm}")),
            ["O-27"],
            "a storm of terms"
        );
        let history = format!("{BEFORE}\nat 10\nhealed 1 2 3\nat 80\nreplica 3 t1 last 1/1");
        assert_eq!(broken(&history), ["O-27"], "a laggard");
    }

    #[test]
    fn a_leader_may_be_deposed_at_any_time_if_another_one_follows_soon() {
        let deposed =
            format!("{BEFORE}\nat 10\nhealed 1 2 3\nat 16\nreplica 1 t2 last 1/1\nreplica 2 t2 last 0/1");
        let soon =
            format!("{deposed}\nat 19\nreplica 3 t2 leads last 0/1\nat 40\nreplica 3 t2 leads last 0/1");
        assert!(!broken(&soon).contains(&"O-27"), "at 17 s nobody led");
        let late = format!("{deposed}\nat 24\nreplica 3 t2 leads last 0/1");
        assert!(broken(&late).contains(&"O-27"), "eight seconds without a leader");
    }

    #[test]
    fn what_lies_outside_the_core_may_stay_broken() {
        let history = format!(
            "{BEFORE}\nat 10\nhealed 1 2\nlog 2 from 1: 1\nreplica 2 t1 last 1/1\nat 80\nstands 3 t9"
        );
        assert!(broken(&history).is_empty());
        let history = format!("{BEFORE}\nend 1\nat 10\nhealed 1\nat 30\nreplica 2 t2 last 0/1\nend 2");
        assert!(broken(&history).is_empty(), "one of three is no majority");
        assert!(broken(&format!("{BEFORE}\nend 1\nat 30\nreplica 2 t2 last 0/1")).is_empty(), "never mended");
    }

    #[test]
    fn a_later_term_counts_where_the_core_knows_of_it() {
        let healed = format!("{BEFORE}\nat 10\nhealed 1 2\nlog 2 from 1: 1\nreplica 2 t1 last 1/1");
        let outside = format!("{healed}\nreplica 3 t2 last 0/1\nat 30\nreplica 3 t2 last 0/1");
        assert!(broken(&outside).is_empty(), "nobody hears whom it votes for: node 1 leads on");
        let inside = format!("{healed}\nreplica 2 t2 last 1/1\nat 30\nreplica 2 t2 last 1/1");
        assert_eq!(broken(&inside), ["O-27"], "of the core, one does not follow any more");
        let apart = format!(
            "{BEFORE}\nat 10\nhealed 2 3\nreplica 2 t2 last 0/1\nreplica 3 t2 last 0/1\nat 30\nreplica 3 t2 last 0/1"
        );
        assert!(broken(&apart).contains(&"O-27"), "node 1 leads on, and nobody follows");
        let followed = format!(
            "{BEFORE}\nat 10\nhealed 2 3\nlog 2 from 1: 1\nreplica 2 t1 last 1/1\nreplica 3 t2 last 0/1\nat 30\n\
             replica 3 t2 last 0/1"
        );
        assert!(broken(&followed).is_empty(), "node 1 lies outside, leads, and node 2 follows");
    }
}
