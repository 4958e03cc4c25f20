//! `config.toml` read again: what it says takes effect while the server runs, unless a flag or the
//! environment says otherwise.

use tracing::{info, warn};

use super::{Ending, SessionLoop};
use crate::config::Config;
use crate::hq::{Hq, api_of};
use crate::supervisor::Supervisor;
use crate::worker::nats_login::servers;

impl SessionLoop<'_> {
    /// Reads the configuration and starts a worker that has it.
    pub(super) async fn reload(&mut self) -> Option<Ending> {
        match self.supervisor.reread()? {
            Reread::SameServer => {}
            Reread::OtherServer => self.renewal.want("this server has another identity at HQ"),
        }
        self.restart_child().await
    }
}

/// Who the server is at HQ after its configuration was read again.
pub enum Reread {
    /// The one it was.
    SameServer,
    /// Another one: its session is none of this one.
    OtherServer,
}

impl Supervisor {
    /// Reads the configuration; `None` if it cannot be read, and stays as it was.
    pub(in crate::supervisor) fn reread(&mut self) -> Option<Reread> {
        info!("the configuration is read again");
        match Config::read(&self.options.data_dir) {
            Ok(config) => Some(self.take_up(config)),
            Err(e) => {
                warn!("{e}; it stays as it was");
                None
            }
        }
    }

    fn take_up(&mut self, config: Config) -> Reread {
        let options = &mut self.options;
        let given = options.given;
        // What HQ configured and the file could not take counts as long as this process.
        if !self.is_unsaved {
            options.update_strategy = config.update_strategy;
            if !given.url {
                options.url = config.url;
            }
        }
        if !given.keep_logs {
            options.keep_logs = config.keep_logs;
        }
        let mut other_identity = false;
        if !given.server_id
            && let Some(id) = config.server_id
        {
            other_identity |= id != options.server_id;
            options.server_id = id;
        }
        if !given.token
            && let Some(token) = config.token
        {
            use secrecy::ExposeSecret;
            let known = options.token.as_ref().map(ExposeSecret::expose_secret);
            other_identity |= known != Some(token.expose_secret());
            if !given.api_url
                && let Some(url) = api_of(&token)
            {
                options.api_url = url;
            }
            options.token = Some(token);
        }
        if !given.servers {
            options.servers = servers(None, Some(&options.api_url));
        }
        if !other_identity {
            return Reread::SameServer;
        }
        self.hq = Hq::new(self.http.clone(), &self.options.api_url, self.options.token.clone());
        Reread::OtherServer
    }
}
