//! PgBouncer before a PostgreSQL server.

use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::postgres::{PASSWORD, Postgres, as_postgres, give_to_postgres};
use super::{Server, eventually, free_port};

pub struct PgBouncer {
    port: u16,
    _server: Server,
    _dir: TempDir,
}

impl PgBouncer {
    /// Pools sessions of that server. `mode`: PgBouncer's `pool_mode`.
    pub async fn start(before: &Postgres, mode: &str) -> PgBouncer {
        let (port, dir) = (free_port(), TempDir::new().unwrap_or_else(|e| panic!("{e}")));
        let file = dir.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres password='{PASSWORD}'\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n",
            before.port
        );
        std::fs::write(&file, settings).unwrap_or_else(|e| panic!("{e}"));
        give_to_postgres(dir.path());
        let args = [file.display().to_string()];
        let log = dir.path().join("log");
        let server = Server::start(as_postgres(), "/usr/sbin/pgbouncer", &args, &log, "INT");
        eventually("PgBouncer answers", Duration::from_secs(60), async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        PgBouncer { port, _server: server, _dir: dir }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}
