//! Logs as the first entries of their terms tell them.

use quorate_node::storage::LogId;
use quorate_proto::ids::LogIndex;

/// Where two logs part, by the terms of their entries: all before is the same.
pub(super) fn parting(
    before: &[LogId],
    last_before: Option<LogId>,
    now: &[LogId],
    last_now: Option<LogId>,
) -> LogIndex {
    let end = |starts: &[LogId], last: Option<LogId>| match last {
        Some(last) if !starts.is_empty() => last.index.next(),
        Some(_) | None => LogIndex(0),
    };
    let shorter = end(before, last_before).min(end(now, last_now));
    let differs = before.iter().zip(now).find(|(one, other)| one != other);
    let differs = differs.map(|(one, other)| one.index.min(other.index)).or_else(|| {
        let longer = if before.len() > now.len() { before } else { now };
        longer.get(before.len().min(now.len())).map(|start| start.index)
    });
    differs.map_or(shorter, |differs| differs.min(shorter))
}

/// A log begins behind that entry, or goes on there, by what was known of it before.
pub(super) fn trim(starts: &mut Vec<LogId>, last: &mut Option<LogId>, through: LogId) {
    let next = through.index.next();
    if last.is_none_or(|last| last.index <= through.index) {
        starts.clear();
        *last = Some(through);
        return;
    }
    let after = starts.partition_point(|start| start.index <= next);
    let Some(term) = after.checked_sub(1).and_then(|at| starts.get(at)).map(|start| start.term) else {
        return;
    };
    starts.drain(..after);
    starts.insert(0, LogId { term, index: next });
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::Term;

    use super::super::OnDisk;
    use super::*;

    fn ids(starts: &[(u64, u64)]) -> Vec<LogId> {
        starts.iter().map(|(term, index)| LogId { term: Term(*term), index: LogIndex(*index) }).collect()
    }

    #[test]
    fn logs_part_where_their_terms_do() {
        let at = |before: &[(u64, u64)], last: (u64, u64), now: &[(u64, u64)], end: (u64, u64)| {
            let id = |id: (u64, u64)| ids(&[id]).pop();
            parting(&ids(before), id(last), &ids(now), id(end)).0
        };
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0)], (1, 9)), 5);
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0)], (1, 2)), 3);
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0), (2, 3)], (2, 9)), 3);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0), (3, 3)], (3, 5)), 3);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0), (3, 2)], (3, 2)), 2);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0)], (1, 5)), 3);
        assert_eq!(parting(&[], None, &ids(&[(1, 0)]), ids(&[(1, 4)]).pop()), LogIndex(0));
        assert_eq!(parting(&ids(&[(1, 0)]), ids(&[(1, 4)]).pop(), &[], None), LogIndex(0));
    }

    #[test]
    fn a_trimmed_log_begins_behind_what_went() {
        let check = |through: (u64, u64)| {
            let (mut starts, mut last) = (ids(&[(1, 0), (2, 3), (4, 6)]), ids(&[(4, 8)]).pop());
            trim(&mut starts, &mut last, ids(&[through])[0]);
            (starts, last)
        };
        assert_eq!(check((1, 1)), (ids(&[(1, 2), (2, 3), (4, 6)]), ids(&[(4, 8)]).pop()));
        assert_eq!(check((1, 2)), (ids(&[(2, 3), (4, 6)]), ids(&[(4, 8)]).pop()));
        assert_eq!(check((2, 4)), (ids(&[(2, 5), (4, 6)]), ids(&[(4, 8)]).pop()));
        assert_eq!(check((4, 8)), (Vec::new(), ids(&[(4, 8)]).pop()));
        assert_eq!(check((7, 20)), (Vec::new(), ids(&[(7, 20)]).pop()), "a checkpoint took its place");
    }

    #[test]
    fn what_was_found_spells_out_its_entries() {
        let found =
            OnDisk { last: ids(&[(3, 4)]).pop(), starts: ids(&[(1, 0), (3, 2)]), ..OnDisk::default() };
        let terms = found.lines().map(|line| (line.index.0, line.term.0)).collect::<Vec<_>>();
        assert_eq!(terms, [(0, 1), (1, 1), (2, 3), (3, 3), (4, 3)]);
        assert_eq!(found.term_at(LogIndex(1)), Some(Term(1)));
        assert_eq!(found.term_at(LogIndex(4)), Some(Term(3)));
        assert_eq!(found.term_at(LogIndex(5)), None);
        assert_eq!(OnDisk::default().lines().count(), 0);
    }
}
