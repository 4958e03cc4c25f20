//! The real binary as a child process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::disks::{Disks, within};
use super::nats::Nats;
use super::until_ok;

/// One `eds` with a data directory of its own, which survives its runs.
pub struct Eds {
    pub dir: TempDir,
    args: Vec<String>,
    url: String,
    env: Vec<(String, String)>,
    /// Disks that it sees.
    pub disks: Option<Disks>,
}

pub struct Running {
    child: Child,
    log: PathBuf,
}

/// What a run left.
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_eds")
}

/// Replays events; schemas of several versions may be given. The data directory is lost.
pub fn replay(url: &str, schemas: &Value, events: &[Value], args: &[&str]) -> Output {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let text: String = events.iter().map(|e| format!("{e}\n")).collect();
    replay_in(dir.path(), url, schemas, &text, args)
}

/// Replays a journal, with the data directory in `dir`.
pub fn replay_in(dir: &Path, url: &str, schemas: &Value, journal: &str, args: &[&str]) -> Output {
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("schema.json", &schemas.to_string());
    write("journal.jsonl", journal);
    let mut command = Command::new(binary());
    command
        .current_dir(dir)
        .env("EDS_URL", url)
        .args(["replay", "journal.jsonl", "--schema", "schema.json", "--restart"])
        .args(args);
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

/// Replays events with variables in the environment. The data directory is lost.
pub fn replay_with(url: &str, events: &[Value], env: &[(&str, &str)]) -> Output {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let journal: String = events.iter().map(|e| format!("{e}\n")).collect();
    std::fs::write(dir.path().join("journal.jsonl"), journal).unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new(binary());
    command.current_dir(dir.path()).env("EDS_URL", url).envs(env.iter().copied()).args([
        "replay",
        "journal.jsonl",
        "--restart",
    ]);
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

/// A schema with the key `id` and nothing else required.
pub fn schema(table: &str, version: &str, properties: Value) -> Value {
    let mut all = json!({"id": {"type": "string"}});
    all.as_object_mut()
        .into_iter()
        .for_each(|o| o.extend(properties.as_object().cloned().unwrap_or_default()));
    json!({"table": table, "modelVersion": version, "primaryKeys": ["id"], "required": ["id"], "properties": all})
}

pub fn upsert(table: &str, version: &str, after: Value) -> Value {
    json!({"operation": "UPDATE", "table": table, "modelVersion": version, "key": [after["id"]], "after": after})
}

/// The dead letters of a destination, superseded ones included, as `eds dlq` exports them.
pub fn dead_letters(url: &str, data_dir: &Path) -> Vec<Value> {
    exported(&dlq(url, data_dir, &["export", "--superseded"]))
}

/// What a command told on standard output with `--json`.
pub fn data_of(stdout: &[u8]) -> Vec<Value> {
    let told: Value = serde_json::from_slice(stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(stdout)));
    told["data"].as_array().cloned().unwrap_or_else(|| panic!("{told}"))
}

fn exported(said: &Output) -> Vec<Value> {
    assert!(said.status.success(), "{said:?}");
    let lines = String::from_utf8_lossy(&said.stdout);
    lines.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// Runs `eds dlq`.
pub fn dlq(url: &str, data_dir: &Path, args: &[&str]) -> Output {
    dlq_by(Command::new(binary()), url, data_dir, args)
}

fn dlq_by(mut command: Command, url: &str, data_dir: &Path, args: &[&str]) -> Output {
    command.env("EDS_URL", url).arg("dlq").args(args).arg("--data-dir").arg(data_dir);
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

impl Eds {
    /// Its dead letters.
    pub fn dead_letters(&self) -> Vec<Value> {
        let args = ["export", "--superseded"];
        exported(&dlq_by(self.command(), &self.url, &self.data_dir(), &args))
    }

    fn command(&self) -> Command {
        let mut command = within(self.disks.as_ref());
        command.arg(binary());
        command
    }

    /// The logs of all its runs.
    pub fn logs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let logs = entries.flatten().filter(|e| e.file_name().to_string_lossy().contains("log-"));
        logs.map(|e| std::fs::read_to_string(e.path()).unwrap_or_default()).collect()
    }

    /// Streams from `nats` as `creds` into `url`; the schemas come from a file.
    pub fn stream(nats: &Nats, creds: &Path, url: &str, schemas: &str) -> Eds {
        Eds::stream_from(&nats.url(), creds, url, schemas)
    }

    /// Streams from the NATS servers with these addresses.
    pub fn stream_from(servers: &str, creds: &Path, url: &str, schemas: &str) -> Eds {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let schema = dir.path().join("schema.json");
        std::fs::write(&schema, schemas).unwrap_or_else(|e| panic!("{e}"));
        let source = ["--schema", &schema.display().to_string()].map(str::to_owned);
        Eds::in_directory(dir, servers, creds, url, source)
    }

    /// The schemas come from HQ at this address.
    pub fn stream_of_hq(servers: &str, creds: &Path, url: &str, hq: &str) -> Eds {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        Eds::in_directory(dir, servers, creds, url, ["--api-url", hq].map(str::to_owned))
    }

    fn in_directory(
        dir: TempDir,
        servers: &str,
        creds: &Path,
        url: &str,
        source: [String; 2],
    ) -> Eds {
        let creds = creds.display().to_string();
        let args = ["stream", "--port", "0", "--server", servers, "--creds", &creds];
        let mut args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        args.extend(source);
        args.extend(["--data-dir".to_owned(), dir.path().join("data").display().to_string()]);
        Eds { dir, args, url: url.to_owned(), env: Vec::new(), disks: None }
    }

    pub fn with(mut self, args: &[&str]) -> Eds {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Eds {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn start(&self, more: &[&str]) -> Running {
        let log = self.dir.path().join(format!(
            "log-{}",
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.as_nanos())
        ));
        let file = std::fs::File::create(&log).unwrap_or_else(|e| panic!("{e}"));
        let child = self
            .command()
            .args(&self.args)
            .args(more)
            .env("EDS_URL", &self.url)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn();
        Running { child: child.unwrap_or_else(|e| panic!("{e}")), log }
    }

    /// Imports the files of a directory, with the schemas of a file.
    pub fn import(&self, export: &Path, schemas: &Path) -> Output {
        let mut command = self.command();
        command.env("EDS_URL", &self.url).args(["import", "--no-confirm", "--dir"]).arg(export);
        command.arg("--schema").arg(schemas).arg("--data-dir").arg(self.data_dir());
        command.output().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The first run: from the beginning of the stream, until nothing is pending.
    pub fn catch_up_first(&self) {
        let ended = self.start(&["--until-caught-up"]).wait(Duration::from_secs(600));
        assert!(ended.status.success(), "{}", ended.log);
    }

    /// Makes the consumer at the beginning of the stream, and stops.
    pub fn begin(&self) {
        let running = self.start(&["--restart", "--minPendingLatency", "1h"]);
        until_ok(Duration::from_secs(60), || {
            let log = running.log();
            if log.contains("streaming eds-") { Ok(()) } else { Err(log) }
        });
        running.kill();
    }

    /// Starts and kills it, so many times, each after so many milliseconds as `rng` draws. Every
    /// second of these times, the first included, begins where it streams, so that a slow machine
    /// does not kill beginnings only.
    pub async fn kill_at_random(
        &self,
        times: u32,
        mut rng: fastrand::Rng,
        after_ms: std::ops::Range<u64>,
    ) {
        for n in 0..times {
            let mut running = self.start(&["--restart=false"]);
            let deadline = Instant::now() + Duration::from_secs(30);
            while n % 2 == 0
                && running.is_running()
                && !running.log().contains("streaming eds-")
                && Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(after_ms.clone()))).await;
            running.kill();
        }
    }

    /// Runs until nothing is pending, and expects success.
    pub fn catch_up(&self) -> String {
        let ended =
            self.start(&["--restart=false", "--until-caught-up"]).wait(Duration::from_secs(600));
        assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
        ended.log
    }

    /// The same where the destination may fail at any moment: a start that finds it away (exit code
    /// 3) is made again, as a supervisor makes it.
    pub fn catch_up_supervised(&self) {
        for _ in 0..10 {
            let ended = self
                .start(&["--restart=false", "--until-caught-up"])
                .wait(Duration::from_secs(600));
            match ended.status.code() {
                Some(0) => return,
                Some(3) => {}
                _ => panic!("{:?}\n{}", ended.status, ended.log),
            }
        }
        panic!("the destination was away at each of ten starts");
    }
}

impl Running {
    /// Runs a command whose words go to a file.
    pub fn start(mut command: Command, log: PathBuf) -> Running {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|e| panic!("{e}"));
        let out = file.try_clone().unwrap_or_else(|e| panic!("{e}"));
        command.stdin(Stdio::null()).stdout(out).stderr(file);
        let child = until_ok(Duration::from_secs(10), || match command.spawn() {
            Ok(child) => Ok(child),
            // A process that another thread is about to start still has the program open.
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => Err(e.to_string()),
            Err(e) => panic!("{e}"),
        });
        Running { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has `text`.
    pub async fn until_log(&self, text: &str, limit: Duration) {
        super::eventually(&format!("the log has {text:?}"), limit, async || {
            self.log().contains(text)
        })
        .await;
    }

    /// Waits until it streams.
    pub async fn until_streaming(&self) {
        self.until_log("streaming eds-", Duration::from_secs(60)).await;
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|s| s.is_none())
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then the end.
    pub fn stop(self) -> Ended {
        super::send(self.pid(), "TERM");
        self.wait(Duration::from_secs(60))
    }

    pub fn wait(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ended { status, log: self.log() };
            }
            assert!(Instant::now() < deadline, "eds did not end within {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
