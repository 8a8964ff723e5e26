//! Which groups the timer looks at: all that are awake with each heartbeat that is due, and those that are quiet in turn,
//! so that a thousand of them cost little and nothing is overlooked for long.

use std::time::Duration;

use quorate_proto::ids::{GroupId, NodeId};

use super::group::Group;
use super::node::Inner;
use crate::env::Moment;

/// A group that is quiet is looked at with each so manieth heartbeat that is due.
const TURNS: usize = 10;
/// After so many beats that did not come, what is quiet behind their sender counts as awake.
const MISSED_MAX: u32 = 2;

/// What is awake and what is quiet, found anew when that has changed.
#[derive(Default)]
pub(super) struct Turns {
    /// What it was found for; see [`Turns::state`].
    found: Option<(u64, u64, Vec<NodeId>)>,
    awake: Vec<GroupId>,
    quiet: [Vec<GroupId>; TURNS],
}

impl Turns {
    /// The groups to be looked at; in a turn, one of which comes with each heartbeat that is due, some that are quiet are
    /// among them.
    pub(super) fn due(&mut self, node: &Inner, now: Moment, turn: Option<usize>) -> Vec<Group> {
        let since = now - Duration::from_millis(node.config().beat_ms) * MISSED_MAX;
        // What changes after that is found next time.
        let state = Self::state(node, since);
        if self.found.as_ref() != Some(&state) {
            self.find(node, since);
            self.found = Some(state);
        }
        let quiet = turn.map(|turn| &self.quiet[turn % TURNS]).into_iter().flatten();
        node.those_running(self.awake.iter().chain(quiet).copied())
    }

    fn state(node: &Inner, since: Moment) -> (u64, u64, Vec<NodeId>) {
        let roles = node.roles_changed();
        let (quiet, fresh) = node.ledger.lock().state(since);
        (roles, quiet, fresh)
    }

    fn find(&mut self, node: &Inner, since: Moment) {
        let mut resting = node.ledger.lock().resting(since).collect::<Vec<_>>();
        resting.sort_unstable();
        self.awake.clear();
        self.quiet.iter_mut().for_each(Vec::clear);
        for (place, group) in node.running_ids().into_iter().enumerate() {
            if resting.binary_search(&group).is_ok() {
                self.quiet[place % TURNS].push(group);
            } else {
                self.awake.push(group);
            }
        }
    }
}
