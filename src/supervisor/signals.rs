//! What the machine's owner tells a server: to end, or to begin anew.

#[cfg(unix)]
use std::io::IsTerminal;

use tokio::sync::mpsc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGINT, SIGTERM, a closed terminal; on Windows Ctrl-C, a closed window, a shutdown.
    End,
    /// SIGHUP, on Windows Ctrl-Break: read the configuration again, and start the worker anew.
    Reload,
}

/// Signals as they come; a second one to end ends the program at once.
pub struct Signals(mpsc::Receiver<Signal>);

/// How many signals wait.
const SIGNALS_MAX: usize = 16;

/// What the system tells, as it comes.
#[cfg(unix)]
struct Heard {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// What a hangup means: of one who sits at a terminal, that this is closed.
    hung_up: Signal,
}

#[cfg(unix)]
impl Heard {
    fn listen() -> std::io::Result<Heard> {
        use tokio::signal::unix::{SignalKind, signal};
        let hung_up = if std::io::stderr().is_terminal() { Signal::End } else { Signal::Reload };
        Ok(Heard { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())?, hung_up })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::End,
            _ = self.terminate.recv() => Signal::End,
            _ = self.hangup.recv() => self.hung_up,
        }
    }
}

#[cfg(windows)]
struct Heard {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
    reload: tokio::signal::windows::CtrlBreak,
}

#[cfg(windows)]
impl Heard {
    fn listen() -> std::io::Result<Heard> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Heard { interrupt: ctrl_c()?, close: ctrl_close()?, shutdown: ctrl_shutdown()?, reload: ctrl_break()? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::End,
            _ = self.close.recv() => Signal::End,
            _ = self.shutdown.recv() => Signal::End,
            _ = self.reload.recv() => Signal::Reload,
        }
    }
}

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let mut heard = Heard::listen()?;
        tokio::spawn(async move {
            let mut ends = 0;
            loop {
                let told = heard.next().await;
                ends += u32::from(told == Signal::End);
                end_at_once_if(ends > 1);
                if sender.send(told).await.is_err() {
                    return;
                }
            }
        });
        Ok(Signals(signals))
    }

    /// The next signal. May be dropped while it waits.
    pub async fn next(&mut self) -> Signal {
        self.0.recv().await.unwrap_or(Signal::End)
    }

    /// Waits until told to end. Meant for where there is no worker that could be started anew.
    pub async fn end(&mut self) {
        while self.next().await != Signal::End {}
    }
}

/// The worker sees its pipe end, and ends in order by itself.
fn end_at_once_if(twice: bool) {
    if twice {
        eprintln!("eds: ended at once; what was not acknowledged comes again at the next start");
        std::process::exit(1);
    }
}
