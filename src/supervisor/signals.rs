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

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        let (sender, signals) = mpsc::channel(16);
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            // Of one who sits at a terminal it means that this is closed.
            let hung_up = if std::io::stderr().is_terminal() { Signal::End } else { Signal::Reload };
            let (mut interrupt, mut terminate, mut hangup) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
            tokio::spawn(async move {
                let mut ends = 0;
                loop {
                    let told = tokio::select! {
                        _ = interrupt.recv() => Signal::End,
                        _ = terminate.recv() => Signal::End,
                        _ = hangup.recv() => hung_up,
                    };
                    ends += u32::from(told == Signal::End);
                    end_at_once_if(ends > 1);
                    if sender.send(told).await.is_err() {
                        return;
                    }
                }
            });
        }
        #[cfg(windows)]
        {
            use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
            let (mut interrupt, mut close, mut shutdown, mut reload) = (ctrl_c()?, ctrl_close()?, ctrl_shutdown()?, ctrl_break()?);
            tokio::spawn(async move {
                let mut ends = 0;
                loop {
                    let told = tokio::select! {
                        _ = interrupt.recv() => Signal::End,
                        _ = close.recv() => Signal::End,
                        _ = shutdown.recv() => Signal::End,
                        _ = reload.recv() => Signal::Reload,
                    };
                    ends += u32::from(told == Signal::End);
                    end_at_once_if(ends > 1);
                    if sender.send(told).await.is_err() {
                        return;
                    }
                }
            });
        }
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
