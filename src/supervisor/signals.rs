//! Signals of the operating system: they tell a server to end, or to read its configuration again.

#[cfg(unix)]
use std::io::IsTerminal;

use tokio::sync::mpsc;

/// What a signal means to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OsSignal {
    /// SIGINT, SIGTERM, a closed terminal; on Windows Ctrl-C, a closed window, a shutdown.
    End,
    /// SIGHUP, on Windows Ctrl-Break: read the configuration again and restart the worker.
    Reload,
}

/// Signals in the order in which they arrive. The second one that says to end exits at once.
pub struct OsSignals(mpsc::Receiver<OsSignal>);

/// Signals that wait to be handled, at most.
const SIGNALS_MAX: usize = 16;

/// The operating system's own streams of signals.
#[cfg(unix)]
struct UnixSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// What SIGHUP means: at a terminal, that this was closed.
    hung_up: OsSignal,
}

#[cfg(unix)]
impl UnixSignals {
    fn listen() -> std::io::Result<UnixSignals> {
        use tokio::signal::unix::{SignalKind, signal};
        let hung_up =
            if std::io::stderr().is_terminal() { OsSignal::End } else { OsSignal::Reload };
        Ok(UnixSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            hung_up,
        })
    }

    async fn next(&mut self) -> OsSignal {
        tokio::select! {
            _ = self.interrupt.recv() => OsSignal::End,
            _ = self.terminate.recv() => OsSignal::End,
            _ = self.hangup.recv() => self.hung_up,
        }
    }
}

/// The operating system's own streams of signals.
#[cfg(windows)]
struct WindowsSignals {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
    reload: tokio::signal::windows::CtrlBreak,
}

#[cfg(windows)]
impl WindowsSignals {
    fn listen() -> std::io::Result<WindowsSignals> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(WindowsSignals {
            interrupt: ctrl_c()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
            reload: ctrl_break()?,
        })
    }

    async fn next(&mut self) -> OsSignal {
        tokio::select! {
            _ = self.interrupt.recv() => OsSignal::End,
            _ = self.close.recv() => OsSignal::End,
            _ = self.shutdown.recv() => OsSignal::End,
            _ = self.reload.recv() => OsSignal::Reload,
        }
    }
}

impl OsSignals {
    /// Listens from now on; the signals have no other effect any more.
    pub fn listen() -> std::io::Result<OsSignals> {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        #[cfg(unix)]
        let mut streams = UnixSignals::listen()?;
        #[cfg(windows)]
        let mut streams = WindowsSignals::listen()?;
        tokio::spawn(async move {
            let mut ends = 0;
            loop {
                let signal = streams.next().await;
                ends += u32::from(signal == OsSignal::End);
                // The worker sees the end of its pipe and ends gracefully by itself.
                if ends > 1 {
                    crate::signals::end_at_once();
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

    /// Waits for a signal that says to end. Drops the others: it is for times without a worker that
    /// could be restarted. Cancel safe.
    pub async fn end(&mut self) {
        while self.next().await != OsSignal::End {}
    }
}
