//! Real servers on loopback, each on a port and in a directory of its own. A missing one fails the
//! test.

pub mod browser;
pub mod bucket;
pub mod certs;
pub mod disks;
pub mod eds;
pub mod entra;
pub mod eventhubs;
pub mod hq;
pub mod kafka;
pub mod mysql;
pub mod nats;
pub mod nats_cluster;
pub mod pgbouncer;
pub mod postgres;
pub mod prometheus;
pub mod proxy;
pub mod receiver;
pub mod s3;
pub mod scene;
pub mod site;
pub mod snowflake;
pub mod tds;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Ports below those that the system gives to outgoing connections, so that none of these takes one
/// between this call and the server's start.
const PORTS: std::ops::Range<u16> = 10_500..31_500;

/// A port that nobody listens on, and that no other test of this process gets.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let first = || AtomicU16::new((std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16);
    let next = NEXT.get_or_init(first);
    for _ in PORTS {
        let step = next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let port = PORTS.start + step;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// A server that ends with its owner, even if the test process is killed: it ends when
/// its pipe to the test closes.
pub struct Server {
    guard: Child,
    pid: u32,
}

impl Server {
    /// Runs `program args`; `stop` is the signal that ends it.
    pub fn start(
        mut wrapper: Command,
        program: &str,
        args: &[String],
        log: &Path,
        stop: &str,
    ) -> Server {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let script =
            format!("\"$@\" </dev/null >&2 & p=$!; echo $p; read _; kill -{stop} $p; wait $p");
        let mut guard = wrapper
            .args(["sh", "-c", &script, "sh", program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{program} cannot be started: {e}; `cargo x test` installs what is missing")
            });
        let mut line = String::new();
        if let Some(out) = guard.stdout.take() {
            let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line);
        }
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("{program} did not start"));
        Server { guard, pid }
    }

    /// Ends it by a signal that lets it finish nothing, and waits.
    pub fn crash(&mut self, signal: &str) {
        send(self.pid, signal);
        self.stop();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        send(self.pid, signal);
    }

    /// Ends it and waits.
    pub fn stop(&mut self) {
        if let Some(mut stdin) = self.guard.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.guard.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `env` with nothing before the program.
pub fn plain() -> Command {
    Command::new("env")
}

/// Runs what follows in a place of its own, where `directory` is a disk of a few MiB of `user`'s.
/// It goes with what runs there.
pub fn on_small_disk(directory: &Path, user: &str) -> Command {
    let mut command = Command::new("unshare");
    let mount =
        format!("mount -t tmpfs -o size=8m,uid=$(id -u {user}) tmpfs \"$0\" && exec \"$@\"");
    command.args(["-m", "sh", "-c", &mount]).arg(directory).current_dir("/");
    command
}

/// Whether this machine lets the tests make such disks.
pub fn small_disks_can_be_made() -> bool {
    on_small_disk(&std::env::temp_dir(), "root")
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
}

pub fn send(pid: u32, signal: &str) {
    let done = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(done.is_ok_and(|s| s.success()), "signal {signal} to {pid}");
}

/// Asks a server on this machine over a plain connection of its own: status and body.
pub fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>), String> {
    let mut stream =
        std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(|e| e.to_string())?;
    // SeaweedFS takes an empty body with a type for a file.
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: \
         application/json\r\n{kind}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no answer")?;
    let status = String::from_utf8_lossy(&answer[..end])
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("no status")?;
    Ok((status, answer[end + 4..].to_vec()))
}

/// Waits until `there` is true.
pub async fn eventually(what: &str, limit: Duration, mut there: impl AsyncFnMut() -> bool) {
    eventually_ok(limit, async || there().await.then_some(()).ok_or_else(|| what.to_owned())).await;
}

/// Tries until it works. Where that takes too long, the test fails with the last error.
pub async fn eventually_ok<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(why) => assert!(Instant::now() < deadline, "not within {limit:?}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same, where no future can be waited for.
pub fn until_ok<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(why) => assert!(Instant::now() < deadline, "not within {limit:?}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What tests share: the first one starts it, in a thread of its own, because a test that asks may
/// be in a runtime. One that does not start is not tried again for every test.
pub fn shared<T: Send + Sync>(
    cell: &'static OnceLock<Option<T>>,
    name: &str,
    start: impl FnOnce() -> T + Send + 'static,
) -> &'static T {
    let started = cell.get_or_init(|| std::thread::spawn(start).join().ok());
    started.as_ref().unwrap_or_else(|| panic!("{name} does not start"))
}

/// Runs `future` where there is no runtime yet.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|e| panic!("{e}")).block_on(future)
}

/// A name that no other test of this process gets.
pub fn fresh(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Checks all cases at the same time, for those that spend theirs waiting. One that fails prints
/// its own message, and fails the test. At most one case may write into a destination: of two that
/// do, EDS ends one.
pub fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    let check = &check;
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || check(case));
        }
    });
}

/// Where `cargo x services` puts what it installs.
pub fn installed(program: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/services/bin").join(program)
}
