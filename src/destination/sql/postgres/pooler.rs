//! Whether a pooler between EDS and the server gives its sessions to others.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::failure::SHARED_SESSION;
use super::login;
use crate::destination::{Failure, Settings};
use crate::help::HelpCode;

/// What tells a session of the server from all others. A session may always see itself.
const SESSION: &str = "SELECT pid::text || ' ' || backend_start::text FROM \
                       pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";
/// How long a second client is waited for: a pool in session mode may have no other session.
const SECOND_WAIT_MAX: Duration = Duration::from_secs(3);
/// A pooler that is busy may give two clients two sessions for a moment.
const LOOKS: usize = 3;

/// Fails where a pooler in transaction mode shares sessions: two clients that are idle get the same
/// one. It would work for a while, until somebody else gets the session with EDS's settings, and
/// EDS another one without its temporary tables. Where there is no room for a second client
/// nothing is known.
pub async fn refuse_shared_sessions(client: &Client, settings: &Settings) -> Result<(), Failure> {
    if !timeout(SECOND_WAIT_MAX, is_shared(client, settings)).await.unwrap_or(false) {
        return Ok(());
    }
    // The session is others', and so are its settings again.
    let _ = client.batch_execute("RESET ALL").await;
    let text = format!("between EDS and {settings}, {SHARED_SESSION}");
    Err(Failure::misconfigured(text).with_help(HelpCode::Pooler))
}

async fn is_shared(client: &Client, settings: &Settings) -> bool {
    let Ok((other, _wire)) = login::connect(settings).await else { return false };
    for _ in 0..LOOKS {
        let (own, others) = (session(client).await, session(&other).await);
        if own.is_some() && own == others {
            return true;
        }
    }
    false
}

/// The session that the next statement gets. `None` where the server does not tell. Asked without
/// a prepared statement, which such a pooler may not know.
async fn session(client: &Client) -> Option<String> {
    let answers = client.simple_query(SESSION).await.ok()?;
    answers.iter().find_map(|answer| match answer {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
