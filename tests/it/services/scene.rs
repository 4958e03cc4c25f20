//! What most tests begin with: a NATS server, a fresh database, a shop, and an `eds` that streams
//! between them.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use eds::sandbox::check::{self, TableReport};
use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::json;

use super::Server;
use super::disks::Disks;
use super::eds::Eds;
use super::mysql::{MySql, RIGHTS};
use super::nats::Nats;
use super::postgres::{self, Postgres, WAL_BYTES_MAX};
use super::snowflake::Snowflake;
use super::tds::{FakeSqlServer, Fault};

/// A database server under test, read with a client of its own.
#[async_trait(?Send)]
pub trait Keeper: Send + Sync {
    /// A fresh database: its name and URL.
    async fn fresh(&self) -> (String, String);
    /// Gives the user what imports need beyond streaming.
    async fn allow_imports(&self, _database: &str) {}
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String>;
    fn stop(&mut self);
    /// Ends at once, as at a power cut.
    fn crash(&mut self);
    async fn start_again(&mut self);
    /// Where its data are, if copies of them can be put back.
    fn data(&self) -> Option<PathBuf> {
        None
    }
    /// The disk of its own that its data have.
    fn disks(&mut self) -> Option<&mut Disks> {
        None
    }
    fn process(&mut self) -> Option<&mut Server> {
        None
    }
    async fn answers(&self) -> bool {
        true
    }
    /// Its columns become wider by themselves, and what was in them is read back as it was.
    fn widens(&self) -> bool {
        true
    }
    /// It does what such a service does at times, or no more. Whether it can.
    fn disturb(&mut self, _database: &str, _disturbed: bool) -> bool {
        false
    }
}

#[async_trait(?Send)]
impl Keeper for Postgres {
    async fn fresh(&self) -> (String, String) {
        self.database().await
    }
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String> {
        check::postgres(shop, &self.connect(database).await).await
    }
    fn stop(&mut self) {
        self.server = None;
    }
    fn crash(&mut self) {
        // Its children go with it.
        if let Some(mut server) = self.server.take() {
            server.crash("QUIT");
        }
    }
    async fn start_again(&mut self) {
        // After a crash it reads its log from the last checkpoint on before it answers.
        self.run(&[WAL_BYTES_MAX, "checkpoint_timeout=30s"]).await;
    }
    fn data(&self) -> Option<PathBuf> {
        Some(self.directory().join("data"))
    }
    fn disks(&mut self) -> Option<&mut Disks> {
        self.disks.as_mut()
    }
    fn process(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }
    async fn answers(&self) -> bool {
        Postgres::answers(self).await
    }
}

#[async_trait(?Send)]
impl Keeper for MySql {
    async fn fresh(&self) -> (String, String) {
        self.database().await
    }
    async fn allow_imports(&self, database: &str) {
        let mut root = self.connect("").await;
        let sql = format!(
            "GRANT {RIGHTS}, DROP, TRIGGER ON `{}`.* TO eds@'%'",
            database.replace('_', "\\_")
        );
        mysql_async::prelude::Queryable::query_drop(&mut root, sql)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String> {
        check::mysql(shop, &mut self.connect(database).await).await
    }
    fn stop(&mut self) {
        self.server = None;
    }
    fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.crash("KILL");
        }
    }
    async fn start_again(&mut self) {
        self.run(&[]).await;
    }
    fn data(&self) -> Option<PathBuf> {
        Some(self.directory().join("data"))
    }
    fn disks(&mut self) -> Option<&mut Disks> {
        self.disks.as_mut()
    }
    fn process(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }
    async fn answers(&self) -> bool {
        MySql::answers(self).await
    }
}

#[async_trait(?Send)]
impl Keeper for &'static Snowflake {
    async fn fresh(&self) -> (String, String) {
        Snowflake::fresh(self)
    }
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String> {
        Ok(Snowflake::reports(self, shop, database))
    }
    fn stop(&mut self) {}
    fn crash(&mut self) {}
    async fn start_again(&mut self) {}
}

/// One of its own, which can be down.
#[async_trait(?Send)]
impl Keeper for Snowflake {
    async fn fresh(&self) -> (String, String) {
        Snowflake::fresh(self)
    }
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String> {
        Ok(Snowflake::reports(self, shop, database))
    }
    fn stop(&mut self) {
        self.crash();
    }
    fn crash(&mut self) {
        self.set_down(true);
    }
    async fn start_again(&mut self) {
        self.set_down(false);
    }
    fn process(&mut self) -> Option<&mut Server> {
        Some(&mut self.server)
    }
    fn widens(&self) -> bool {
        false
    }
    fn disturb(&mut self, database: &str, disturbed: bool) -> bool {
        let shares = match disturbed {
            true => {
                json!({
                    "expire": 0.02, "throttle": 0.03, "lose": 0.03, "slow": 0.05, "forget": 0.01,
                    "steal": 0.05,
                })
            }
            false => json!({}),
        };
        Snowflake::disturb(self, database, shares);
        true
    }
}

