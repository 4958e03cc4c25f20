//! Where a demo's changes come from: through a NATS server if there is one, else straight from the
//! shop.

use std::path::Path;

use tokio::sync::watch;

use super::feed::ShopFeed;
#[cfg(feature = "jetstream")]
use super::nats::{DemoStream, EventPublisher, NatsServer};
use super::shop::ShopOptions;
use crate::feed::{Feed, FeedError};

#[cfg(feature = "jetstream")]
type DemoServer = NatsServer;
#[cfg(not(feature = "jetstream"))]
type DemoServer = ();

/// A feed of the shop's changes, and what fills it.
pub struct DemoSource {
    /// Delivers the changes.
    pub feed: Box<dyn Feed>,
    /// The name of the feed's consumer.
    pub consumer: String,
    /// Where the changes travel.
    pub transport: Transport,
    /// The same, in a sentence.
    pub sentence: String,
    /// A server that was started for the demo ends with it.
    pub server: Option<DemoServer>,
}

/// Where the changes travel.
pub enum Transport {
    /// The feed makes them itself.
    Direct,
    /// They are published on NATS.
    #[cfg(feature = "jetstream")]
    Nats(Box<EventPublisher>),
}

impl DemoSource {
    /// Chooses the NATS server at `server`, or else a `nats-server` of the PATH with its files in
    /// `folder`, or else none, as with `no_nats`. `due` says how many changes the shop of `seed` is
    /// to have made by now.
    pub async fn choose(
        seed: u64,
        server: Option<&str>,
        no_nats: bool,
        folder: &Path,
        due: watch::Receiver<u64>,
    ) -> Result<DemoSource, FeedError> {
        #[cfg(feature = "jetstream")]
        if let Some(nats) =
            NatsServer::find(server, no_nats, folder).await.map_err(FeedError::Misconfigured)?
        {
            let DemoStream { feed, publisher, consumer } = nats.demo_stream().await?;
            return Ok(DemoSource {
                feed,
                consumer,
                transport: Transport::Nats(Box::new(publisher)),
                sentence: format!("Through NATS JetStream at {}.", nats.url()),
                server: Some(nats),
            });
        }
        #[cfg(not(feature = "jetstream"))]
        let _ = (server, folder);
        let why = if no_nats { "" } else { "there is no nats-server on the PATH, so " };
        Ok(DemoSource {
            feed: Box::new(ShopFeed::new(seed, ShopOptions::default(), due)),
            consumer: "eds-demo".into(),
            transport: Transport::Direct,
            sentence: format!("Without NATS: {why}the shop feeds the pipeline directly."),
            server: None,
        })
    }
}

impl Transport {
    /// Publishes what is due until the shop closes; how many that were, where it is this way that
    /// counts.
    pub async fn publish(
        self,
        seed: u64,
        due: watch::Receiver<u64>,
    ) -> Result<Option<u64>, String> {
        match self {
            Transport::Direct => {
                let _ = (seed, due);
                Ok(None)
            }
            #[cfg(feature = "jetstream")]
            Transport::Nats(publisher) => {
                let shop = super::shop::Shop::new(seed, ShopOptions::default());
                publisher.publish(shop, due).await.map(Some)
            }
        }
    }
}
