//! `eds consumer`: the durable in words, and back to the form of the Go program.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;

use crate::services::hq::said;
use crate::services::site::Site;

/// Runs `eds consumer`, and says how it ended and what it printed.
async fn consumer(site: &Site, action: &str) -> (Option<i32>, String) {
    let output = site.run(&["consumer", action, "--server", &site.nats.url()]).await;
    (output.status.code(), said(&output))
}

/// The consumer has the form of the Go program, which reads as it did: the `pending` events, from
/// `next` on.
async fn is_read_as_before(site: &Site, pending: u64, next: u64) {
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
    assert_eq!(consumer.cached_info().num_pending, pending);
    // As that program would: some are taken and acknowledged each by itself.
    let mut messages =
        consumer.fetch().max_messages(10).messages().await.unwrap_or_else(|e| panic!("{e}"));
    let mut first = None;
    while let Some(Ok(message)) = messages.next().await {
        first = first.or_else(|| message.info().ok().map(|info| info.stream_sequence));
    }
    assert_eq!(first, Some(next));
}

/// Shown while a server runs; handed back once none does, at our position; and taken up again by
/// EDS.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_shown_handed_back_and_taken_up_again() {
    let site = Site::new("back", 80).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-back", 1).await;
    site.publish(120).await;
    site.until_equal().await;
    let (code, text) = consumer(&site, "show").await;
    assert!(
        code == Some(0)
            && text.contains("form              EDS's own")
            && text.contains("is read           now"),
        "{text}"
    );
    let (code, text) = consumer(&site, "hand-back").await;
    assert!(code == Some(1) && text.contains("in use by another EDS"), "{text}");
    assert!(server.stop().status.success());

    site.publish(30).await;
    let (code, text) = consumer(&site, "hand-back").await;
    assert!(
        code == Some(0)
            && text.contains("that of the Go program")
            && text.contains("at most 20 times"),
        "{text}"
    );
    is_read_as_before(&site, 30, 121).await;

    // EDS goes on where its destination stands, whatever became of the consumer.
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_equal().await;
    assert!(server.stop().status.success());
    let sessions = site.hq.sessions();
    assert!(sessions.iter().all(|record| record.ended == Some(false)), "{}", site.log());
}
