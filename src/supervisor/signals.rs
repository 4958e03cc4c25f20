//! What the machine's owner tells a server: to end, or to begin anew.

#[cfg(unix)]
use std::io::IsTerminal;

use tokio::sync::mpsc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OsSignal {
    /// SIGINT, SIGTERM, a closed terminal; on Windows Ctrl-C, a closed window, a shutdown.
    End,
    /// SIGHUP, on Windows Ctrl-Break: read the configuration again, and start the worker anew.
    Reload,
}

/// Signals as they come; a second one to end ends the program at once.
pub struct OsSignals(mpsc::Receiver<OsSignal>);

/// How many signals wait.
const SIGNALS_MAX: usize = 16;

/// What the system tells, as it comes.
#[cfg(unix)]
struct SignalStreams {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// What a hangup means: of one who sits at a terminal, that this is closed.
    hung_up: OsSignal,
}

#[cfg(unix)]
impl SignalStreams {
    fn listen() -> std::io::Result<SignalStreams> {
        use tokio::signal::unix::{SignalKind, signal};
        let hung_up =
            if std::io::stderr().is_terminal() { OsSignal::End } else { OsSignal::Reload };
        Ok(SignalStreams {
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

#[cfg(windows)]
struct SignalStreams {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
    reload: tokio::signal::windows::CtrlBreak,
}

#[cfg(windows)]
impl SignalStreams {
    fn listen() -> std::io::Result<SignalStreams> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(SignalStreams {
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
    pub fn listen() -> std::io::Result<OsSignals> {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let mut heard = SignalStreams::listen()?;
        tokio::spawn(async move {
            let mut ends = 0;
            loop {
                let told = heard.next().await;
                ends += u32::from(told == OsSignal::End);
                end_at_once_if(ends > 1);
                if sender.send(told).await.is_err() {
                    return;
                }
            }
        });
        Ok(OsSignals(signals))
    }

    /// The next signal. May be dropped while it waits.
    pub async fn next(&mut self) -> OsSignal {
        self.0.recv().await.unwrap_or(OsSignal::End)
    }

    /// Waits until told to end. Meant for where there is no worker that could be started anew.
    pub async fn end(&mut self) {
        while self.next().await != OsSignal::End {}
    }
}

/// The worker sees its pipe end, and ends in order by itself.
fn end_at_once_if(twice: bool) {
    if twice {
        eprintln!("eds: stopped at once; unacknowledged changes are redelivered at the next start");
        std::process::exit(1);
    }
}
