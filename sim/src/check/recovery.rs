//! O-25, recovery may be cut off: a disk that is recovered, loses power in the middle and is recovered again comes to
//! the same as one that is recovered once.

use std::time::Duration;

use super::words::disk;
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-25";

#[derive(Default)]
pub(super) struct Recovery;

impl Judge for Recovery {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        let Sight::RecoveredTwice { node, once, twice } = sight else { return };
        let mut groups = once.keys().chain(twice.keys());
        if let Some(group) = groups.find(|group| once.get(group) != twice.get(group)) {
            let what = format!(
                "recovering twice gives the same as once: of group {group} node {node} has {} after one \
                 recovery, and {} where the power went in the middle of a first one",
                disk(once.get(group)),
                disk(twice.get(group))
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn another_result_is_seen() {
        assert_eq!(broken("twice 1: 1 1 2 | 1 1"), ["O-25"]);
        assert_eq!(broken("twice 1: | 1"), ["O-25"]);
        assert_eq!(broken("twice 1 vote 3/2: 1 | vote 2/1: 1"), ["O-25"]);
    }

    #[test]
    fn the_same_result_is_legal() {
        assert!(broken("twice 1 vote 3/2: 1 1 2 | vote 3/2: 1 1 2").is_empty());
    }
}
