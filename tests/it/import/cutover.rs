//! Where import and stream meet: whatever the order of export, stream and import, the destination
//! ends equal to the shop.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};

use crate::services::eds::Eds;
use crate::services::eventually;
use crate::services::hq::Importing;
use crate::services::mysql::{self, Flavour};
use crate::services::nats::Nats;
use crate::services::postgres;
use crate::services::scene::{COMPANIES, Keeper, assert_equal, publish};

/// A shop behind HQ that publishes what happens to it, a destination, and an `eds` between them.
struct Place<'s> {
    nats: Nats,
    importing: Importing,
    server: &'s dyn Keeper,
    database: String,
    url: String,
    eds: Eds,
}

impl<'s> Place<'s> {
    async fn new(server: &'s dyn Keeper, seed: u64, name: &str) -> Place<'s> {
        let nats = Nats::start().await;
        // Times of changes are those of today, as those of messages are.
        let mut shop = Shop::new(seed, ShopOptions { rows: 2_000, repeats: 0 });
        shop.begin_now();
        let importing = Importing::of(shop, 200).await;
        let (database, url) = server.fresh().await;
        server.allow_imports(&database).await;
        let creds = nats.server_creds(name, COMPANIES, None);
        let eds = Eds::stream(&nats, &creds, &url, &importing.shop().schema_map());
        Place { nats, importing, server, database, url, eds }
    }

    /// So many changes happen, and are published.
    async fn changes(&self, events: u64) {
        let mut shop = self.importing.shop();
        publish(&self.nats, &mut shop, events).await;
        *self.importing.shop.lock().unwrap_or_else(|e| panic!("{e}")) = shop;
    }

    async fn import(&self, args: &[&str]) -> String {
        self.importing.import(&self.url, args).await
    }

    /// Changes happen while the export is made and loaded.
    async fn import_among_changes(&self, args: &[&str]) {
        let (said, ()) = tokio::join!(self.import(args), async {
            for _ in 0..8 {
                self.changes(150).await;
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        });
        assert!(said.contains("holds the export"), "{said}");
    }

    async fn caught_up_and_equal(&self) -> String {
        let log = self.eds.catch_up();
        assert_equal(&self.importing.shop(), self.server, &self.database).await;
        log
    }
}

async fn nothing_is_lost_at_the_cutover(server: &dyn Keeper, name: &str) {
    let place = Place::new(server, 41, name).await;
    place.changes(2_000).await;
    // First of all an import, with changes under way; the stream begins where its snapshot was.
    place.import_among_changes(&[]).await;
    place.caught_up_and_equal().await;
    // Again, though the server has moved on beyond the snapshot: what it applied since is applied
    // again.
    place.changes(500).await;
    place.import_among_changes(&[]).await;
    place.caught_up_and_equal().await;
    // One table only, with another one behind: events of both are pending.
    place.changes(700).await;
    place.import_among_changes(&["--only", "order"]).await;
    place.changes(300).await;
    place.caught_up_and_equal().await;
    // Rows are added to those of the table; what was deleted meanwhile is known from the stream
    // alone.
    place.changes(900).await;
    place.import_among_changes(&["--no-delete"]).await;
    place.caught_up_and_equal().await;
    // Two imports in a row, the second of other tables, before the stream goes on.
    place.changes(400).await;
    place.import_among_changes(&["--only", "customer,payment"]).await;
    place.import_among_changes(&["--only", "payment,labor"]).await;
    place.caught_up_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_at_the_cutover_in_postgres() {
    nothing_is_lost_at_the_cutover(postgres::shared(), "cutover-p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_at_the_cutover_in_mysql() {
    nothing_is_lost_at_the_cutover(mysql::shared(Flavour::MySql), "cutover-m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_at_the_cutover_in_mariadb() {
    nothing_is_lost_at_the_cutover(mysql::shared(Flavour::MariaDb), "cutover-a").await;
}

/// A server that streams into the tables meanwhile, from another data directory, is stopped by the
/// import, and what it has applied since the snapshot is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_streams_meanwhile_ends_and_loses_nothing() {
    for server in [postgres::shared() as &dyn Keeper, mysql::shared(Flavour::MySql)] {
        let place = Place::new(server, 42, "cutover-r").await;
        place.changes(1_000).await;
        let mut running = place.eds.start(&["--restart"]);
        running.until_streaming().await;
        place.import_among_changes(&[]).await;
        place.changes(50).await;
        eventually("the server has ended", Duration::from_secs(60), async || !running.is_running())
            .await;
        let log = running.log();
        assert!(log.contains("an import has replaced its tables"), "{log}");
        place.changes(200).await;
        place.caught_up_and_equal().await;
    }
}

/// Changes after the snapshot are no longer in the stream: EDS reports that, and another import
/// cures it.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_too_old_for_the_stream_is_reported() {
    let place = Place::new(postgres::shared(), 43, "cutover-g").await;
    // An export of long ago.
    {
        let mut shop = place.importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        shop.begin_at(1_720_732_611_000_000_000);
        (0..500).for_each(|_| drop(shop.next_event()));
    }
    place.import(&[]).await;
    place.changes(300).await;
    place.nats.purge(200).await;
    place.importing.shop.lock().unwrap_or_else(|e| panic!("{e}")).begin_now();
    let log = place.eds.catch_up();
    assert!(
        log.contains("changes may be missing: the import shows the source as of 2024-07-11"),
        "{log}"
    );
    place.import_among_changes(&[]).await;
    let log = place.caught_up_and_equal().await;
    assert!(!log.contains("changes may be missing"), "{log}");
}
