//! The follower's side of replication: each leader's appends of one group reach openraft in order, as one stream.
//!
//! A session is one stream of a leader. Another one of the same leader ends it, and so does the first append that is
//! not a success; what comes of an ended session is refused, and the leader begins again.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Incarnation, NodeId};
use tokio::sync::{mpsc, oneshot};

use super::convert::{Append, Appended};
use super::identity::Refusal;
use crate::env::{Mark, Point};
use crate::raft::config::SESSION_REQUESTS_MAX;
use crate::raft::group::Group;

struct Request {
    append: Append,
    answer: oneshot::Sender<Appended>,
}

struct Session {
    incarnation: Incarnation,
    number: u64,
    tx: mpsc::Sender<Request>,
}

/// The open sessions of all leaders and groups, one each.
#[derive(Default)]
pub(in crate::raft) struct Sessions(Mutex<BTreeMap<(GroupId, NodeId), Session>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(GroupId, NodeId), Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the sessions of a group: it has stopped.
    pub(in crate::raft) fn forget(&self, group: GroupId) {
        self.lock().retain(|(of, _), _| *of != group);
    }

    /// Queues an append behind those of its session, before the future is first polled.
    pub(super) fn append(
        self: &Arc<Self>,
        group: &Group,
        (leader, incarnation): (NodeId, Incarnation),
        number: u64,
        append: Append,
    ) -> impl Future<Output = Result<Appended, Refusal>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let queued = self.queue(group, (leader, incarnation), number, Request { append, answer });
        async move {
            queued?;
            answered.await.map_err(|_| ended())
        }
    }

    fn queue(
        self: &Arc<Self>,
        group: &Group,
        (leader, incarnation): (NodeId, Incarnation),
        number: u64,
        request: Request,
    ) -> Result<(), Refusal> {
        let mut sessions = self.lock();
        let key = (group.id(), leader);
        let same_process = sessions.get(&key).filter(|session| session.incarnation == incarnation);
        let open = match same_process {
            Some(session) if session.number > number => return Err(ended()),
            Some(session) if session.number == number => {
                let tx = session.tx.clone();
                if group.0.env.perturb(Point::SessionEnded) {
                    // Closed: what is queued in it is still served, and nothing more comes in.
                    let (closed, _) = mpsc::channel(1);
                    sessions.insert(key, Session { incarnation, number, tx: closed });
                    return Err(ended());
                }
                tx
            }
            Some(_) | None => {
                let (tx, rx) = mpsc::channel(SESSION_REQUESTS_MAX);
                sessions.insert(key, Session { incarnation, number, tx: tx.clone() });
                group.0.scope.start(serve(group.clone(), rx));
                tx
            }
        };
        open.try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::new(ErrorCode::Overloaded, "too many appends are in flight in this session")
            }
            mpsc::error::TrySendError::Closed(_) => {
                group.0.env.reached(Mark::AppendToAnEndedSession);
                ended()
            }
        })
    }
}

fn ended() -> Refusal {
    Refusal::new(ErrorCode::NotAvailable, "this session of replication has ended")
}

async fn serve(group: Group, rx: mpsc::Receiver<Request>) {
    let waiting = Arc::new(Mutex::new(VecDeque::new()));
    let raft = group.0.raft.clone();
    // It would keep the group alive.
    drop(group);
    let taken = waiting.clone();
    let input = futures_util::stream::unfold((rx, taken), |(mut rx, taken)| async move {
        let request: Request = rx.recv().await?;
        taken.lock().unwrap_or_else(PoisonError::into_inner).push_back(request.answer);
        Some((request.append, (rx, taken)))
    });
    let mut answers = std::pin::pin!(raft.stream_append(input));
    while let Some(answer) = answers.next().await {
        let first = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match (first, answer) {
            // Who asked may have gone.
            (Some(first), Ok(appended)) => drop(first.send(appended)),
            // openraft has stopped: the senders are dropped, which refuses what waits.
            (None, _) | (_, Err(_)) => return,
        }
    }
}
