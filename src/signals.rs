//! Signals of the operating system: they tell the program to end, or a server to read its
//! configuration again.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::systemd;

#[cfg(unix)]
use UnixSignals as SystemSignals;
#[cfg(windows)]
use WindowsSignals as SystemSignals;

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OsSignal {
    /// SIGINT, SIGTERM, a closed terminal; on Windows Ctrl-C, a closed window, a shutdown.
    End,
    /// SIGHUP, on Windows Ctrl-Break, if the program is a server: read the configuration again and
    /// restart the worker.
    Reload,
}

/// Signals in the order in which they arrive. The second one that says to end exits at once.
pub struct OsSignals(mpsc::Receiver<OsSignal>);

/// Signals that wait to be handled, at most.
const SIGNALS_MAX: usize = 16;
/// Two signals that are no further apart are one wish: `timeout` sends its signal to the program
/// and then to the program's group.
const ECHO_MAX: Duration = Duration::from_millis(200);

/// The operating system's own streams of signals.
#[cfg(unix)]
struct UnixSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` where the program was started by `nohup` or the like: it is meant to outlive its
    /// terminal.
    hangup: Option<tokio::signal::unix::Signal>,
    hung_up: OsSignal,
}

/// Whether SIGHUP was ignored when the program began, read from the mask of ignored signals, as
/// Linux shows it; elsewhere nobody says.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & SIGHUP_BIT != 0)
}

#[cfg(unix)]
async fn hung_up(hangup: &mut Option<tokio::signal::unix::Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(unix)]
impl UnixSignals {
    fn listen(hung_up: OsSignal) -> std::io::Result<UnixSignals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(UnixSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
            hung_up,
        })
    }

    async fn next(&mut self) -> OsSignal {
        tokio::select! {
            _ = self.interrupt.recv() => OsSignal::End,
            _ = self.terminate.recv() => OsSignal::End,
            () = hung_up(&mut self.hangup) => self.hung_up,
        }
    }
}

/// The operating system's own streams of signals.
#[cfg(windows)]
struct WindowsSignals {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
    hangup: tokio::signal::windows::CtrlBreak,
    hung_up: OsSignal,
}

#[cfg(windows)]
impl WindowsSignals {
    fn listen(hung_up: OsSignal) -> std::io::Result<WindowsSignals> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(WindowsSignals {
            interrupt: ctrl_c()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
            hangup: ctrl_break()?,
            hung_up,
        })
    }

    async fn next(&mut self) -> OsSignal {
        tokio::select! {
            _ = self.interrupt.recv() => OsSignal::End,
            _ = self.close.recv() => OsSignal::End,
            _ = self.shutdown.recv() => OsSignal::End,
            _ = self.hangup.recv() => self.hung_up,
        }
    }
}

impl OsSignals {
    /// Listens from now on; the signals have no other effect any more. `hung_up`: what SIGHUP
    /// means, or Ctrl-Break on Windows.
    pub fn listen(hung_up: OsSignal) -> std::io::Result<OsSignals> {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let mut system = SystemSignals::listen(hung_up)?;
        tokio::spawn(async move {
            let mut first_end: Option<Instant> = None;
            loop {
                let signal = system.next().await;
                if signal == OsSignal::End {
                    match first_end {
                        None => {
                            first_end = Some(Instant::now());
                            systemd::stopping();
                        }
                        Some(first) if first.elapsed() <= ECHO_MAX => continue,
                        // A server's worker sees the end of its pipe and ends gracefully by itself.
                        Some(_) => end_at_once(),
                    }
                }
                if sender.send(signal).await.is_err() {
                    return;
                }
            }
        });
        Ok(OsSignals(signals))
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> OsSignal {
        self.0.recv().await.unwrap_or(OsSignal::End)
    }
}

/// Becomes true at a signal that says to end, SIGHUP included; a second one ends the program at
/// once.
pub fn stop_on_signal() -> watch::Receiver<bool> {
    stop_within(None)
}

/// As [`stop_on_signal`]; a program that has not ended after `timeout` ends at once.
#[cfg(feature = "jetstream")]
pub fn stop_on_signal_within(timeout: Duration) -> watch::Receiver<bool> {
    stop_within(Some(timeout))
}

fn stop_within(timeout: Option<Duration>) -> watch::Receiver<bool> {
    let (sender, stop) = watch::channel(false);
    let listening = OsSignals::listen(OsSignal::End);
    tokio::spawn(async move {
        match listening {
            Ok(mut signals) => {
                while signals.0.recv().await.is_some() {
                    if !sender.send_replace(true)
                        && let Some(timeout) = timeout
                    {
                        // A thread of its own: it must not depend on a runtime that hangs.
                        std::thread::spawn(move || {
                            std::thread::sleep(timeout);
                            end_at_once()
                        });
                    }
                }
            }
            Err(e) => warn!("signals cannot be listened to: {e}"),
        }
        // A channel without a sender would look like an order to stop.
        sender.closed().await;
    });
    stop
}

/// Ends the program without waiting for anything: whoever asks twice does not want to wait.
fn end_at_once() -> ! {
    eprintln!("eds: stopped at once; unacknowledged changes are redelivered at the next start");
    std::process::exit(1);
}

/// Makes signals do nothing: one to the whole group of processes (Ctrl-C, the end of a service)
/// reaches the worker's supervisor too, which tells the worker over the pipe what to do.
#[cfg(feature = "server")]
pub fn ignore() {
    if let Ok(mut system) = SystemSignals::listen(OsSignal::End) {
        tokio::spawn(async move {
            loop {
                system.next().await;
            }
        });
    }
}
