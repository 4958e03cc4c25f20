//! A PostgreSQL that is far away: a batch goes there in one exchange, and nothing is lost when the
//! wire breaks while it is on its way.

use std::time::Duration;

use tokio::time::sleep;

use crate::services::eventually;
use crate::services::proxy::Proxy;
use crate::services::scene::Scene;

/// From here on the server counts as far away.
const DELAY: Duration = Duration::from_millis(5);

/// The wire, and the URL that leads over it.
async fn far(scene: &Scene) -> (Proxy, String) {
    let port = scene.server.port;
    let wire = Proxy::delayed(port, DELAY).await;
    let url = scene.url.replacen(&format!(":{port}/"), &format!(":{}/", wire.port), 1);
    (wire, url)
}

/// Many rows of each table, more than one statement takes, deletions, and a wire that is cut again
/// and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_wire_that_breaks_loses_nothing() {
    let mut scene = Scene::new("far", 61).await;
    let (wire, url) = far(&scene).await;
    scene.publish(12_000).await;
    let running = scene.eds.start(&["--restart", "--url", &url]);
    running.until_streaming().await;
    for _ in 0..6 {
        sleep(Duration::from_millis(250)).await;
        wire.cut();
    }
    scene.publish(3_000).await;
    scene.until_equal().await;
    assert!(running.stop().status.success());
    scene.assert_equal().await;
}

/// Once its statements are prepared, a change is one exchange: BEGIN, the row, the checkpoint and
/// COMMIT. On a busy machine what is sent at once may be on its way in two pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_one_exchange() {
    let mut scene = Scene::new("near", 62).await;
    let (wire, url) = far(&scene).await;
    scene.publish(50).await;
    let running = scene.eds.start(&["--restart", "--url", &url]);
    scene.until_equal().await;
    let insert = async |scene: &mut Scene| {
        let event = scene.shop.insert_into("order").unwrap_or_else(|| panic!("a new order"));
        let message = (event.subject, event.payload.into_bytes());
        scene.nats.publish(std::iter::once(message)).await;
        scene.until_idle().await;
    };
    // The first one prepares what the fifty may have left out.
    insert(&mut scene).await;
    let before = wire.exchanges();
    for _ in 0..10 {
        insert(&mut scene).await;
    }
    let exchanges = wire.exchanges() - before;
    assert!((10..20).contains(&exchanges), "{exchanges} exchanges for ten changes");
    eventually("the last row is there", Duration::from_secs(30), async || scene.is_idle().await)
        .await;
    assert!(running.stop().status.success());
    scene.assert_equal().await;
}
