//! A log starts where it may (oracle O-14): its start only rises, and never past the high watermark, nor past what
//! retention allows, nor past what somebody asked to delete. Judged by what clients wrote and asked for, and by the
//! clocks: a batch may go once it is older than the topic's `retention.ms` by the wall clock of some node, or once the
//! batches behind it alone come to `retention.bytes`, as in Kafka, or as far as somebody asked to delete. Of a topic's
//! settings the tightest count that anybody ever asked for: a leader follows a change when it hears of it. A batch without
//! a timestamp is as old as its append, which some wall clock has told, between when it was sent first and when it was
//! known to stand.
//!
//! What a replica holds is judged as it rises. What clients are told must be what some replica held.
//!
//! And retention does its work (oracle O-29): where everything was whole for a while, what has expired is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, TopicId};

use super::keep::{Asking, Rule};
use super::log_starts::{LogStarts, told_start};
use super::shadow::{Before, Stands};
use super::walls::Walls;
use super::{Check, Found, Seen};
use crate::history::{Evidence, Place};
use crate::observe::Sight;
use crate::wire::{Ask, Asked, Batch, Told};

const ID: &str = "O-14";
/// Of what should have gone and has not.
const STAYS: &str = "O-29";

/// A leader looks for what has expired now and then, and what it finds takes its way through the log.
const LATE_MAX: Duration = Duration::from_secs(5);
/// As much may stay beside what `retention.bytes` asks for: batches go as a whole.
const BATCH_BYTES_MAX: u64 = 64 << 10;
/// The largest timestamp of a batch that has none.
const NO_TIMESTAMP: i64 = -1;

/// Producer id, epoch, sequence and checksum.
type Name = (i64, i16, i32, u32);

/// A batch that is known to stand, by its base offset.
struct Standing {
    end: u64,
    /// The largest timestamp, in ms, if it has one.
    newest: Option<i64>,
    bytes: u64,
    /// When it was sent first, if it has no timestamp.
    sent: Duration,
    /// When it was known that it stands.
    at: Duration,
}

/// One partition's.
#[derive(Default)]
struct Log {
    known: BTreeMap<u64, Standing>,
    /// Records and bytes of batches that were sent, and are not known to stand.
    open: BTreeMap<Name, (u64, u64)>,
    /// When batches without a timestamp were sent first.
    sent: BTreeMap<Name, Duration>,
    /// Somebody was told that what lies below is deleted, as asked.
    deleted: u64,
    /// Deletions that may yet be done, by their calls: up to there, or up to the high watermark of a moment to come.
    deleting: BTreeMap<u64, Option<u64>>,
    /// The highest watermark that anybody was told or had.
    high: u64,
    /// All below was judged.
    judged: u64,
    /// The latest time that a wall clock had shown when that rose.
    judged_at: Option<i64>,
    /// The highest start that a replica had.
    applied: Option<u64>,
    /// Since when.
    applied_at: Duration,
    /// What clients were told, as it rose.
    claims: Vec<Claim>,
    /// The same, and who said so in which epoch.
    words: Vec<Word>,
    /// The lowest that was said in each epoch.
    lowest: BTreeMap<i32, (u64, String)>,
}

/// Somebody was told of a log start.
struct Claim {
    start: u64,
    at: Duration,
    told: String,
}

/// As what a log start was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// By a leader of this epoch.
    Leading(i32),
    /// By who has deleted records, in whatever epoch.
    Deleting,
}

/// A log start as a node told it.
struct Word {
    said: Said,
    node: NodeId,
    start: u64,
    told: String,
}

#[derive(Default)]
pub(super) struct Start {
    starts: LogStarts,
    names: BTreeMap<TopicId, String>,
    asking: BTreeMap<String, Asking>,
    /// When somebody was told last that a topic's settings are changed.
    configured: BTreeMap<String, Duration>,
    logs: BTreeMap<Place, Log>,
    walls: Walls,
    /// The log starts of the replicas that run, since each was started.
    replicas: BTreeMap<(NodeId, GroupId), u64>,
    /// How high a group's log start was with all entries before that one applied, on whichever replica, as it rose.
    by_entry: BTreeMap<GroupId, BTreeMap<LogIndex, u64>>,
    /// How many words there were when a call was asked.
    asked: BTreeMap<u64, usize>,
}

