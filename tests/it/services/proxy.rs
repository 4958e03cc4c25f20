//! A wire between two programs that can be cut, or hold everything back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Between two looks whether a stalled wire goes on.
const STALL_LOOK: Duration = Duration::from_millis(20);

/// Pieces of 64 KiB at most that are on their way at once in one direction.
const ON_THE_WAY_MAX: usize = 1_024;

/// Passes connections on to a port of this machine.
pub struct Proxy {
    pub port: u16,
    wire: Arc<ProxyWire>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct ProxyWire {
    stalled: AtomicBool,
    cut: Notify,
    /// How long everything is on its way, in each direction.
    delay: Duration,
    /// Whether the last bytes went to the near side.
    answered: AtomicBool,
    exchanges: AtomicU64,
    answered_bytes: AtomicU64,
}

impl Proxy {
    pub async fn start(to: u16) -> Proxy {
        Proxy::delayed(to, Duration::ZERO).await
    }

    /// A wire as long as this: everything arrives so much later, in each direction.
    pub async fn delayed(to: u16, delay: Duration) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).port();
        let wire = Arc::new(ProxyWire { delay, ..ProxyWire::default() });
        let shared = wire.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connect(near, to, shared.clone()));
            }
        });
        Proxy { port, wire, task }
    }

    /// How often the near side has sent something after an answer.
    pub fn exchanges(&self) -> u64 {
        self.wire.exchanges.load(Ordering::Relaxed)
    }

    /// What came from the far side.
    pub fn answered_bytes(&self) -> u64 {
        self.wire.answered_bytes.load(Ordering::Relaxed)
    }

    /// Every connection ends now.
    pub fn cut(&self) {
        self.wire.cut.notify_waiters();
    }

    /// Nothing passes while this is so, and nobody is told.
    pub fn stall(&self, stalled: bool) {
        self.wire.stalled.store(stalled, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn connect(near: TcpStream, to: u16, wire: Arc<ProxyWire>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    // What is sent is on its way at once.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = wire.cut.notified() => {}
        () = pass(from_near, to_far, &wire, ProxyWire::count_request) => {}
        () = pass(from_far, to_near, &wire, ProxyWire::count_answer) => {}
    }
}

impl ProxyWire {
    fn count_request(&self, _bytes: usize) {
        if self.answered.swap(false, Ordering::Relaxed) {
            self.exchanges.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_answer(&self, bytes: usize) {
        self.answered_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
    }
}

/// Counts so many bytes that have passed.
type CountBytes = fn(&ProxyWire, usize);

async fn pass(from: OwnedReadHalf, to: OwnedWriteHalf, wire: &ProxyWire, count: CountBytes) {
    let (entering, leaving) = mpsc::channel(ON_THE_WAY_MAX);
    tokio::join!(enter(from, entering, wire, count), leave(to, leaving));
}

async fn enter(
    mut from: OwnedReadHalf,
    way: mpsc::Sender<(Instant, Vec<u8>)>,
    wire: &ProxyWire,
    count: CountBytes,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        while wire.stalled.load(Ordering::Relaxed) {
            tokio::time::sleep(STALL_LOOK).await;
        }
        count(wire, read);
        let arrives = Instant::now() + wire.delay;
        if read == 0 || way.send((arrives, buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn leave(mut to: OwnedWriteHalf, mut way: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((arrives, bytes)) = way.recv().await {
        if arrives > Instant::now() {
            tokio::time::sleep_until(arrives).await;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
