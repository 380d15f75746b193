//! Limits the time in which a client must take what the service writes, so that a client that does
//! not read its answer cannot hold a connection.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A stream whose writes fail when the client has left data unread for too long. The time runs from
/// the first byte that the socket had no room for until the client has taken all data, so a client
/// that reads a byte now and then gains no time.
pub(crate) struct WriteTimeout {
    stream: TcpStream,
    timeout: Duration,
    /// Deadline that runs while data is left to write.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    /// Wraps a stream with a time limit for pending writes.
    pub(crate) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            timeout: limit,
            deadline: None,
        }
    }

    /// Starts the deadline when a write is incomplete, clears it when all data was written, and
    /// fails the write when the deadline has passed.
    fn enforce_timeout(
        &mut self,
        context: &mut Context<'_>,
        offered: usize,
        written: Poll<Result<usize>>,
    ) -> Poll<Result<usize>> {
        if matches!(written, Poll::Ready(Ok(count)) if count == offered) {
            self.deadline = None;
            return written;
        }
        let limit = self.timeout;
        let until = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match until.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(
                ErrorKind::TimedOut,
                "the client did not read its answer",
            ))),
            Poll::Pending => written,
        }
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.enforce_timeout(context, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.enforce_timeout(context, parts.iter().map(|part| part.len()).sum(), written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