impl Check for Start {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        self.starts.see(seen);
        match seen {
            Seen::Asked(asked) => self.asked(asked),
            Seen::Told(asked, told) => self.told(at, asked, told, found),
            Seen::Stands(stands) => self.stands(at, stands, found),
            Seen::Node(sight) => self.sight(at, sight, found),
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, scan) in &evidence.scan {
            let claim = Claim { start: scan.start.0, at: end, told: "who read all at the end".to_owned() };
            self.logs.entry(*place).or_default().claims.push(claim);
        }
        for place in self.logs.keys().copied().collect::<Vec<_>>() {
            let log = self.logs.entry(place).or_default();
            let (claims, applied) = (std::mem::take(&mut log.claims), log.applied);
            for Claim { start, at, told } in claims {
                let why = match applied {
                    Some(applied) if start <= applied => None,
                    Some(applied) if self.starts.exists(place) => {
                        Some(format!("no replica's log starts beyond {applied}"))
                    }
                    // Of a topic that was deleted the last may not have been seen.
                    Some(_) | None => self.why_not(place, start),
                };
                if let Some(why) = why {
                    let what = format!(
                        "a log starts where it may: {told}: {place} is said to start at {start}, but {why}"
                    );
                    found.tell(ID, at, what);
                }
            }
        }
    }
}

impl Start {
    fn asked(&mut self, asked: &Asked) {
        match &asked.ask {
            Ask::Produce { place, batch, .. } => {
                let log = self.logs.entry(*place).or_default();
                log.open.entry(name(batch)).or_insert((batch.count(), batch.bytes));
                if newest(batch, None).is_none() {
                    log.sent.entry(name(batch)).or_insert(asked.at);
                }
            }
            Ask::DeleteRecords { place, before, .. } => {
                let log = self.logs.entry(*place).or_default();
                log.deleting.insert(asked.call, u64::try_from(*before).ok());
            }
            Ask::Create { name, configs } => self.asking.entry(name.clone()).or_default().create(configs),
            Ask::Configure { name, changes } => {
                self.asking.entry(name.clone()).or_default().configure(asked.call, changes);
            }
            _ => {}
        }
        if let Some(place) = asked.place() {
            let words = self.logs.get(&place).map_or(0, |log| log.words.len());
            self.asked.insert(asked.call, words);
        }
    }

    fn told(&mut self, at: Duration, asked: &Asked, told: &Told, found: &mut Found) {
        let known = self.asked.remove(&asked.call).unwrap_or_default();
        match (&asked.ask, told) {
            (_, Told::Topics(topics)) => {
                self.names.extend(topics.iter().map(|(name, id, _)| (*id, name.clone())));
            }
            (Ask::Create { name, .. }, Told::Created(id)) => {
                self.names.insert(*id, name.clone());
            }
            (Ask::Configure { name, changes }, _) => {
                if let Some(asking) = self.asking.get_mut(name) {
                    asking.told(asked.call, changes, told);
                }
                if matches!(told, Told::Configured) {
                    self.configured.insert(name.clone(), at);
                }
            }
            (Ask::DeleteRecords { place, .. }, _) => {
                self.logs.entry(*place).or_default().told_of_a_deletion(asked.call, told);
            }
            _ => {}
        }
        let (Some(place), Some(start)) = (asked.place(), told_start(asked, told)) else { return };
        let text = format!("{asked}, told at {at:?}");
        let Ok(start) = u64::try_from(start) else {
            found.tell(
                ID,
                at,
                format!("a log starts somewhere: {text}: {place} is said to start at {start}"),
            );
            return;
        };
        if let Some(why) = contradiction(asked, told, start) {
            found.tell(ID, at, format!("{text}: {place} is said to start at {start}, and {why}"));
        }
        let log = self.logs.entry(place).or_default();
        if let Some(high) = told_end(told) {
            log.high = log.high.max(high);
        }
        if log.claims.last().is_none_or(|claim| claim.start < start) {
            log.claims.push(Claim { start, at, told: text.clone() });
        }
        if let Some(said) = said(asked, told) {
            log.hear(at, place, known, Word { said, node: asked.node, start, told: text }, found);
        }
    }

