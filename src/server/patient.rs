//! A stream that waits for ever between requests and not for ever within one.
//!
//! hyper's `header_read_timeout` starts when a connection becomes idle (hyper 1.12, `proto/h1/conn.rs`,
//! `poll_read_head`), so it would close the engine's idle connections. Here the clock starts with the first byte of a
//! request. The stream sees bytes and the service sees requests; [`Phase`] is where they meet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

/// Counts the beginnings and the ends of a connection's requests: odd while the service is at work on one, and then
/// the service minds the time.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU64);

impl Phase {
    /// The head of a request is complete, or its answer is made.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection's stream.
#[derive(Debug)]
pub(super) struct Patient {
    stream: UnixStream,
    phase: Arc<Phase>,
    limit: Duration,
    /// The phase that `deadline` and `alarm` belong to.
    seen: u64,
    /// Until when the head that has begun must be complete.
    deadline: Option<Instant>,
    /// Wakes at the deadline; made only if a head comes in pieces.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: UnixStream, phase: Arc<Phase>, limit: Duration) -> Self {
        Self { stream, phase, limit, seen: 0, deadline: None, alarm: None }
    }

    fn follow_phase(&mut self) {
        let now = self.phase.now();
        if now != self.seen {
            self.seen = now;
            self.deadline = None;
            self.alarm = None;
        }
    }

    fn bytes_came(&mut self) {
        let serving = self.seen % 2 == 1;
        if !serving && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.limit);
        }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline))).as_mut().poll(context)
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.follow_phase();
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.bytes_came();
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.poll_deadline(context));
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the request was begun and not finished",
                )))
            }
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
