//! MySQL and MariaDB: one server of each for all tests, a database for each test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;

use super::disks::{Disks, within};
use super::{
    Server, block_on, eventually, free_port, fresh, installed, on_small_disk,
    small_disks_can_be_made,
};

pub const PASSWORD: &str = "s3cret/p@ss:w%rd";
/// The rights that docs/destinations/mysql.md names.
pub const RIGHTS: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    MySql,
    MariaDb,
}

pub struct MySql {
    pub flavour: Flavour,
    pub port: u16,
    // Ended before its directory goes: without that, mysqld hangs.
    pub server: Option<Server>,
    /// A disk of a few MiB that only this server sees, and that goes with it.
    small_disk: Option<PathBuf>,
    /// Where its data are, if it has a disk of its own that stays.
    pub disks: Option<Disks>,
    dir: TempDir,
}

/// Temporary files go to `temporary`: a server that starts removes what others have in the place
/// that they share.
fn run(disks: Option<&Disks>, program: &Path, args: &[String], temporary: &Path) {
    let done = within(disks)
        .arg(program)
        .args(args)
        .env("TMPDIR", temporary)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `cargo x test` installs it", program.display()));
    assert!(
        done.status.success(),
        "{}: {}{}",
        program.display(),
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

impl MySql {
    pub async fn start(flavour: Flavour) -> MySql {
        MySql::start_with(flavour, &[]).await
    }

    /// A server with a small disk, and the directory of that; `None` where the system lets nobody
    /// make one.
    pub async fn with_small_disk(flavour: Flavour) -> Option<(MySql, String)> {
        if !small_disks_can_be_made() {
            return None;
        }
        let mut mysql = MySql::made(flavour, &[], false);
        let disk = mysql.dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
        mysql.small_disk = Some(disk.clone());
        mysql.begin(&[]).await;
        Some((mysql, disk.display().to_string()))
    }

    /// Makes a server; some settings have to be there from the beginning.
    pub async fn start_with(flavour: Flavour, settings: &[&str]) -> MySql {
        let mut mysql = MySql::made(flavour, settings, false);
        mysql.begin(settings).await;
        mysql
    }

    /// A server whose data have a disk of their own, if this machine lets us make one.
    pub async fn on_disk(flavour: Flavour) -> MySql {
        let mut mysql = MySql::made(flavour, &[], true);
        mysql.begin(&[]).await;
        mysql
    }

    /// One that was not started yet.
    fn made(flavour: Flavour, settings: &[&str], on_disk: bool) -> MySql {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let directory = dir.path().join("data");
        std::fs::create_dir(&directory).unwrap_or_else(|e| panic!("{e}"));
        let disks = if on_disk { Disks::on(&[&directory], "root") } else { None };
        let data = format!("--datadir={}", directory.display());
        let temporary = dir.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap_or_else(|e| panic!("{e}"));
        let mysql =
            MySql { flavour, port: free_port(), dir, small_disk: None, disks, server: None };
        let more = settings.iter().map(|s| format!("--{s}"));
        match flavour {
            Flavour::MySql => {
                run(
                    mysql.disks.as_ref(),
                    &mysql.program(),
                    &[
                        data,
                        "--initialize-insecure".into(),
                        "--innodb-redo-log-capacity=64M".into(),
                    ]
                    .into_iter()
                    .chain(more)
                    .collect::<Vec<_>>(),
                    &temporary,
                );
            }
            Flavour::MariaDb => {
                let args = [
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--user=root",
                    "--skip-test-db",
                ]
                .map(str::to_owned);
                run(
                    mysql.disks.as_ref(),
                    Path::new("mariadb-install-db"),
                    &args.into_iter().chain([data]).collect::<Vec<_>>(),
                    &temporary,
                );
            }
        }
        mysql
    }

    /// Starts the server for the first time, and makes EDS's user.
    async fn begin(&mut self, settings: &[&str]) {
        self.run(settings).await;
        let mut root = self.connect("").await;
        for sql in [
            format!("CREATE USER eds@'%' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT {RIGHTS} ON `test\\_%`.* TO eds@'%'"),
        ] {
            root.query_drop(&sql).await.unwrap_or_else(|e| panic!("{e}"));
        }
    }

    fn program(&self) -> PathBuf {
        match self.flavour {
            Flavour::MySql => installed("mysqld"),
            Flavour::MariaDb => PathBuf::from("/usr/sbin/mariadbd"),
        }
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("my.sock")
    }

    /// Starts the server (again), with further settings.
    pub async fn run(&mut self, settings: &[&str]) {
        let dir = self.dir.path();
        let mut args: Vec<String> = if self.flavour == Flavour::MariaDb {
            vec!["--no-defaults".into()]
        } else {
            vec!["--mysqlx=OFF".into(), "--innodb-redo-log-capacity=1G".into()]
        };
        args.extend(
            [
                "--user=root",
                "--bind-address=127.0.0.1",
                "--local-infile=ON",
                "--skip-log-bin",
                "--innodb-buffer-pool-size=256M",
                "--performance-schema=OFF",
            ]
            .map(str::to_owned),
        );
        args.push(format!("--port={}", self.port));
        for (key, name) in [
            ("datadir", "data"),
            ("socket", "my.sock"),
            ("pid-file", "my.pid"),
            ("log-error", "my.log"),
        ] {
            args.push(format!("--{key}={}", dir.join(name).display()));
        }
        args.extend(settings.iter().map(|s| format!("--{s}")));
        let mut wrapper = match &self.small_disk {
            None => within(self.disks.as_ref()),
            Some(disk) => on_small_disk(disk, "root"),
        };
        if let (Some(disk), Flavour::MySql) = (&self.small_disk, self.flavour) {
            args.push(format!("--innodb-directories={}", disk.display()));
        }
        wrapper.env("TMPDIR", dir.join("tmp"));
        self.server = Some(Server::start(
            wrapper,
            &self.program().display().to_string(),
            &args,
            &dir.join("out"),
            "TERM",
        ));
        eventually("the server answers", Duration::from_secs(60), async || {
            self.try_connect("").await.is_ok()
        })
        .await;
    }

    /// Whether it answers.
    pub async fn answers(&self) -> bool {
        self.try_connect("").await.is_ok()
    }

    /// Where its directory is.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    async fn try_connect(&self, database: &str) -> Result<Conn, mysql_async::Error> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some("root"))
            .prefer_socket(false);
        let options = if database.is_empty() { options } else { options.db_name(Some(database)) };
        let mut conn = Conn::new(options).await?;
        conn.query_drop("SET time_zone = '+00:00'").await?;
        Ok(conn)
    }

    /// As an administrator.
    pub async fn connect(&self, database: &str) -> Conn {
        self.try_connect(database).await.unwrap_or_else(|e| panic!("{database}: {e}"))
    }

    /// A fresh database: its name and URL.
    pub async fn database(&self) -> (String, String) {
        let name = fresh("test_");
        self.connect("")
            .await
            .query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        (name.clone(), self.url(&name))
    }

    pub fn url(&self, database: &str) -> String {
        format!("mysql://eds:s3cret%2Fp%40ss%3Aw%25rd@127.0.0.1:{}/{database}", self.port)
    }
}

/// The server that tests share, unless they restart it.
pub fn shared(flavour: Flavour) -> &'static MySql {
    static SHARED: [OnceLock<Option<MySql>>; 2] = [OnceLock::new(), OnceLock::new()];
    let (cell, name) = match flavour {
        Flavour::MySql => (&SHARED[0], "MySQL"),
        Flavour::MariaDb => (&SHARED[1], "MariaDB"),
    };
    // With the table of locks, from which EDS names those who keep a table locked.
    let settings: &[&str] =
        if flavour == Flavour::MySql { &["performance-schema=ON"] } else { &[] };
    super::shared(cell, name, move || block_on(MySql::start_with(flavour, settings)))
}