    fn stands(&mut self, at: Duration, stands: &Stands<'_>, found: &mut Found) {
        let Stands { place, standing, before: Before::Nothing, .. } = stands else { return };
        let batch = &standing.batch;
        let newest = newest(batch, standing.stamp);
        let log = self.logs.entry(*place).or_default();
        log.open.remove(&name(batch));
        let (end, bytes) = (standing.end(), batch.bytes);
        let sent = log.sent.get(&name(batch)).copied().unwrap_or_default();
        log.known.insert(standing.base, Standing { end, newest, bytes, sent, at });
        // Who wrote it hears of it later than of those who read behind it.
        if end <= log.judged {
            let rule = self.rule(*place);
            let log = &self.logs[place];
            if let Some(why) = log.not_expired(standing.base, rule, log.judged_at, &self.walls)
                && end > log.deleted_at_most()
            {
                let what =
                    format!("a log starts where it may: {stands}, and {place} starts behind it, but {why}");
                found.tell(ID, at, what);
            }
        }
    }

    fn sight(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Wall { oldest, newest } => self.walls.see(at, *oldest, *newest),
            Sight::Opened { node, .. } | Sight::Ended { node } => {
                self.replicas.retain(|(of, _), _| of != node);
            }
            // One that is started again goes on from its checkpoint, or from a peer's, and applies the rest once more.
            Sight::Removed { node, group, .. } | Sight::Restarted { node, group, .. } => {
                self.replicas.remove(&(*node, *group));
            }
            Sight::Applied { node, group, next, readable, .. } => {
                let (start, end) = (readable.start.0, readable.end.0);
                let before = self.replicas.insert((*node, *group), start).unwrap_or_default();
                let why = if start < before {
                    Some(format!("it was at {before}, and a log start never falls"))
                } else if start > end {
                    Some(format!("the log ends at {end}"))
                } else if let Some((at, other)) = self.differs(*group, *next, start) {
                    Some(format!(
                        "with all entries before {next} applied, and it was {other} where all before {at} were"
                    ))
                } else {
                    self.starts.place(*group).and_then(|place| self.rises(at, place, start, end))
                };
                if let Some(why) = why {
                    let what = format!(
                        "a log starts where it may: the log start of group {group} is {start} on node {node}, but {why}"
                    );
                    found.tell(ID, at, what);
                }
            }
            Sight::Settled { oldest, whole_for } if *whole_for >= LATE_MAX => {
                self.settled(at, *oldest, found)
            }
            _ => {}
        }
    }

    /// What a replica made of more entries and has an earlier start, or of fewer and has a later one: entries alone
    /// raise it. Two that made of the same entries what is not the same break O-04.
    fn differs(&mut self, group: GroupId, next: LogIndex, start: u64) -> Option<(LogIndex, u64)> {
        let known = self.by_entry.entry(group).or_default();
        let before = known.range(..next).next_back().map(|(at, start)| (*at, *start));
        let later =
            known.range(next.next()..).find(|(_, later)| **later < start).map(|(at, later)| (*at, *later));
        if before.is_none_or(|(_, before)| before < start) {
            let here = known.entry(next).or_insert(start);
            *here = start.max(*here);
        }
        before.filter(|(_, before)| *before > start).or(later)
    }

    /// A replica's log starts there; what is wrong with that.
    fn rises(&mut self, at: Duration, place: Place, start: u64, end: u64) -> Option<String> {
        let log = self.logs.entry(place).or_default();
        log.high = log.high.max(end);
        if log.applied.is_none_or(|highest| highest < start) {
            (log.applied, log.applied_at) = (Some(start), at);
        }
        let why = self.why_not(place, start);
        let log = self.logs.entry(place).or_default();
        if log.judged < start {
            (log.judged, log.judged_at) = (start, self.walls.latest());
        }
        why
    }

    /// The tightest rule that may have been in force.
    fn rule(&self, place: Place) -> Rule {
        let asking = self.names.get(&place.topic).and_then(|name| self.asking.get(name));
        asking.map_or_else(Rule::default, Asking::tightest)
    }

    /// Why a log must not start there yet, if it must not.
    fn why_not(&self, place: Place, start: u64) -> Option<String> {
        let log = self.logs.get(&place)?;
        let from = log.judged.max(log.deleted_at_most());
        if start <= from {
            return None;
        }
        let rule = self.rule(place);
        let mut next = from;
        let mut unknown = 0;
        for (base, batch) in log.known.range(..start).filter(|(_, batch)| batch.end > from) {
            unknown += base.saturating_sub(next);
            next = batch.end;
            if batch.end > start {
                let within = format!(
                    "a batch stands at {base}..{}, and nobody asked to delete a part of it",
                    batch.end
                );
                return Some(within);
            }
            if let Some(why) = log.not_expired(*base, rule, self.walls.latest(), &self.walls) {
                return Some(why);
            }
        }
        unknown += start.saturating_sub(next);
        let sent = log.open.values().map(|(records, _)| records).sum::<u64>();
        (unknown > sent).then(|| {
            format!("of {unknown} records before that nobody knows what they were, and {sent} have no answer")
        })
    }

    /// Everything was whole for a while: what has expired is gone.
    fn settled(&self, at: Duration, oldest: i64, found: &mut Found) {
        for (place, log) in &self.logs {
            let Some(start) = log.applied.filter(|_| self.starts.exists(*place)) else { continue };
            let Some(name) = self.names.get(&place.topic) else { continue };
            let asking = self.asking.get(name);
            let Some(rule) = asking.map_or_else(|| Some(Rule::default()), Asking::in_force) else { continue };
            if self.configured.get(name).is_some_and(|then| at < *then + LATE_MAX) {
                // A leader follows a change when it hears of it.
                continue;
            }
            let first = log.known.range(..=start).next_back().filter(|(_, batch)| batch.end > start);
            let Some((base, batch)) = first.filter(|(_, batch)| batch.at + LATE_MAX <= at) else { continue };
            let late = i64::try_from(LATE_MAX.as_millis()).unwrap_or(i64::MAX);
            let behind = log.known.range(batch.end..).map(|(_, batch)| batch);
            let behind =
                behind.filter(|batch| batch.at + LATE_MAX <= at).map(|batch| batch.bytes).sum::<u64>();
            let expired = |batch: &Standing| {
                // When it was appended, no clock had told a later time.
                let newest = batch.newest.or_else(|| self.walls.latest_until(batch.at));
                rule.ms
                    .zip(newest)
                    .is_some_and(|(ms, newest)| newest.saturating_add(ms).saturating_add(late) <= oldest)
            };
            // What stood before it and had not expired may have held it until just now.
            let by_time =
                expired(batch) && (log.applied_at + LATE_MAX <= at || log.all_before(start, expired));
            let by_bytes = rule.bytes.is_some_and(|bytes| behind >= bytes.saturating_add(BATCH_BYTES_MAX));
            if by_time || by_bytes {
                let what = format!(
                    "nothing grows without a bound: {place} still starts at {start}, with a batch at {base}..{} {}, \
                     {behind} bytes behind it, and {rule} in force; the clock furthest behind shows {oldest}",
                    batch.end,
                    batch.time(&self.walls)
                );
                found.tell(STAYS, at, what);
            }
        }
    }
}

