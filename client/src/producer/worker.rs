//! Sends one partition's batches, several in flight, in order, until each has ended.
//!
//! When an attempt fails, nothing more is sent until all attempts under way have ended; then the leader is looked up,
//! and what is unanswered is sent again in order, with the same producer id and sequences. So there is one rule for
//! every kind of trouble, and a server never gets a batch before one that precedes it.
//!
//! Until the first batch under a producer id is acknowledged it is alone in flight: a server takes whatever sequence
//! it sees first from an unknown producer id, and must not see the second batch first. So is the first one after a long
//! pause, in which servers may have forgotten the id.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{ProducerStamp, stamp_producer};
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::env::{Mark, Moment, Point};
use quorate_proto::ids::{LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use quorate_proto::v1;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use super::{Shared, Topic};
use crate::accumulator::{Completer, Filled, Queue, Written};
use crate::error::Reason;
use crate::leaders::{LeaderAt, LookupError, TopicView, leader_lost, no_leader, refusal};
use crate::retry::Backoff;

/// An attempt without an answer for so long makes us look whether somebody else leads by now.
const SLOW: Duration = Duration::from_millis(500);
/// A topic that all servers deny for so long is gone. Shorter, and a server that lags behind could make it so.
pub(super) const MISSING: Duration = Duration::from_secs(2);
/// What a server gets beyond the time that we ask it to answer in.
const GRACE: Duration = Duration::from_millis(500);
/// So often may the oldest batch be told that one before it is missing, which is not so.
const OUT_OF_ORDER_MAX: u32 = 8;
/// For so long after an acknowledgement servers surely know a producer id still: they forget one after days.
const KNOWN: Duration = Duration::from_secs(60 * 60);
/// How soon an attempt is given up, where a [`Point`] does so.
const IMPATIENCE: Duration = Duration::from_millis(2);

/// What stands in the way while nothing else is known to.
const NO_ANSWER: &str = "no answer yet";
/// A majority must agree on each block of ids.
const NO_PRODUCER_ID: &str = "no server has given a producer id yet: see whether a majority of nodes runs";
/// How a server's word begins that there is none.
const NO_ID_AS: &str = "no producer id: ";

/// A batch that has its sequence, or is about to get one.
struct Flight {
    /// Running number in this partition.
    number: u64,
    batch: Bytes,
    records: u32,
    /// `None`: sent under no producer id yet, or the one it was sent under was given up.
    stamp: Option<ProducerStamp>,
    opened_at: Moment,
    completer: Completer,
    _room: OwnedSemaphorePermit,
    /// The attempt under way.
    attempt: Option<Attempt>,
    /// To whom it was sent last.
    sent_to: Option<NodeId>,
    /// How often a server missed an earlier batch when there was none.
    out_of_order: u32,
    /// It ends with this as soon as all before it have ended.
    verdict: Option<Reason>,
}

#[derive(Clone, Copy)]
struct Attempt {
    number: u64,
    sent_at: Moment,
}

/// Under which producer id this partition writes.
struct Writer {
    id: ProducerId,
    epoch: ProducerEpoch,
    next: Sequence,
    /// When a batch under it was acknowledged last, so that servers know it.
    acknowledged_at: Option<Moment>,
}

impl Writer {
    /// Whether servers surely know it.
    fn is_proven(&self, now: Moment) -> bool {
        self.acknowledged_at.is_some_and(|at| now.since(at) < KNOWN)
    }
}

/// To whom batches were sent last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Addressee {
    node: NodeId,
    epoch: LeaderEpoch,
}

/// Nothing is sent while there is trouble. When no attempt is under way any more, it is looked into.
#[derive(Clone, Copy)]
struct Trouble {
    /// Whether to ask who leads.
    look_up: bool,
    /// Whether to pause first.
    pause: bool,
}

