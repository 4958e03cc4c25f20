//! What the status page of a server does: dead letters itself, the rest by the session.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;

use crate::destination::catalog::DRIVERS;
use crate::destination::{Driver, Settings};
use crate::status::desk::{Desk, PageAction, ShownLetter};
use crate::worker::desk::{order_letter, shown_letters};

/// Orders that wait until the session takes them.
const ORDERS_MAX: usize = 8;

/// The desk of a server.
pub struct ServerDesk {
    data_dir: PathBuf,
    /// The destination, where there is one by now.
    url: Mutex<Option<SecretString>>,
    orders: mpsc::Sender<PageAction>,
    token: Option<SecretString>,
}

impl ServerDesk {
    /// The desk, and what it orders.
    pub fn new(
        data_dir: PathBuf,
        token: Option<SecretString>,
    ) -> (ServerDesk, mpsc::Receiver<PageAction>) {
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        (ServerDesk { data_dir, url: Mutex::default(), orders, token }, ordered)
    }

    /// The destination is another one from now on.
    pub fn destination(&self, url: Option<SecretString>) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn place(&self) -> Result<Option<(Settings, &'static Driver)>, String> {
        let url = self.url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read = |url: SecretString| {
            Settings::parse(url.expose_secret(), DRIVERS).map_err(|e| e.to_string())
        };
        url.map(read).transpose()
    }
}

#[async_trait]
impl Desk for ServerDesk {
    async fn letters(&self) -> Result<Vec<ShownLetter>, String> {
        match self.place()? {
            Some((settings, driver)) => shown_letters(&self.data_dir, &settings, driver).await,
            None => Ok(Vec::new()),
        }
    }

    fn actions(&self) -> &'static [&'static str] {
        &["retry", "pause", "import"]
    }

    async fn act(&self, action: PageAction) -> Result<String, String> {
        let said = match &action {
            PageAction::Retry { consumer, letter } => {
                let Some((settings, driver)) = self.place()? else {
                    return Err("this server has no destination yet".into());
                };
                let which = (consumer.clone(), *letter);
                return order_letter(&self.data_dir, &settings, driver, which).await;
            }
            PageAction::Pause => "the server pauses once what it has fetched is written".to_owned(),
            PageAction::Unpause => "the server goes on".to_owned(),
            PageAction::Import { table } if table.is_empty() || table.contains(',') => {
                return Err("name one table".into());
            }
            PageAction::Import { table } => format!("table {table:?} is imported if a worker runs"),
        };
        let ordered = self.orders.try_send(action);
        ordered.map(|()| said).map_err(|_| "the server is busy: try again in a minute".into())
    }

    fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }
}
