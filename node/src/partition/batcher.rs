//! The task that proposes a partition's batches: one per replica, in order of admission.
//!
//! While it leads, it assigns offsets over applied state plus what is in flight ([`Tail`]) and proposes each batch as
//! one entry, with its term as the condition, without waiting for the one before: what comes together is gathered by
//! Raft into one append, one sync and one message. After the first refusal nothing more is proposed until all that is
//! in flight has its answer; then it begins anew from applied state.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use quorate_proto::batch::{BatchHeader, stamp_log_append_time};
use quorate_proto::ids::{GroupId, Offset, Term, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use super::dedup::{Claim, LeaderFirsts};
use super::door::{Progress, Taken};
use super::machine::SharedState;
use super::tail::{Refused, Tail, Verdict};
use super::types::{ProduceError, Produced};
use super::watermark::Watermark;
use crate::env::metrics::TopicMeters;
use crate::env::{Env, Mark, Moment, Point};
use crate::metadata::{Leadership, TimestampType};
use crate::raft::{Answer, BatchAnswer, Group, Pending, Proposal, ProposeError, RaftNode, Role};
use crate::storage::{Kind, LogId};

/// A batch that passed the door.
pub(super) struct Admitted {
    pub(super) header: BatchHeader,
    /// What it was judged by at the door: its topic may be set otherwise by now.
    pub(super) timestamp_type: TimestampType,
    pub(super) claim: Claim,
    pub(super) batch: Bytes,
    pub(super) progress: Progress,
    /// When it was admitted.
    pub(super) at: Moment,
    pub(super) reply: Reply,
    pub(super) room: Taken,
}

pub(super) type Reply = oneshot::Sender<Result<Produced, ProduceError>>;

/// A batch that was proposed.
struct Flying {
    claim: Claim,
    base_offset: Offset,
    log_append_time: Option<Timestamp>,
    /// When it was proposed.
    at: Moment,
    bytes: usize,
    pending: Pending,
    /// Who sent it, and who sent it again since.
    replies: Vec<Reply>,
    _room: Taken,
}

/// What the task decides by.
enum Mode {
    /// Another node leads, or this one is not ready.
    Following,
    /// Batches are proposed.
    Leading(Tail),
    /// Something was refused, or the term is over: what is in flight must be answered first.
    Draining,
}

/// What happens to the task.
enum Event {
    RoleChanged,
    /// The oldest batch in flight has its answer. Younger ones lie behind it in the log.
    Landed(Result<(LogId, Answer), ProposeError>),
    Batch(Box<Admitted>),
    /// All handles are gone.
    Closed,
}

/// The task's state.
pub(super) struct Batcher {
    pub(super) env: Env,
    pub(super) raft: RaftNode,
    pub(super) group: Group,
    pub(super) state: SharedState,
    pub(super) watermark: Watermark,
    pub(super) firsts: Arc<Mutex<LeaderFirsts>>,
    pub(super) in_flight_max: usize,
    pub(super) meters: Arc<TopicMeters>,
}

impl Batcher {
    /// Runs until all senders of `queue` are gone and what is in flight has its answer, or the group has ended.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Admitted>) {
        let mut roles = self.group.roles();
        let mut flying: VecDeque<Flying> = VecDeque::new();
        let mut mode = self.begin(*roles.borrow_and_update());
        let mut open = true;
        while open || !flying.is_empty() {
            let event = self.next(&mut roles, &mut flying, &mut queue, open).await;
            match event {
                Event::Closed => {
                    open = false;
                    if !flying.is_empty() {
                        self.env.reached(Mark::TopicDeletedWithProducesInFlight);
                    }
                }
                Event::RoleChanged => {
                    let role = *roles.borrow_and_update();
                    let same = match (&mode, role) {
                        (Mode::Leading(tail), Role::Leader { term, ready: true }) => tail.term == term,
                        (Mode::Leading(_) | Mode::Following | Mode::Draining, _) => false,
                    };
                    if !same {
                        // Waiting fetches look again whether this node still leads.
                        self.watermark.wake_all();
                        if matches!(mode, Mode::Leading(_)) && !flying.is_empty() {
                            self.env.reached(Mark::LeaderDeposedWithAnUnackedTail);
                        }
                        mode = Mode::Draining;
                    }
                }
                Event::Landed(outcome) => {
                    let oldest = flying.pop_front().expect("only what is in flight lands");
                    let fine = self.land(&mut mode, oldest, outcome);
                    if !fine || self.env.perturb(Point::BatcherBeginsAnew) {
                        mode = Mode::Draining;
                    }
                }
                Event::Batch(admitted) => {
                    if !self.take(&mut mode, &mut flying, *admitted).await {
                        mode = Mode::Draining;
                    }
                }
            }
            if matches!(mode, Mode::Draining) && flying.is_empty() {
                mode = self.begin(*roles.borrow_and_update());
            }
        }
        debug!("batcher ended");
    }

    fn begin(&self, role: Role) -> Mode {
        match role {
            Role::Leader { term, ready: true } => {
                let tail = Tail::new(term, &self.state.lock());
                Mode::Leading(tail)
            }
            Role::Leader { ready: false, .. } | Role::Follower { .. } => Mode::Following,
        }
    }

    async fn next(
        &self,
        roles: &mut watch::Receiver<Role>,
        flying: &mut VecDeque<Flying>,
        queue: &mut mpsc::Receiver<Admitted>,
        open: bool,
    ) -> Event {
        let in_flight_max = if self.env.perturb(Point::BatcherOneInFlight) { 1 } else { self.in_flight_max };
        let room = flying.len() < in_flight_max;
        let landed = async {
            match flying.front_mut() {
                Some(oldest) => (&mut oldest.pending).await,
                None => std::future::pending().await,
            }
        };
        // What came while leadership is being handed over would be refused; then the new leader's name can be told.
        let admitted = async {
            self.group.settled().await;
            queue.recv().await
        };
        tokio::select! {
            biased;
            changed = roles.changed(), if open => match changed {
                Ok(()) => Event::RoleChanged,
                // The group has ended: nothing can be proposed any more.
                Err(_) => Event::Closed,
            },
            outcome = landed => Event::Landed(outcome),
            admitted = admitted, if open && room => match admitted {
                Some(admitted) => Event::Batch(Box::new(admitted)),
                None => Event::Closed,
            },
        }
    }

    /// Answers for a batch whose outcome is known, or known to be unknown; false if the rest must be drained.
    fn land(&self, mode: &mut Mode, batch: Flying, outcome: Result<(LogId, Answer), ProposeError>) -> bool {
        let (result, fine) = match outcome {
            Ok((_, Answer::Batch(BatchAnswer::Accepted { base_offset }))) => {
                assert_eq!(base_offset, batch.base_offset, "a batch is accepted where it was proposed");
                self.env.metrics.stage_replicate.observe(self.env.now().since(batch.at));
                self.meters.produce_batches.add(1);
                self.meters.produce_records.add(batch.claim.records.into());
                self.meters.produce_bytes.add_count(batch.bytes);
                if let Mode::Leading(tail) = mode {
                    tail.landed(batch.claim.producer);
                } else {
                    self.env.reached(Mark::BatchAcceptedAfterItsLeader);
                }
                if batch.replies.iter().all(oneshot::Sender::is_closed) {
                    self.env.reached(Mark::ProduceCommittedPastItsDeadline);
                }
                (Ok(self.produced(base_offset, batch.log_append_time)), true)
            }
            Ok((log_id, Answer::Batch(BatchAnswer::Void))) => {
                info!(index = %log_id.index, base_offset = %batch.base_offset, "entry was void");
                (Err(ProduceError::NotAvailable("another batch took its place in the log")), false)
            }
            Ok((_, Answer::Nothing | Answer::Command(_))) => {
                unreachable!("a batch is answered as a batch")
            }
            // What was queued behind it may have been appended all the same: in the wrong place, and void.
            Err(ProposeError::NotAppended { leader }) => {
                info!(base_offset = %batch.base_offset, ?leader, "proposal refused");
                self.env.reached(Mark::ProposalRefused);
                (Err(self.not_leader()), false)
            }
            Err(ProposeError::Unknown) => {
                self.env.reached(Mark::ProposalUnknown);
                (Err(ProduceError::Unknown), false)
            }
        };
        if matches!(result, Err(ProduceError::NotAvailable(_) | ProduceError::NotLeader { .. })) {
            self.firsts().refused(batch.claim, self.env.now());
        }
        for reply in batch.replies {
            // Whoever has gone does not hear it.
            drop(reply.send(result.clone()));
        }
        fine
    }

    /// Proposes a batch or answers it; false if it was refused by Raft and the rest must be drained.
    async fn take(&self, mode: &mut Mode, flying: &mut VecDeque<Flying>, admitted: Admitted) -> bool {
        if !admitted.progress.propose() {
            self.firsts().refused(admitted.claim, self.env.now());
            return true;
        }
        let tail = match mode {
            Mode::Leading(tail) if !self.env.perturb(Point::ProduceNotLeader) => tail,
            Mode::Leading(_) | Mode::Following | Mode::Draining => {
                self.firsts().refused(admitted.claim, self.env.now());
                drop(admitted.reply.send(Err(self.not_leader())));
                return true;
            }
        };
        let (claim, now) = (admitted.claim, self.env.now());
        let verdict = tail.judge(&self.state.lock(), self.firsts().as_of(claim.producer, now), claim);
        let base_offset = match verdict {
            Verdict::Propose { base_offset } => base_offset,
            Verdict::Again { base_offset, stamp } => {
                self.again(flying, admitted, base_offset, stamp);
                return true;
            }
            Verdict::Refuse(refused) => {
                debug!(producer = %admitted.claim.producer, sequence = %admitted.claim.sequence, ?refused, "batch refused");
                drop(admitted.reply.send(Err(match refused {
                    Refused::DuplicateSequence => {
                        self.env.reached(Mark::DuplicateTooOld);
                        ProduceError::DuplicateSequence
                    }
                    Refused::OutOfOrder => {
                        self.env.reached(Mark::SequenceGap);
                        ProduceError::OutOfOrder
                    }
                    Refused::InvalidEpoch { current } => {
                        ProduceError::InvalidEpoch { asked: admitted.claim.epoch, current }
                    }
                })));
                return true;
            }
        };
        // Here and not before it was queued: one that was written before gets its answer, and what was queued while there
        // was room does not fill the disk.
        if let Some((node, room)) = self.raft.full_disk(&self.group) {
            self.env.reached(Mark::ProduceRefusedFull);
            self.firsts().refused(admitted.claim, self.env.now());
            drop(admitted.reply.send(Err(ProduceError::DiskFull { node, room })));
            return true;
        }
        let appended_at = tail.stamp(self.env.wall());
        let Admitted { header, timestamp_type, claim, batch, at, reply, room, .. } = admitted;
        let (bytes, proposed_at) = (batch.len(), self.env.now());
        self.env.metrics.stage_queue.observe(proposed_at.since(at));
        let (body, max_timestamp, log_append_time) = match timestamp_type {
            TimestampType::CreateTime => (batch, header.max_timestamp, None),
            TimestampType::LogAppendTime => (stamped(batch, appended_at), appended_at, Some(appended_at)),
        };
        let proposal = Proposal {
            kind: Kind::Batch,
            base_offset,
            records: header.records,
            producer_id: claim.producer,
            producer_epoch: claim.epoch,
            sequence: claim.sequence,
            max_timestamp,
            appended_at,
            body_crc: crc32c::crc32c(&body),
            body,
        };
        match self.group.propose(tail.term, proposal).await {
            Ok(pending) => {
                tail.proposed(&self.state.lock(), claim, max_timestamp);
                self.firsts().taken(claim.producer);
                let replies = vec![reply];
                flying.push_back(Flying {
                    claim,
                    base_offset,
                    log_append_time,
                    at: proposed_at,
                    bytes,
                    pending,
                    replies,
                    _room: room,
                });
                true
            }
            Err(refused) => {
                info!(term = %tail.term, in_flight = flying.len(), leader = ?refused.leader, "proposal refused");
                self.firsts().refused(claim, self.env.now());
                drop(reply.send(Err(self.not_leader())));
                false
            }
        }
    }

    /// Answers a batch that was sent before: with the original's answer, once that has one.
    fn again(
        &self,
        flying: &mut VecDeque<Flying>,
        admitted: Admitted,
        base_offset: Offset,
        stamp: Timestamp,
    ) {
        let at = flying.partition_point(|original| original.base_offset < base_offset);
        match flying.get_mut(at) {
            Some(original) if original.base_offset == base_offset => {
                self.env.reached(Mark::DuplicateInFlight);
                original.replies.push(admitted.reply);
            }
            Some(_) | None => {
                self.env.reached(Mark::DuplicateOfApplied);
                let epoch = self.state.lock().epochs.of(base_offset);
                let (Role::Leader { term, .. } | Role::Follower { term, .. }) = self.group.role();
                if epoch.is_some_and(|epoch| epoch < term) {
                    self.env.reached(Mark::DuplicateAfterFailover);
                }
                let log_append_time = match admitted.timestamp_type {
                    TimestampType::CreateTime if stamp == admitted.header.max_timestamp => None,
                    // It bears another time than its producer gave it: the topic was set otherwise when it was written.
                    TimestampType::CreateTime | TimestampType::LogAppendTime => Some(stamp),
                };
                drop(admitted.reply.send(Ok(self.produced(base_offset, log_append_time))));
            }
        }
    }

    fn produced(&self, base_offset: Offset, log_append_time: Option<Timestamp>) -> Produced {
        let term = match self.group.role() {
            Role::Leader { term, .. } | Role::Follower { term, .. } => term,
        };
        let log_start = self.state.lock().log_start;
        Produced { base_offset, log_append_time, log_start, epoch: Term::epoch(term) }
    }

    fn not_leader(&self) -> ProduceError {
        ProduceError::NotLeader { leader: heard(&self.raft, &self.group) }
    }

    fn firsts(&self) -> std::sync::MutexGuard<'_, LeaderFirsts> {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who leads a group, by the nodes' beats.
pub(super) fn told(raft: &RaftNode, group: GroupId) -> Option<Leadership> {
    raft.leadership(group).map(|told| Leadership { term: told.term, leader: told.leader })
}

/// The newest leadership of a group that this node has heard of.
pub(super) fn heard(raft: &RaftNode, group: &Group) -> Option<Leadership> {
    let told = told(raft, group.id());
    match group.role() {
        Role::Follower { leader: Some(leader), term } if told.is_none_or(|told| told.term < term) => {
            Some(Leadership { term, leader })
        }
        Role::Follower { .. } | Role::Leader { .. } => told,
    }
}

fn stamped(batch: Bytes, now: Timestamp) -> Bytes {
    let mut bytes = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
    stamp_log_append_time(&mut bytes, now);
    bytes.freeze()
}
