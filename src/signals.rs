//! Signals of the operating system, as one command of the program takes them.

use tokio::sync::watch;

/// Becomes true at SIGINT, SIGTERM or SIGHUP (on Windows Ctrl-C); a second signal ends the program
/// at once.
pub fn stop_on_signal() -> watch::Receiver<bool> {
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        signalled().await;
        sender.send_replace(true);
        signalled().await;
        end_at_once();
    });
    stop
}

/// Ends the program without waiting for anything: whoever asks twice does not want to wait.
pub fn end_at_once() -> ! {
    eprintln!("eds: stopped at once; unacknowledged changes are redelivered at the next start");
    std::process::exit(1);
}

async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // A terminal that is closed hangs up.
        if let (Ok(mut term), Ok(mut hangup)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Makes signals do nothing: one to the whole group of processes (Ctrl-C, the end of a service)
/// reaches the worker's supervisor too, which tells the worker over the pipe what to do.
#[cfg(feature = "server")]
pub fn ignore() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Once somebody has listened, a signal does nothing by itself.
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let _ = signal(kind);
        }
    }
    #[cfg(not(unix))]
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
}