impl Standing {
    /// The earliest time from which its age may count; where no clock was seen, any.
    fn earliest(&self, walls: &Walls) -> i64 {
        self.newest.or_else(|| walls.earliest_between(self.sent, self.at)).unwrap_or(i64::MIN)
    }

    /// From what time its age counts, for people.
    fn time(&self, walls: &Walls) -> String {
        match self.newest {
            Some(newest) => format!("of the time {newest}"),
            None => {
                let by = walls.latest_until(self.at).or_else(|| walls.latest()).unwrap_or(i64::MAX);
                format!("without a timestamp, appended between {} and {by}", self.earliest(walls))
            }
        }
    }
}

impl Log {
    /// Why a batch must stay, if it must; `wall` is the latest time that a wall clock had shown.
    fn not_expired(&self, base: u64, rule: Rule, wall: Option<i64>, walls: &Walls) -> Option<String> {
        let batch = self.known.get(&base)?;
        let known = self.known.range(batch.end..).map(|(_, batch)| batch.bytes).sum::<u64>();
        // Whatever has no answer may stand there.
        let behind = known + self.open.values().map(|(_, bytes)| bytes).sum::<u64>();
        if rule.lets_go(batch.earliest(walls), behind, wall) {
            return None;
        }
        let clock =
            wall.map_or_else(|| "no clock".to_owned(), |wall| format!("the latest clock, at {wall},"));
        Some(format!(
            "the batch at {base}..{} has not expired: it is {}, at most {behind} bytes stand behind it, and {clock} and \
             {rule} keep it",
            batch.end,
            batch.time(walls)
        ))
    }

    /// Whether all that stood below is known, and `is` so.
    fn all_before(&self, start: u64, is: impl Fn(&Standing) -> bool) -> bool {
        let mut next = 0;
        for (base, batch) in self.known.range(..start) {
            if *base > next || !is(batch) {
                return false;
            }
            next = batch.end;
        }
        next >= start
    }

    /// All below may have been deleted as somebody asked; never what can be read yet.
    fn deleted_at_most(&self) -> u64 {
        let open = self.deleting.values().map(|before| before.unwrap_or(self.high).min(self.high)).max();
        self.deleted.max(open.unwrap_or_default())
    }

