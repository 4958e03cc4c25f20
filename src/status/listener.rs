//! A listener whose connections are bounded in number, time and bytes: who connects to it cannot
//! keep a stream from its files, its memory and its turns.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// Connections at a time; one more closes the oldest, as a probe is done within milliseconds and
/// the oldest is one that says nothing.
pub const CONNECTIONS_MAX: usize = 256;
/// How long a connection may last: its header, its request and its answer.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// The same of one that is told how it goes, again and again.
pub const LIVE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// What a connection may send: a request without a body.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// How long to wait where the system has no connection to give.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Accepts connections and closes the oldest where there are too many.
pub struct BoundedListener {
    listener: TcpListener,
    /// Closes a connection when it is dropped; oldest first.
    open: VecDeque<oneshot::Sender<()>>,
}

impl BoundedListener {
    /// Around `listener`.
    pub fn new(listener: TcpListener) -> BoundedListener {
        BoundedListener { listener, open: VecDeque::new() }
    }

    fn bounded(&mut self, stream: TcpStream) -> BoundedStream {
        self.open.retain(|connection| !connection.is_closed());
        while self.open.len() >= CONNECTIONS_MAX {
            self.open.pop_front();
        }
        let (sender, evicted) = oneshot::channel();
        self.open.push_back(sender);
        let deadline = Box::pin(sleep(CONNECTION_TIME_MAX));
        let lease = Lease::default();
        BoundedStream { stream, deadline, evicted, bytes_left: REQUEST_BYTES_MAX, lease }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (self.bounded(stream), from),
                // The connection is gone, or there are no more files: either passes.
                Err(_) => sleep(ACCEPT_WAIT).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is over, once it has sent too much, or once it has to
/// make room.
pub struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    evicted: oneshot::Receiver<()>,
    bytes_left: usize,
    lease: Lease,
}

/// By which whoever answers lets a connection last longer.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// The connection may last [`LIVE_TIME_MAX`] from the end of its ordinary time on.
    pub fn prolong(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Lease {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Lease {
        stream.io().lease.clone()
    }
}

impl BoundedStream {
    /// An error once the connection has to end; else whoever polls is woken then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut over = self.deadline.as_mut().poll(cx).is_ready();
        if over && self.lease.0.swap(false, Ordering::Relaxed) {
            self.deadline.as_mut().reset(Instant::now() + LIVE_TIME_MAX);
            over = self.deadline.as_mut().poll(cx).is_ready();
        }
        match over || Pin::new(&mut self.evicted).poll(cx).is_ready() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let came = into.filled().len() - before;
        match self.bytes_left.checked_sub(came) {
            Some(left) => {
                self.bytes_left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
