//! A database that is far away: a backlog and an idle stream through a wire that delays everything
//! by 0, 2, 20 and 100 ms in each direction. Run by `cargo x bench distance [EVENTS]`.

use std::time::{Duration, Instant};

use eds::sandbox::shop::{Shop, ShopOptions};
use mysql_async::prelude::Queryable;

use crate::cost::peak_mib;
use crate::figure;
use crate::services::eds::{Eds, Running};
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::proxy::Proxy;

const DELAYS_MS: [u64; 4] = [0, 2, 20, 100];
/// Changes whose way is timed, one after the other.
const CHANGES: usize = 60;
/// Changes that make the tables.
const FIRST: usize = 2_000;
/// Between two looks at the destination.
const POLL: Duration = Duration::from_micros(500);

/// A server that is looked at without the delay.
enum Looked {
    Postgres(Postgres),
    MySql(MySql),
}

impl Looked {
    async fn database(&self) -> (String, String) {
        match self {
            Looked::Postgres(server) => server.database().await,
            Looked::MySql(server) => server.database().await,
        }
    }

    async fn look(&self, database: &str) -> Look {
        match self {
            Looked::Postgres(server) => Look::Postgres(server.connect(database).await),
            Looked::MySql(server) => Look::MySql(server.connect(database).await),
        }
    }
}

/// A client that looks at the checkpoint.
enum Look {
    Postgres(tokio_postgres::Client),
    MySql(mysql_async::Conn),
}

impl Look {
    /// Waits until the checkpoint has come so far.
    async fn until(&mut self, sequence: i64) {
        let sql = "SELECT stream_sequence FROM _eds_checkpoint";
        loop {
            let found = match self {
                Look::Postgres(client) => {
                    client.query_one(sql, &[]).await.ok().map(|row| row.get::<_, i64>(0))
                }
                Look::MySql(conn) => conn.query_first::<i64, _>(sql).await.ok().flatten(),
            };
            if found >= Some(sequence) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

pub async fn bench(args: &[String]) {
    let events = args.iter().find_map(|a| a.parse().ok()).unwrap_or(100_000);
    println!("{events} events of twelve tables; all on this machine\n");
    println!(
        "| server | delay each way | events/s | of 0 ms | idle p50 | idle p99 | peak memory |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let only = args.get(1).cloned().unwrap_or_default();
    if only.is_empty() || only == "postgres" {
        measure("PostgreSQL", Looked::Postgres(Postgres::start().await), events).await;
    }
    for (name, flavour) in [("MySQL", Flavour::MySql), ("MariaDB", Flavour::MariaDb)] {
        if only.is_empty() || only == name.to_lowercase() {
            measure(name, Looked::MySql(MySql::start(flavour).await), events).await;
        }
    }
}

async fn measure(name: &str, server: Looked, events: usize) {
    let mut near = None;
    for ms in DELAYS_MS {
        let nats = Nats::start().await;
        let mut shop = Shop::new(1, ShopOptions::default());
        let (database, url) = server.database().await;
        let port: u16 = url
            .rsplit_once(':')
            .and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{url} has a port"));
        let wire = Proxy::delayed(port, Duration::from_millis(ms)).await;
        let url = url.replacen(&format!(":{port}/"), &format!(":{}/", wire.port), 1);
        let creds = nats.server_creds("bench", &["c0", "c1", "c2"], None);
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        // The tables are there when the time is taken.
        publish(&nats, &mut shop, FIRST).await;
        let first = eds.start(&["--restart", "--until-caught-up"]).wait(Duration::from_secs(300));
        assert!(first.status.success(), "{}", first.log);
        publish(&nats, &mut shop, events).await;
        let running = eds.start(&["--restart=false"]);
        streaming(&running).await;
        let mut look = server.look(&database).await;
        let started = Instant::now();
        look.until((FIRST + events) as i64).await;
        let rate = events as f64 / started.elapsed().as_secs_f64();
        let near = *near.get_or_insert(rate);
        let waits = idle(&nats, &mut shop, &mut look, FIRST + events).await;
        let peak_mib = peak_mib(running.pid());
        running.kill();
        let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
        if ms > 0 {
            let what = format!("{name}, a backlog through {ms} ms each way");
            figure::rates((&what, "the same through 0 ms"), rate, near, Some(peak_mib));
            let what = format!("{name}, idle: p50 through {ms} ms each way");
            figure::waits((&what, "one round trip"), at(50), Duration::from_millis(2 * ms));
        }
        println!(
            "| {name} | {ms} ms | {rate:.0} | {:.2} | {:.1?} | {:.1?} | {peak_mib:.0} MiB |",
            rate / near,
            at(50),
            at(99),
        );
    }
}

async fn publish(nats: &Nats, shop: &mut Shop, events: usize) {
    let made: Vec<_> = (0..events).map(|_| shop.next_event()).collect();
    nats.publish(made.into_iter().map(|e| (e.subject, e.payload.into_bytes()))).await;
}

async fn streaming(running: &Running) {
    running.until_streaming().await;
}

/// From publishing a change to its being there, of changes that come one by one.
async fn idle(nats: &Nats, shop: &mut Shop, look: &mut Look, before: usize) -> Vec<Duration> {
    let mut waits = Vec::new();
    for sequence in before + 1..=before + CHANGES {
        let Some(event) = shop.insert_into("order") else { continue };
        let started = Instant::now();
        nats.publish(std::iter::once((event.subject, event.payload.into_bytes()))).await;
        look.until(sequence as i64).await;
        // The first ones prepare the statements.
        if sequence > before + 5 {
            waits.push(started.elapsed());
        }
    }
    waits.sort();
    waits
}