    fn told_of_a_deletion(&mut self, call: u64, told: &Told) {
        match told {
            Told::RecordsDeleted { log_start } => {
                let start = u64::try_from(*log_start).unwrap_or_default();
                if let Some(before) = self.deleting.remove(&call) {
                    self.deleted = self.deleted.max(before.unwrap_or(start).min(start));
                }
            }
            Told::Refused { .. } | Told::Unreached => {
                self.deleting.remove(&call);
            }
            // What nobody knows the outcome of may yet be done.
            _ => {}
        }
    }

    /// `known` words were told before this one was asked for.
    fn hear(&mut self, at: Duration, place: Place, known: usize, word: Word, found: &mut Found) {
        let mut tell = |lower: &str, higher: &str| {
            let what = format!("a log start never falls: {place} was said to start at {higher}, but {lower}");
            found.tell(ID, at, what);
        };
        let text = |start: u64, told: &str| format!("at {start}, {told}");
        if let Said::Leading(epoch) = word.said {
            let binds = |number: usize, earlier: &Word| {
                let before = number < known;
                match earlier.said {
                    Said::Leading(said) => said < epoch || (before && said == epoch),
                    Said::Deleting => before && earlier.node == word.node,
                }
            };
            let mut words = self.words.iter().enumerate();
            if let Some((_, earlier)) =
                words.find(|(number, earlier)| earlier.start > word.start && binds(*number, earlier))
            {
                tell(&text(word.start, &word.told), &text(earlier.start, &earlier.told));
            }
            let later =
                self.lowest.range(epoch.saturating_add(1)..).find(|(_, (start, _))| *start < word.start);
            if let Some((_, (start, told))) = later {
                tell(&text(*start, told), &text(word.start, &word.told));
            }
            let lowest = self.lowest.entry(epoch).or_insert_with(|| (word.start, word.told.clone()));
            if word.start < lowest.0 {
                *lowest = (word.start, word.told.clone());
            }
        }
        let is_higher = |earlier: &Word| {
            earlier.start >= word.start && (earlier.said, earlier.node) == (word.said, word.node)
        };
        if !self.words.iter().any(is_higher) {
            self.words.push(word);
        }
    }
}

/// The largest timestamp of a batch, or what its leader has stamped it with; `None` if it has none.
fn newest(batch: &Batch, stamp: Option<i64>) -> Option<i64> {
    let newest = stamp.or_else(|| batch.times.iter().copied().max()).unwrap_or(i64::MIN);
    Some(newest).filter(|newest| *newest != NO_TIMESTAMP)
}

fn name(batch: &Batch) -> Name {
    (batch.producer, batch.epoch, batch.sequence, batch.crc)
}

/// The end of the log that an answer tells beside its start.
fn told_end(told: &Told) -> Option<u64> {
    match told {
        Told::Fetched { high_watermark, .. }
        | Told::Refused { code: ErrorCode::OffsetOutOfRange, high_watermark, .. } => {
            u64::try_from(*high_watermark).ok()
        }
        _ => None,
    }
}

/// What is wrong with an answer by itself, which tells a log start.
fn contradiction(asked: &Asked, told: &Told, start: u64) -> Option<String> {
    if let Some(end) = told_end(told).filter(|end| *end < start) {
        return Some(format!("to end at {end}"));
    }
    match (&asked.ask, told) {
        (Ask::Fetch { offset, .. }, Told::Fetched { .. }) => {
            let below = u64::try_from(*offset).is_ok_and(|offset| offset < start);
            below.then(|| format!("a fetch from {offset} is not refused"))
        }
        (Ask::DeleteRecords { before, .. }, Told::RecordsDeleted { .. }) => {
            let stays = u64::try_from(*before).is_ok_and(|before| start < before);
            stays.then(|| format!("all before {before} is said to be deleted"))
        }
        _ => None,
    }
}

/// As what an answer tells a log start; `None` if that binds nobody: who answers a produce may lead no more.
fn said(asked: &Asked, told: &Told) -> Option<Said> {
    match told {
        Told::Fetched { epoch, .. } | Told::Found { epoch, .. } => Some(Said::Leading(*epoch)),
        Told::Refused { .. } => Some(asked.epoch()).filter(|epoch| *epoch >= 0).map(Said::Leading),
        Told::RecordsDeleted { .. } => Some(Said::Deleting),
        _ => None,
    }
}
