//! What systemd is told about this process: that it is ready, that it lives, that it ends.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// Where systemd listens; a service of `Type=notify` has it.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Within so many microseconds systemd wants a sign of life; `WatchdogSec=` sets it.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// The process that has to give the signs of life, where it is set.
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// Says that the service is ready. Nothing happens where no systemd waits for it.
pub fn ready() {
    tell("READY=1");
}

/// Says that the service ends.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Does `work`, and gives signs of life meanwhile, twice as often as systemd wants them. They are
/// given between two steps of `work`, so they stop if one of its steps never ends.
pub async fn watched<T>(work: impl Future<Output = T>) -> T {
    let work = Box::pin(work);
    match watchdog() {
        Some(longest) => with_signs(work, longest, || tell("WATCHDOG=1")).await,
        None => work.await,
    }
}

/// Does `work`, and calls `sign` at least twice in `longest`, but never while a step of `work` is
/// taken.
async fn with_signs<T>(
    mut work: impl Future<Output = T> + Unpin,
    longest: Duration,
    sign: impl Fn(),
) -> T {
    let mut ticks = tokio::time::interval(longest / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => sign(),
        }
    }
}

/// How long this process may be silent; `None` if nobody listens for it.
fn watchdog() -> Option<Duration> {
    let own = std::process::id().to_string();
    if std::env::var(WATCHDOG_PROCESS).is_ok_and(|process| process != own) {
        return None;
    }
    let microseconds = std::env::var(WATCHDOG).ok()?.parse().ok().filter(|us| *us > 0)?;
    std::env::var_os(SOCKET)?;
    Some(Duration::from_micros(microseconds))
}

/// A message that is lost is no reason to end: systemd acts on its absence.
#[cfg(unix)]
fn tell(state: &str) {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let Ok(sender) = std::os::unix::net::UnixDatagram::unbound() else { return };
    // Neither may a full queue hold up what the message is about.
    let _ = sender.set_nonblocking(true);
    let _ = address(&socket).and_then(|address| sender.send_to_addr(state.as_bytes(), &address));
}

#[cfg(not(unix))]
fn tell(_state: &str) {}

/// A path, or with a leading `@` a name that is in no directory.
#[cfg(unix)]
fn address(socket: &std::ffi::OsStr) -> std::io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::net::SocketAddr;
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(socket).strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Signs come twice as often as they are wanted, and end with the work.
    #[tokio::test(start_paused = true)]
    async fn work_gives_signs_of_life() {
        let signs = AtomicU32::new(0);
        let work = Box::pin(tokio::time::sleep(Duration::from_secs(59)));
        let sign = || {
            signs.fetch_add(1, Ordering::Relaxed);
        };
        with_signs(work, Duration::from_secs(20), sign).await;
        assert_eq!(signs.load(Ordering::Relaxed), 6);
    }
}
