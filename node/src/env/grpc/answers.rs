//! The answering side of a stream with many requests in flight.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, Stream};
use tonic::Status;

/// How much of one stream may be in the works; what goes beyond waits in the connection, unread.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Requests, inclusive.
    pub requests_max: usize,
    /// Bytes of requests, inclusive, but for the last one admitted.
    pub bytes_max: usize,
}

/// A request that was admitted: its answer to come.
pub struct Admitted<O> {
    /// The answer. Polled by the stream's own task: no task is spawned for it.
    pub answer: BoxFuture<'static, O>,
    /// What it counts against [`Bound::bytes_max`] until it is answered.
    pub bytes: usize,
}

/// Admits what comes in, in order, and gives the answers as they get ready.
///
/// Ends once all is answered after the other side's end, and at once, without the answers, when the connection
/// breaks or the server stops.
pub struct Answers<I, O> {
    /// `None` once the other side has ended.
    requests: Option<BoxStream<'static, Result<I, Status>>>,
    admit: Box<dyn FnMut(I) -> VecDeque<Admitted<O>> + Send>,
    answers: FuturesUnordered<Weighed<O>>,
    bytes: usize,
    bound: Bound,
    stopped: BoxFuture<'static, ()>,
}

/// Messages taken in before answers are looked at again.
const MESSAGES_A_TURN: usize = 64;

impl<I, O> Answers<I, O> {
    /// `admit` is called for each message in the order of arrival, before the next one is looked at. `stopped` is
    /// ready when the server stops.
    pub fn new(
        requests: impl Stream<Item = Result<I, Status>> + Send + 'static,
        admit: impl FnMut(I) -> VecDeque<Admitted<O>> + Send + 'static,
        bound: Bound,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            requests: Some(Box::pin(requests)),
            admit: Box::new(admit),
            answers: FuturesUnordered::new(),
            bytes: 0,
            bound,
            stopped: Box::pin(stopped),
        }
    }

    /// Takes in what has come, within the bound. `Break` when the connection is gone; else whether there may be
    /// more at once.
    fn take_in(&mut self, cx: &mut Context<'_>) -> ControlFlow<(), bool> {
        for _ in 0..MESSAGES_A_TURN {
            if self.answers.len() >= self.bound.requests_max || self.bytes >= self.bound.bytes_max {
                // An answer must come first, and it wakes us.
                return ControlFlow::Continue(false);
            }
            let Some(requests) = &mut self.requests else { return ControlFlow::Continue(false) };
            match requests.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    for Admitted { answer, bytes } in (self.admit)(message) {
                        self.bytes += bytes;
                        self.answers.push(Weighed { answer, bytes });
                    }
                }
                Poll::Ready(Some(Err(status))) => {
                    tracing::debug!(error = &status as &dyn std::error::Error, "stream broke");
                    return ControlFlow::Break(());
                }
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return ControlFlow::Continue(false),
            }
        }
        ControlFlow::Continue(true)
    }
}

impl<I, O> Stream for Answers<I, O> {
    type Item = O;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<O>> {
        let this = self.get_mut();
        if this.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let ControlFlow::Continue(more) = this.take_in(cx) else { return Poll::Ready(None) };
        match Pin::new(&mut this.answers).poll_next(cx) {
            Poll::Ready(Some((bytes, answer))) => {
                this.bytes -= bytes;
                Poll::Ready(Some(answer))
            }
            Poll::Ready(None) if this.requests.is_none() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => {
                if more {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

/// An answer to come and what it weighs.
struct Weighed<O> {
    answer: BoxFuture<'static, O>,
    bytes: usize,
}

impl<O> Future for Weighed<O> {
    type Output = (usize, O);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(usize, O)> {
        let answer = ready!(self.answer.as_mut().poll(cx));
        Poll::Ready((self.bytes, answer))
    }
}
