//! A client that is lent to one call at a time. A call that is dropped or runs out of time does not
//! give it back, and later calls fail: what the server is still doing for it is not known.

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::destination::Failure;

/// A database's client, or nothing where a call has not given it back.
pub struct Lent<C> {
    client: Option<C>,
    /// What the failure's text calls the other side.
    server: &'static str,
}

impl<C: Send> Lent<C> {
    /// A client that no call has. `server` is what the text of a failure calls the other side.
    pub fn new(client: C, server: &'static str) -> Lent<C> {
        Lent { client: Some(client), server }
    }

    /// Takes the client for a call, which has to [give it back](Lent::give_back).
    pub fn take(&mut self) -> Result<C, Failure> {
        self.client.take().ok_or_else(|| {
            Failure::unavailable(format!(
                "the connection to {} was dropped during a call",
                self.server
            ))
        })
    }

    /// Gives the client back after a call.
    pub fn give_back(&mut self, client: C) {
        self.client = Some(client);
    }

    /// Lends the client to `call`, which has `limit` to end.
    pub async fn call<T, F>(&mut self, limit: Duration, call: F) -> Result<T, Failure>
    where
        F: for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, T> + Send,
    {
        let mut client = self.take()?;
        let done = within(limit, self.server, call(&mut client)).await?;
        self.give_back(client);
        Ok(done)
    }

    /// The client, where no call has kept it.
    pub fn held(&mut self) -> Option<&mut C> {
        self.client.as_mut()
    }

    /// The client for a last call, where no call has kept it.
    pub fn into_held(self) -> Option<C> {
        self.client
    }
}

/// What `answer` comes to, if it does within `limit`.
pub async fn within<T>(
    limit: Duration,
    server: &str,
    answer: impl Future<Output = T>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| Failure::unavailable(format!("{server} did not answer within {limit:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_does_not_end_keeps_the_client() -> Result<(), Failure> {
        let mut lent = Lent::new(1, "the server");
        let limit = Duration::from_millis(1);
        assert_eq!(lent.call(limit, |client| Box::pin(async { *client + 1 })).await?, 2);
        let late = lent.call(limit, |_| Box::pin(std::future::pending::<()>())).await;
        let text = |failed: Result<(), Failure>| failed.map_err(|failure| failure.text);
        assert_eq!(text(late), Err("the server did not answer within 1ms".into()));
        let gone = lent.call(limit, |_| Box::pin(async {})).await;
        assert_eq!(
            text(gone),
            Err("the connection to the server was dropped during a call".into())
        );
        Ok(())
    }
}