/// The stand-in, whose tables can be read behind its back.
#[async_trait(?Send)]
impl Keeper for FakeSqlServer {
    async fn fresh(&self) -> (String, String) {
        let database = super::fresh("shop_");
        let url = self.url(&database);
        (database, url)
    }
    async fn reports(&self, shop: &Shop, database: &str) -> Result<Vec<TableReport>, String> {
        check::sqlite(shop, &self.file(database).display().to_string())
    }
    fn stop(&mut self) {
        FakeSqlServer::crash(self);
    }
    fn crash(&mut self) {
        FakeSqlServer::crash(self);
    }
    async fn start_again(&mut self) {
        self.run();
    }
    fn data(&self) -> Option<PathBuf> {
        Some(self.directory().to_owned())
    }
    /// What the stand-in keeps of a decimal is text.
    fn widens(&self) -> bool {
        false
    }
    fn disturb(&mut self, _: &str, disturbed: bool) -> bool {
        match disturbed {
            true => DISTURBANCES.into_iter().for_each(|fault| self.inject(fault)),
            false => self.calm(),
        }
        true
    }
}

/// What Azure's SQL Server does to its clients now and then: each happens once.
const DISTURBANCES: [Fault; 6] = [
    Fault::CutAfter("COMMIT"),
    Fault::Error("UPDATE t SET", 1205),
    Fault::Error("COMMIT", 3998),
    Fault::CutBefore("COMMIT"),
    Fault::Error("BEGIN TRANSACTION", 40501),
    Fault::CutAfter("INSERT BULK"),
];

/// The companies of the shop.
pub const COMPANIES: &[&str] = &["c0", "c1", "c2"];

pub struct Scene {
    pub nats: Nats,
    pub server: &'static Postgres,
    pub database: String,
    pub url: String,
    pub shop: Shop,
    pub eds: Eds,
    name: String,
    creds: PathBuf,
}

impl Scene {
    /// `name` is the server's id at NATS.
    pub async fn new(name: &str, seed: u64) -> Scene {
        let nats = Nats::start().await;
        let server = postgres::shared();
        let (database, url) = server.database().await;
        let shop = Shop::new(seed, ShopOptions::default());
        let creds = nats.server_creds(name, COMPANIES, None);
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        Scene { nats, server, database, url, shop, eds, name: name.to_owned(), creds }
    }

    /// A second `eds` between the same two, with a data directory of its own.
    pub fn another(&self) -> Eds {
        Eds::stream(&self.nats, &self.creds, &self.url, &self.shop.schema_map())
    }

    pub async fn publish(&mut self, events: u64) {
        publish(&self.nats, &mut self.shop, events).await;
    }

    /// The consumer's state, as [`Nats::consumer`] tells it.
    pub async fn consumer(&self) -> (usize, u64, u64) {
        self.nats.consumer(&format!("eds-{}", self.name)).await
    }

    /// Nothing waits for delivery or acknowledgement.
    pub async fn is_idle(&self) -> bool {
        let (unacknowledged, undelivered, _) = self.consumer().await;
        (unacknowledged, undelivered) == (0, 0)
    }

    pub async fn until_idle(&self) {
        super::eventually(
            "everything is applied and acknowledged",
            Duration::from_secs(60),
            async || self.is_idle().await,
        )
        .await;
    }

    pub async fn assert_equal(&self) {
        assert_equal(&self.shop, self.server, &self.database).await;
    }

    pub async fn until_equal(&self) {
        super::eventually(
            "the destination is equal to the shop",
            Duration::from_secs(60),
            async || {
                self.server
                    .reports(&self.shop, &self.database)
                    .await
                    .is_ok_and(|reports| reports.iter().all(TableReport::is_equal))
            },
        )
        .await;
    }
}

pub async fn publish(nats: &Nats, shop: &mut Shop, events: u64) {
    let messages = (0..events).map(|_| {
        let event = shop.next_event();
        (event.subject, event.payload.into_bytes())
    });
    nats.publish(messages).await;
}

/// Reads every row back with a client of its own.
pub async fn assert_equal(shop: &Shop, server: &dyn Keeper, database: &str) {
    let reports = server.reports(shop, database).await.unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = reports.iter().filter(|r| !r.is_equal()).map(check::line).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(reports.iter().map(|r| r.expected).sum::<usize>() > 0);
}
