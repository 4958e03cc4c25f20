//! PostgreSQL: one server for all tests, a database for each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::disks::{Disks, within};
use super::{
    Server, block_on, eventually, free_port, fresh, on_small_disk, small_disks_can_be_made,
};

pub const PASSWORD: &str = "s3cret/p@ss:w%rd";

/// Its log stays small, where a disk is memory.
pub const WAL_BYTES_MAX: &str = "max_wal_size=256MB";

pub struct Postgres {
    pub port: u16,
    pub server: Option<Server>,
    /// A disk of a few MiB that only this server sees, and that goes with it.
    small_disk: Option<PathBuf>,
    /// Where its data are, if it has a disk of its own that stays.
    pub disks: Option<Disks>,
    dir: TempDir,
}

/// Where initdb and postgres are.
fn programs() -> PathBuf {
    let find = |dir: PathBuf| dir.join("initdb").exists().then_some(dir);
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"));
    let by_config = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .ok()
        .map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    let mut all: Vec<PathBuf> = versions.chain(by_config).filter_map(find).collect();
    all.sort();
    all.pop().unwrap_or_else(|| {
        panic!("PostgreSQL's programs are not on this machine; `cargo x test` installs them")
    })
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"))
}

/// PostgreSQL does not run as root.
pub fn as_postgres() -> Command {
    as_postgres_within(None)
}

fn as_postgres_within(disks: Option<&Disks>) -> Command {
    let mut command = within(disks);
    if is_root() {
        command.args(["runuser", "-u", "postgres", "--"]);
    }
    command.current_dir("/");
    command
}

/// Whoever [`as_postgres`] starts may read and write all that is in `dir`.
pub fn give_to_postgres(dir: &Path) {
    if is_root() {
        let owned = Command::new("chown").args(["-R", "postgres"]).arg(dir).status();
        assert!(owned.is_ok_and(|s| s.success()), "chown to postgres");
    }
}

impl Postgres {
    /// A server with a small disk, and the directory of that; `None` where the system lets nobody
    /// make one.
    pub async fn with_small_disk() -> Option<(Postgres, String)> {
        if !small_disks_can_be_made() {
            return None;
        }
        let mut postgres = Postgres::made(false);
        let disk = postgres.dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
        postgres.small_disk = Some(disk.clone());
        postgres.run(&[]).await;
        Some((postgres, disk.display().to_string()))
    }

    pub async fn start() -> Postgres {
        let mut postgres = Postgres::made(false);
        postgres.run(&[]).await;
        postgres
    }

    /// A server whose data have a disk of their own, if this machine lets us make one.
    pub async fn on_disk() -> Postgres {
        let mut postgres = Postgres::made(true);
        postgres.run(&[WAL_BYTES_MAX]).await;
        postgres
    }

    /// One that was not started yet.
    fn made(on_disk: bool) -> Postgres {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let data = dir.path().join("data");
        std::fs::write(dir.path().join("password"), PASSWORD).unwrap_or_else(|e| panic!("{e}"));
        std::fs::create_dir(&data).unwrap_or_else(|e| panic!("{e}"));
        let disks = if on_disk { Disks::on(&[&data], "postgres") } else { None };
        give_to_postgres(dir.path());
        let made = as_postgres_within(disks.as_ref())
            .arg(programs().join("initdb"))
            .args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .arg(format!("--pwfile={}", dir.path().join("password").display()))
            .output()
            .unwrap_or_else(|e| panic!("initdb: {e}"));
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Postgres { port: free_port(), dir, small_disk: None, disks, server: None }
    }

    /// Starts the server (again), with further settings.
    pub async fn run(&mut self, settings: &[&str]) {
        let program = programs().join("postgres").display().to_string();
        let mut args = vec![
            "-D".into(),
            self.dir.path().join("data").display().to_string(),
            "-p".into(),
            self.port.to_string(),
            "-k".into(),
            String::new(),
            "-h".into(),
            "127.0.0.1".into(),
        ];
        for setting in ["max_wal_size=2GB", "checkpoint_timeout=30min", "shared_buffers=256MB"]
            .iter()
            .chain(settings)
        {
            args.extend(["-c".to_owned(), (*setting).to_owned()]);
        }
        let wrapper = match &self.small_disk {
            None => as_postgres_within(self.disks.as_ref()),
            Some(disk) => {
                let mut command = on_small_disk(disk, "postgres");
                let user = as_postgres();
                command.arg(user.get_program()).args(user.get_args());
                command
            }
        };
        self.server =
            Some(Server::start(wrapper, &program, &args, &self.dir.path().join("log"), "INT"));
        eventually("PostgreSQL answers", Duration::from_secs(120), async || {
            self.try_connect("postgres").await.is_ok()
        })
        .await;
    }

    /// Whether it answers.
    pub async fn answers(&self) -> bool {
        self.try_connect("postgres").await.is_ok()
    }

    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .password(PASSWORD)
            .dbname(database);
        config
    }

    async fn try_connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config(database).connect(NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    pub async fn connect(&self, database: &str) -> Client {
        self.try_connect(database).await.unwrap_or_else(|e| panic!("{database}: {e}"))
    }

    /// A fresh database: its name and URL.
    pub async fn database(&self) -> (String, String) {
        let name = fresh("test_");
        let client = self.connect("postgres").await;
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        (name.clone(), self.url(&name))
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:s3cret%2Fp%40ss%3Aw%25rd@127.0.0.1:{}/{database}", self.port)
    }
}

/// The server that tests share, unless they restart it.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
    super::shared(&SHARED, "PostgreSQL", || block_on(Postgres::start()))
}
