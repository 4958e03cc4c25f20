//! A wire between two programs that can be cut, or hold everything back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Between two looks whether a stalled wire goes on.
const STALL_LOOK: Duration = Duration::from_millis(20);

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
}

impl Proxy {
    pub async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).port();
        let wire = Arc::new(ProxyWire::default());
        let shared = wire.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connect(near, to, shared.clone()));
            }
        });
        Proxy { port, wire, task }
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
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = wire.cut.notified() => {}
        () = pass(from_near, to_far, &wire) => {}
        () = pass(from_far, to_near, &wire) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, wire: &ProxyWire) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        while wire.stalled.load(Ordering::Relaxed) {
            tokio::time::sleep(STALL_LOOK).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