/// What came of looking into it.
struct Findings {
    writer: Option<Result<(ProducerId, ProducerEpoch), String>>,
    view: Option<Result<Arc<TopicView>, LookupError>>,
}

type Ended = (u64, Result<Reply, CallError>);

pub(super) struct Worker {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    queue: Arc<Queue>,
    in_flight: VecDeque<Flight>,
    /// How many batches ever got a place in flight.
    boarded: u64,
    attempts: FuturesUnordered<BoxFuture<'static, Ended>>,
    attempt_number: u64,
    writer: Option<Writer>,
    /// Whether a producer id of this producer was given up here, so that the shared one does not do.
    bumped: bool,
    addressee: Option<Addressee>,
    trouble: Option<Trouble>,
    inquiry: Option<BoxFuture<'static, Findings>>,
    /// A look whether somebody else leads, while attempts are slow; not before `probe_at`.
    probe: Option<BoxFuture<'static, ()>>,
    probe_at: Moment,
    backoff: Backoff,
    /// Since when all servers deny the topic.
    missing_since: Option<Moment>,
    /// Another topic has its name.
    gone: bool,
    /// What stood in the way last, for the message of a time-out.
    last: String,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, topic: Arc<Topic>, queue: Arc<Queue>) -> Self {
        let config = shared.leaders.config();
        let backoff = Backoff::new(config.backoff_min, config.backoff_max);
        Self {
            topic,
            queue,
            in_flight: VecDeque::new(),
            boarded: 0,
            attempts: FuturesUnordered::new(),
            attempt_number: 0,
            writer: None,
            bumped: false,
            addressee: None,
            trouble: None,
            inquiry: None,
            probe: None,
            probe_at: Moment::default(),
            backoff,
            missing_since: None,
            gone: false,
            last: NO_ANSWER.to_owned(),
            shared,
        }
    }

    /// Runs until the topic is gone, or its queue is closed and nothing is in flight, or until it is dropped: then what
    /// has not ended fails as closed.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.shared.env.now();
            self.expire(now);
            if !self.advance(now) {
                return;
            }
            let timer = self.timer(now);
            let sleep = async {
                match timer {
                    Some(at) => self.shared.env.clock.sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((number, answer)) = self.attempts.next(), if !self.attempts.is_empty() => {
                    self.answered(number, answer);
                }
                findings = poll(&mut self.inquiry) => {
                    self.inquiry = None;
                    self.found(findings);
                }
                () = poll(&mut self.probe) => {
                    self.probe = None;
                    self.probed();
                }
                () = self.queue.changed.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// The next moment at which something must be done without being told.
    fn timer(&self, now: Moment) -> Option<Moment> {
        let config = &self.shared.config;
        let oldest = self.in_flight.front().map(|flight| flight.opened_at).or_else(|| self.queue.oldest());
        let deadline = oldest.map(|opened_at| opened_at + config.delivery_timeout);
        let linger = (self.trouble.is_none() && self.has_place(now))
            .then(|| self.queue.oldest())
            .flatten()
            .map(|opened_at| opened_at + config.linger)
            .filter(|at| *at > now);
        let slow = self.oldest_attempt().filter(|_| self.probe.is_none());
        let slow = slow.map(|sent_at| (sent_at + SLOW).max(self.probe_at));
        [deadline, linger, slow].into_iter().flatten().min()
    }

    fn oldest_attempt(&self) -> Option<Moment> {
        self.in_flight.iter().filter_map(|flight| flight.attempt).map(|attempt| attempt.sent_at).min()
    }

    /// Whether a new batch may be sent: counted from the oldest without an answer, for servers recognise a retry of
    /// their last five only, whether or not the later ones have their answers.
    fn has_place(&self, now: Moment) -> bool {
        let proven = self.writer.as_ref().is_some_and(|writer| writer.is_proven(now));
        let most = if proven { self.shared.config.in_flight_max } else { 1 };
        let span = self.in_flight.front().map_or(0, |oldest| self.boarded - oldest.number);
        span < u64::try_from(most).unwrap_or(u64::MAX)
    }

    /// Ends what is too old. Only the oldest batch can be: they are in the order in which they were opened.
    fn expire(&mut self, now: Moment) {
        let after = self.shared.config.delivery_timeout;
        if now.0 < after {
            return;
        }
        let oldest = now - after;
        self.note_silence(now);
        while self.in_flight.front().is_some_and(|flight| flight.opened_at <= oldest) {
            let last = self.last.clone();
            self.give_up_front(Reason::TimedOut { after, last });
        }
        let last = &self.last;
        self.queue.expire(oldest, || Reason::TimedOut { after, last: last.clone() });
    }

    /// What stands in the way of the oldest batch is its leader's silence, if that has lasted.
    fn note_silence(&mut self, now: Moment) {
        let silent = self.in_flight.front().and_then(|flight| flight.sent_to.zip(flight.attempt));
        if let Some((leader, attempt)) = silent
            && now.since(attempt.sent_at) >= SLOW
        {
            self.last = unanswered(leader);
        }
    }

    /// Does what can be done without waiting. False when there is nothing more to do, ever.
    fn advance(&mut self, now: Moment) -> bool {
        if self.gone || self.missing_since.is_some_and(|since| now.since(since) >= MISSING) {
            self.end_gone();
            return false;
        }
        // What is under way has its answer first: it may have been taken before.
        let closed = if self.attempts.is_empty() { self.queue.closed() } else { None };
        match closed {
            // Another one has found the topic gone.
            Some(Reason::TopicDeleted { .. }) => {
                self.end_gone();
                return false;
            }
            Some(_closed) if self.in_flight.is_empty() => return false,
            Some(_) | None => {}
        }
        while self.attempts.is_empty()
            && let Some(reason) = self.in_flight.front_mut().and_then(|flight| flight.verdict.take())
        {
            self.give_up_front(reason);
        }
        if self.trouble.is_none() && self.wants_to_send(now) {
            self.send(now);
        }
        if let Some(trouble) = self.trouble
            && self.attempts.is_empty()
            && self.inquiry.is_none()
        {
            self.inquire(trouble);
        }
        if self.probe.is_none()
            && let Some(sent_at) = self.oldest_attempt()
            && now >= (sent_at + SLOW).max(self.probe_at)
        {
            let (leaders, name) = (Arc::clone(&self.shared.leaders), self.topic.name.clone());
            self.probe_at = now + SLOW;
            self.probe = Some(Box::pin(async move {
                // What it found stands in the cache. One look-up is of all topics, and so for all workers whose
                // attempts are slow; our own last one is older than half of it.
                let _seen_there = leaders.refresh_older_than(&name, SLOW / 2).await.is_ok();
            }));
        }
        true
    }

    fn wants_to_send(&self, now: Moment) -> bool {
        let idle = |flight: &Flight| flight.attempt.is_none() && flight.verdict.is_none();
        let due = |opened_at: Moment| now >= opened_at + self.shared.config.linger;
        self.in_flight.iter().any(idle)
            || (self.has_place(now) && (self.queue.has_sealed() || self.queue.oldest().is_some_and(due)))
    }

    /// Sends what is unanswered, in order, then new batches as far as there are places.
    fn send(&mut self, now: Moment) {
        if self.writer.is_none() {
            self.trouble = Some(Trouble { look_up: false, pause: false });
            return;
        }
        let leader = self.shared.leaders.leader(&self.topic.name, self.topic.id, self.queue.partition);
        let leader = leader.filter(|_| !self.shared.env.perturb(Point::ProducerForgetsTheLeader));
        let Some(leader) = leader else {
            self.last = no_leader(&self.topic.name, self.queue.partition);
            let pause = self.addressee.take().is_some();
            self.trouble = Some(Trouble { look_up: true, pause });
            return;
        };
        self.addressee = Some(Addressee { node: leader.node, epoch: leader.epoch });
        let proven = self.writer.as_ref().is_some_and(|writer| writer.is_proven(now));
        for at in 0..self.in_flight.len() {
            if self.in_flight[at].verdict.is_some() || (at > 0 && !proven) {
                // What comes after a refused batch waits until that has ended, for it may need another producer id.
                return;
            }
            if self.in_flight[at].attempt.is_none() {
                self.attempt(at, &leader, now);
            }
        }
        while self.has_place(now) {
            let hasty = self.shared.env.perturb(Point::LingerCutShort);
            let linger = if hasty { Duration::ZERO } else { self.shared.config.linger };
            let Some(filled) = self.queue.take(now, linger) else { return };
            self.board(filled);
            self.attempt(self.in_flight.len() - 1, &leader, now);
            // Its answer brings us back here.
            if self.shared.env.perturb(Point::BatchesSentOneAtATime) {
                return;
            }
        }
    }

    /// Gives a new batch a place in flight and its sequence.
    fn board(&mut self, filled: Filled) {
        let Filled { builder, completer, opened_at, room } = filled;
        let records = builder.records();
        let stamp = self.next_stamp(records);
        let batch = builder.finish(self.shared.config.compression, stamp);
        let number = self.boarded;
        self.boarded += 1;
        self.in_flight.push_back(Flight {
            number,
            batch,
            records,
            stamp: Some(stamp),
            opened_at,
            completer,
            _room: room,
            attempt: None,
            sent_to: None,
            out_of_order: 0,
            verdict: None,
        });
    }

    fn next_stamp(&mut self, records: u32) -> ProducerStamp {
        let writer = self.writer.as_mut().expect("nothing is sent without a producer id");
        let stamp = ProducerStamp { id: writer.id, epoch: writer.epoch, sequence: writer.next };
        writer.next = writer.next.plus(records);
        stamp
    }

    fn attempt(&mut self, at: usize, leader: &LeaderAt, now: Moment) {
        if self.in_flight[at].stamp.is_none() {
            let stamp = self.next_stamp(self.in_flight[at].records);
            let mut batch = BytesMut::from(&self.in_flight[at].batch[..]);
            stamp_producer(&mut batch, stamp);
            self.in_flight[at].batch = batch.freeze();
            self.in_flight[at].stamp = Some(stamp);
        }
        let flight = &mut self.in_flight[at];
        if let Some(before) = flight.sent_to.replace(leader.node) {
            self.shared.env.reached(match before == leader.node {
                true => Mark::ProducerRetried,
                false => Mark::ProducerRetriedAcrossTwoLeaders,
            });
        }
        self.attempt_number += 1;
        let number = self.attempt_number;
        flight.attempt = Some(Attempt { number, sent_at: now });
        flight.completer.under_way = true;
        let left = (flight.opened_at + self.shared.config.delivery_timeout).since(now);
        let timeout = self.shared.leaders.config().request_timeout.min(left);
        let request = v1::ProduceRequest {
            correlation: 0,
            topic_id: self.topic.id.to_wire(),
            partition: self.queue.partition.0,
            leader_epoch: leader.epoch.0,
            batch: flight.batch.clone(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        let address = leader.channel.address().to_owned();
        let answer = leader.channel.call(Call::Produce(request));
        let env = self.shared.env.clone();
        let patience = if env.perturb(Point::ProduceGivenUp) { IMPATIENCE } else { timeout + GRACE };
        self.attempts.push(Box::pin(async move {
            let answer = env.timeout(patience, answer).await.unwrap_or_else(|_elapsed| {
                let reason = format!("no answer within {} ms", timeout.as_millis());
                Err(CallError::Lost { address, reason })
            });
            (number, answer)
        }));
    }

    /// An attempt has ended.
    fn answered(&mut self, number: u64, answer: Result<Reply, CallError>) {
        let is_it = |flight: &Flight| flight.attempt.is_some_and(|attempt| attempt.number == number);
        let Some(at) = self.in_flight.iter().position(is_it) else { return };
        let flight = &mut self.in_flight[at];
        flight.attempt = None;
        flight.completer.under_way = false;
        match answer {
            Ok(Reply::Produce(response)) => self.judge(at, response),
            Ok(_) => {
                flight.completer.perhaps_written = true;
                self.stumble("a server answered another question".to_owned(), true, true);
            }
            Err(error) => {
                flight.completer.perhaps_written |= matches!(error, CallError::Lost { .. });
                self.shared.env.reached(Mark::ProduceAnswerLost);
                self.stumble(leader_lost(&error), true, true);
            }
        }
    }

    /// What an answer means for the batch at `at`.
    fn judge(&mut self, at: usize, response: v1::ProduceResponse) {
        let code = response.error();
        if code == ErrorCode::None {
            self.acknowledge(at, &response);
            return;
        }
        let flight = &mut self.in_flight[at];
        flight.completer.perhaps_written |= code.is_unknown_outcome();
        let message = refusal(code, &response.message);
        debug!(
            topic = %self.topic.name,
            partition = %self.queue.partition,
            code = code.as_str_name(),
            message,
            "a batch was not taken"
        );
        match code {
            ErrorCode::NotLeader | ErrorCode::FencedLeaderEpoch => {
                let (name, id) = (&self.topic.name, self.topic.id);
                let (leader, epoch) = (response.leader, response.leader_epoch);
                self.shared.leaders.hint(name, id, self.queue.partition, leader, epoch);
                self.stumble(message, true, true);
            }
            ErrorCode::UnknownOutcome
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::NotAvailable
            | ErrorCode::NotReady
            | ErrorCode::DiskFull
            | ErrorCode::UnknownTopic
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownPartition => self.stumble(message, true, true),
            ErrorCode::Overloaded => self.stumble(message, false, true),
            ErrorCode::OutOfOrderSequence => {
                if at == 0 {
                    flight.out_of_order += 1;
                    if flight.out_of_order > OUT_OF_ORDER_MAX {
                        flight.verdict = Some(Reason::Refused { code, message: message.clone() });
                    }
                }
                // One that is behind another was refused for what keeps that one from being taken, which is told.
                let message = if at == 0 || self.trouble.is_none() { message } else { self.last.clone() };
                self.stumble(message, at == 0, at == 0);
            }
            ErrorCode::DuplicateSequence => {
                // It stands in the log, at an offset that the server has forgotten.
                flight.completer.perhaps_written = true;
                flight.verdict = Some(Reason::Refused { code, message: message.clone() });
                self.stumble(message, false, false);
            }
            ErrorCode::BatchTooLarge => {
                // As it was compressed, or as its topic was set before: uncompressed, the producer judges itself, by
                // what it looks up now.
                let message = format!("{message}: raise max.message.bytes of the topic");
                flight.verdict = Some(Reason::Refused { code, message: message.clone() });
                self.stumble(message, true, false);
            }
            ErrorCode::None
            | ErrorCode::TopicExists
            | ErrorCode::InvalidTopicName
            | ErrorCode::InvalidPartitions
            | ErrorCode::InvalidReplicas
            | ErrorCode::InvalidConfig
            | ErrorCode::InvalidRequest
            | ErrorCode::CorruptBatch
            | ErrorCode::InvalidTimestamp
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::OffsetOutOfRange
            | ErrorCode::CorruptData
            | ErrorCode::Internal
            | ErrorCode::UnsupportedCompression
            | ErrorCode::WrongIdentity => {
                flight.verdict = Some(Reason::Refused { code, message: message.clone() });
                self.stumble(message, false, false);
            }
        }
    }

    fn acknowledge(&mut self, at: usize, response: &v1::ProduceResponse) {
        let Ok(base_offset) = u64::try_from(response.base_offset) else {
            self.in_flight[at].completer.perhaps_written = true;
            self.stumble("a server acknowledged a batch without an offset".to_owned(), true, true);
            return;
        };
        let Some(flight) = self.in_flight.remove(at) else { return };
        self.topic.seen.fetch_add(1, Ordering::Relaxed);
        let log_append_time = response.log_append_time_ms;
        flight.completer.written(Written {
            base_offset: Offset(base_offset),
            log_append_time: (log_append_time > 0).then_some(Timestamp(log_append_time)),
        });
        if let Some(writer) = &mut self.writer
            && flight.stamp.is_some_and(|stamp| stamp.id == writer.id)
        {
            writer.acknowledged_at = Some(self.shared.env.now());
        }
        self.backoff.reset();
    }

    /// Notes trouble; what is noted already is not taken back.
    fn stumble(&mut self, what: String, look_up: bool, pause: bool) {
        self.last = what;
        let before = self.trouble.unwrap_or(Trouble { look_up: false, pause: false });
        self.trouble = Some(Trouble { look_up: before.look_up || look_up, pause: before.pause || pause });
    }

    /// Ends the oldest batch without an acknowledgement, and with it what hangs on it: see [`super::Producer`].
    fn give_up_front(&mut self, reason: Reason) {
        let Some(given_up) = self.in_flight.pop_front() else { return };
        let perhaps = given_up.completer.is_at_risk();
        warn!(
            topic = %self.topic.name,
            partition = %self.queue.partition,
            records = given_up.records,
            perhaps_written = perhaps,
            reason = %reason,
            "a batch was given up"
        );
        self.shared.env.reached(if perhaps {
            Mark::BatchPerhapsWritten
        } else {
            Mark::BatchSurelyNotWritten
        });
        given_up.completer.failed(reason.clone());
        // Answers to attempts under the old producer id mean nothing from here on.
        self.attempts = FuturesUnordered::new();
        let later = std::mem::take(&mut self.in_flight);
        for mut flight in later {
            if perhaps && flight.completer.is_at_risk() {
                flight.completer.failed(Reason::EarlierBatch(Box::new(reason.clone())));
                continue;
            }
            // Surely not written: a server takes no sequence before the one that precedes it.
            flight.completer.perhaps_written = false;
            flight.completer.under_way = false;
            flight.attempt = None;
            flight.stamp = None;
            flight.sent_to = None;
            flight.out_of_order = 0;
            self.in_flight.push_back(flight);
        }
        self.writer = None;
        self.bumped = true;
        self.trouble.get_or_insert(Trouble { look_up: false, pause: false });
    }

    fn leader(&self) -> Option<Addressee> {
        let leader = self.shared.leaders.leader(&self.topic.name, self.topic.id, self.queue.partition);
        leader.map(|leader| Addressee { node: leader.node, epoch: leader.epoch })
    }

    /// Asks for what is missing: a producer id, or who leads.
    fn inquire(&mut self, trouble: Trouble) {
        // Word of another leader than the one that failed is followed at once.
        let leader = self.leader();
        let moved = leader.is_some() && leader != self.addressee && self.addressee.is_some();
        let trouble = if moved { Trouble { look_up: false, pause: false } } else { trouble };
        let pause = if trouble.pause { self.backoff.pause(&self.shared.env) } else { Duration::ZERO };
        let (shared, topic) = (Arc::clone(&self.shared), Arc::clone(&self.topic));
        let (wants_writer, bumped) = (self.writer.is_none(), self.bumped);
        if wants_writer && self.last == NO_ANSWER {
            self.last = NO_PRODUCER_ID.to_owned();
        }
        self.inquiry = Some(Box::pin(async move {
            if !pause.is_zero() {
                shared.env.sleep(pause).await;
            }
            let view = if trouble.look_up { Some(shared.leaders.refresh(&topic.name).await) } else { None };
            let writer = if wants_writer { Some(shared.writer(&topic, bumped).await) } else { None };
            Findings { writer, view }
        }));
    }

    fn found(&mut self, findings: Findings) {
        let again = Trouble { look_up: false, pause: true };
        self.trouble = None;
        match findings.writer {
            Some(Ok((id, epoch))) => {
                self.writer = Some(Writer { id, epoch, next: Sequence(0), acknowledged_at: None });
                // Whatever else stood in the way may do so still.
                if self.last == NO_PRODUCER_ID || self.last.starts_with(NO_ID_AS) {
                    self.last = NO_ANSWER.to_owned();
                }
            }
            Some(Err(reason)) => {
                self.last = reason;
                self.trouble = Some(again);
            }
            None => {}
        }
        match findings.view {
            Some(Ok(view)) if view.id != self.topic.id => self.gone = true,
            Some(Err(LookupError::UnknownTopic)) => {
                self.missing_since.get_or_insert(self.shared.env.now());
                self.trouble = Some(Trouble { look_up: true, ..again });
            }
            Some(Err(error)) => {
                // Not denied by all who were asked.
                self.missing_since = None;
                self.last = error.to_string();
                self.trouble = Some(Trouble { look_up: true, ..again });
            }
            Some(Ok(_view)) => {
                self.topic.seen.fetch_add(1, Ordering::Relaxed);
                self.missing_since = None;
                let found = self.leader();
                if found.is_none() || found == self.addressee {
                    // Perhaps the server that we asked does not know better.
                    self.shared.leaders.ask_elsewhere();
                }
                if found.is_none() {
                    self.last = no_leader(&self.topic.name, self.queue.partition);
                    self.trouble = Some(Trouble { look_up: true, ..again });
                }
            }
            None => {}
        }
    }

    /// Attempts are slow. If somebody else leads by now, the old leader's answers are not worth waiting for.
    fn probed(&mut self) {
        let newer = self
            .leader()
            .is_some_and(|leader| self.addressee.is_some_and(|addressee| leader.epoch > addressee.epoch));
        if !newer || self.attempts.is_empty() {
            return;
        }
        self.attempts = FuturesUnordered::new();
        for flight in &mut self.in_flight {
            if flight.attempt.take().is_some() {
                flight.completer.under_way = false;
                flight.completer.perhaps_written = true;
            }
        }
        self.shared.env.reached(Mark::SlowLeaderAbandoned);
        self.trouble = None;
        self.stumble("another node leads by now".to_owned(), false, false);
    }

    /// The topic is gone: nothing for it can be written any more.
    fn end_gone(&mut self) {
        let reason = Reason::TopicDeleted { topic: self.topic.name.clone() };
        self.shared.env.reached(Mark::ProducerFoundTheTopicGone);
        for flight in std::mem::take(&mut self.in_flight) {
            flight.completer.failed(reason.clone());
        }
        self.shared.forget(&self.topic);
        self.queue.close(&reason);
    }
}

fn unanswered(leader: NodeId) -> String {
    format!("node {leader} leads and has not answered: see whether a majority of the partition's nodes runs")
}

/// Polls what is there; waits for ever if nothing is.
async fn poll<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

impl Shared {
    /// A producer id: the topic's own, or a new one for a partition that gave that up.
    async fn writer(&self, topic: &Topic, bumped: bool) -> Result<(ProducerId, ProducerEpoch), String> {
        let new = async { self.leaders.init_producer().await.map_err(|error| format!("{NO_ID_AS}{error}")) };
        if bumped {
            return new.await;
        }
        let mut drawn = topic.writer.lock().await;
        if let Some(writer) = *drawn {
            return Ok(writer);
        }
        let writer = new.await?;
        *drawn = Some(writer);
        Ok(writer)
    }
}
