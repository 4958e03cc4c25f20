//! What systemd hears from a service: that it is ready, that it lives, that it ends.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::services::eds::{Running, binary};
use crate::services::site::Site;
use crate::services::{eventually, fresh};

/// Where systemd listens.
struct Manager {
    /// What `NOTIFY_SOCKET` is set to.
    name: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(name: String, socket: UnixDatagram) -> Manager {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(length) = socket.recv(&mut bytes) {
                let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
                hearing.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            }
        });
        Manager { name, heard }
    }

    /// At a path, as the system's own systemd.
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap_or_else(|e| panic!("{e}"));
        Manager::listen(path.display().to_string(), socket)
    }

    /// At a name that is in no directory, as in some containers.
    fn nowhere() -> Manager {
        let name = fresh(&format!("eds-test-{}-", std::process::id()));
        let address = SocketAddr::from_abstract_name(&name).unwrap_or_else(|e| panic!("{e}"));
        let socket = UnixDatagram::bind_addr(&address).unwrap_or_else(|e| panic!("{e}"));
        Manager::listen(format!("@{name}"), socket)
    }

    fn times(&self, message: &str) -> usize {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|said| *said == message).count()
    }

    async fn until(&self, message: &str, times: usize) {
        let what = format!("{times} times {message}");
        eventually(&what, Duration::from_secs(60), async || self.times(message) >= times).await;
    }
}

fn server(site: &Site, manager: &Manager, watchdog: &[(&str, &str)]) -> Running {
    let (nats, url) = (site.nats.url(), site.sqlite());
    let words = ["server", "--port", "0", "--server", &nats, "--url", &url];
    let mut command = site.command_of(Path::new(binary()), &words);
    command.env("NOTIFY_SOCKET", &manager.name).envs(watchdog.iter().copied());
    Running::start(command, site.dir.path().join("server.log"))
}

/// The server says each thing once, its worker says nothing, and signs of life come while it
/// serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_systemd_how_it_is() {
    let site = Site::new("notifying", 91).await;
    site.enroll().await;
    let manager = Manager::at(&site.dir.path().join("notify"));
    let running = server(&site, &manager, &[("WATCHDOG_USEC", "200000")]);
    manager.until("READY=1", 1).await;
    site.until_log("streaming eds-", 1).await;
    let so_far = manager.times("WATCHDOG=1");
    manager.until("WATCHDOG=1", so_far + 5).await;
    assert_eq!(manager.times("STOPPING=1"), 0);
    assert!(running.stop().status.success());
    manager.until("STOPPING=1", 1).await;
    assert_eq!((manager.times("READY=1"), manager.times("STOPPING=1")), (1, 1));

    // Another process has to give the signs of life; the name of the socket is in no directory.
    let manager = Manager::nowhere();
    let others = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let running = server(&site, &manager, &others);
    manager.until("READY=1", 1).await;
    site.until_log("streaming eds-", 2).await;
    assert!(running.stop().status.success());
    manager.until("STOPPING=1", 1).await;
    assert_eq!(manager.times("WATCHDOG=1"), 0);
}

/// A stream is ready once it streams; one that cannot reach NATS never is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_ready_once_it_streams() {
    let site = Site::new("streaming", 92).await;
    let manager = Manager::at(&site.dir.path().join("notify"));
    let url = site.sqlite();
    let words = ["stream", "--url", &url, "--port", "0", "--server", "nats://127.0.0.1:1"];
    let mut command = site.command_of(Path::new(binary()), &words);
    command.env("NOTIFY_SOCKET", &manager.name);
    let ended = Running::start(command, site.dir.path().join("away.log"));
    let ended = ended.wait(Duration::from_secs(60));
    assert_eq!(ended.status.code(), Some(5), "{}", ended.log);

    let companies = eds::sandbox::shop::Shop::companies();
    let companies: Vec<&str> = companies.iter().map(String::as_str).collect();
    let creds = site.nats.server_creds("streaming", &companies, None).display().to_string();
    let nats = site.nats.url();
    let words = [
        &["stream", "--url", &url, "--port", "0", "--server", &nats, "--creds", &creds][..],
        &["--api-url", site.hq.url()],
    ];
    let mut command = site.command_of(Path::new(binary()), &words.concat());
    command.env("NOTIFY_SOCKET", &manager.name);
    assert_eq!(manager.times("READY=1"), 0);
    let running = Running::start(command, site.dir.path().join("stream.log"));
    manager.until("READY=1", 1).await;
    assert!(running.log().contains("streaming eds-"), "{}", running.log());
    assert!(running.stop().status.success());
    manager.until("STOPPING=1", 1).await;
}
