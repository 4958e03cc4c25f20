//! An idle system: from publishing a change to its being visible in PostgreSQL, and the CPU that
//! EDS takes at rest. Run by `cargo x bench latency`.

use std::time::{Duration, Instant};

use eds::sandbox::shop::{Shop, ShopOptions};

use crate::figure;
use crate::services::eds::Eds;
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;

const CHANGES: usize = 300;
/// Between two looks at the destination: more often, and looking would be what is measured.
const POLL: Duration = Duration::from_micros(500);
const REST: Duration = Duration::from_secs(20);

pub async fn bench() {
    let (server, nats) = (Postgres::start().await, Nats::start().await);
    let (database, url) = server.database().await;
    let mut shop = Shop::new(1, ShopOptions::default());
    let creds = nats.server_creds("latency", &["c0", "c1", "c2"], None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map()).with(&["--restart"]);
    let running = eds.start(&[]);
    running.until_streaming().await;
    let client = server.connect(&database).await;
    let visible = client
        .prepare("SELECT stream_sequence FROM _eds_checkpoint")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let js = nats.admin().await;
    let mut waits = Vec::new();
    for sequence in 1..=CHANGES as i64 {
        let Some(event) = shop.insert_into("order") else { continue };
        tokio::time::sleep(Duration::from_millis(30)).await;
        let started = Instant::now();
        let ack =
            js.publish(event.subject, event.payload.into()).await.unwrap_or_else(|e| panic!("{e}"));
        while client.query_one(&visible, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) < sequence)
        {
            tokio::time::sleep(POLL).await;
        }
        // The first one makes the tables' plans.
        if sequence > 5 {
            waits.push(started.elapsed());
        }
        let _ = ack.await;
    }
    let bare = bare_commits(&client).await;
    for (what, percent) in
        [("PostgreSQL, idle: p50 from publication to sight", 50), ("the same, p99", 99)]
    {
        let compared = (what, "a bare commit of one row");
        figure::waits(compared, at(&waits, percent), at(&bare, percent));
    }
    show("publish to visible", &waits);
    show("a bare commit of one row", &bare);
    let before = cpu_ticks(running.pid());
    tokio::time::sleep(REST).await;
    let used = (cpu_ticks(running.pid()) - before) as f64 / 100.0;
    println!("at rest: {:.2} % of a core over {REST:?}", used / REST.as_secs_f64() * 100.0);
}

fn show(what: &str, waits: &[Duration]) {
    println!(
        "{what}: p50 {:.1?}, p90 {:.1?}, p99 {:.1?} of {}",
        at(waits, 50),
        at(waits, 90),
        at(waits, 99),
        waits.len()
    );
}

/// The wait that so many percent did not pass.
fn at(waits: &[Duration], percent: usize) -> Duration {
    let mut sorted = waits.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}

/// What the database alone takes on this machine.
async fn bare_commits(client: &tokio_postgres::Client) -> Vec<Duration> {
    client
        .batch_execute("CREATE TABLE bare (n int PRIMARY KEY, t text)")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let insert = client
        .prepare("INSERT INTO bare VALUES ($1, repeat('x', 3900))")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let mut waits = Vec::new();
    for n in 0..CHANGES as i32 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let started = Instant::now();
        client.execute(&insert, &[&n]).await.unwrap_or_else(|e| panic!("{e}"));
        waits.push(started.elapsed());
    }
    waits
}

/// User and system time in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<u64>().ok())
        .sum()
}
