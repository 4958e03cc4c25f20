//! `eds consumer`: the durable in words, and back to the form of the Go program.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;

use crate::services::hq::said;
use crate::services::site::Site;

/// Shown while a server runs; handed back once none does, at our position; and taken up again by
/// EDS.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_shown_handed_back_and_taken_up_again() {
    let site = Site::new("back", 80).await;
    site.enroll().await;
    let url = site.nats.url();
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-back", 1).await;
    site.publish(120).await;
    site.until_equal().await;
    let shown = site.run(&["consumer", "show", "--server", &url]).await;
    let text = said(&shown);
    assert!(
        shown.status.success()
            && text.contains("form              EDS's own")
            && text.contains("is read           now"),
        "{text}"
    );
    let refused = site.run(&["consumer", "hand-back", "--server", &url]).await;
    assert!(
        refused.status.code() == Some(1) && said(&refused).contains("in use by another EDS"),
        "{}",
        said(&refused)
    );
    assert!(server.stop().status.success());

    site.publish(30).await;
    let handed = site.run(&["consumer", "hand-back", "--server", &url]).await;
    let text = said(&handed);
    assert!(
        handed.status.success()
            && text.contains("that of the Go program")
            && text.contains("at most 20 times"),
        "{text}"
    );
    let js = site.nats.admin().await;
    let consumer = js
        .get_consumer_from_stream::<pull::Config, _, _>("eds-back", "dbchange")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let config = &consumer.cached_info().config;
    assert_eq!((config.ack_policy, config.max_deliver), (AckPolicy::Explicit, 20));
    assert!(
        matches!(config.deliver_policy, DeliverPolicy::ByStartTime { .. }),
        "{:?}",
        config.deliver_policy
    );
    assert_eq!(consumer.cached_info().num_pending, 30);
    // As that program would: some are taken and acknowledged each by itself.
    let mut messages =
        consumer.fetch().max_messages(10).messages().await.unwrap_or_else(|e| panic!("{e}"));
    let mut first = None;
    while let Some(Ok(message)) = messages.next().await {
        first = first.or_else(|| message.info().ok().map(|info| info.stream_sequence));
    }
    assert_eq!(first, Some(121));

    // EDS goes on where its destination stands, whatever became of the consumer.
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_equal().await;
    assert!(server.stop().status.success());
    let sessions = site.hq.sessions();
    assert!(sessions.iter().all(|record| record.ended == Some(false)), "{}", site.log());
}
