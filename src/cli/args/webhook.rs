//! Where alerts are posted to.

use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use tracing::warn;

use super::Exit;
use crate::config::Config;
use crate::help::HelpCode;
use crate::secret::kept;
use crate::status::webhook::Webhook;

/// The variable of the environment with the URL.
pub const WEBHOOK_VARIABLE: &str = "EDS_WEBHOOK";

/// Where alerts are posted to, and when.
#[derive(Args, Clone)]
pub struct WebhookArgs {
    /// Post alerts to this URL as JSON when they fire and when they are over; prefer EDS_WEBHOOK,
    /// because every user of the machine can read arguments
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Something is an alert once it has lasted so long
    #[arg(long, hide = true, value_name = "DURATION", value_parser = crate::duration::parse)]
    webhook_after: Option<Duration>,
}

impl WebhookArgs {
    /// The webhook: of the argument, else of the environment, else of the configuration.
    pub fn webhook(&self, config: &Config) -> Result<Option<Webhook>, Exit> {
        let wrong = |text: String| Exit::usage(HelpCode::SecretFile, text);
        let argument = self.webhook.clone().filter(|url| !url.is_empty()).map(SecretString::from);
        if argument.is_some() {
            warn!(
                "the URL in --webhook can be read by every user of this machine in the process \
                 list: EDS_WEBHOOK or EDS_WEBHOOK_FILE keep it private"
            );
        }
        let url = match argument {
            None => kept(WEBHOOK_VARIABLE).map_err(wrong)?.or_else(|| config.webhook.clone()),
            given => given,
        };
        url.map(|url| Webhook::new(url, self.webhook_after, host()))
            .transpose()
            .map_err(Exit::Usage)
    }
}

#[cfg(feature = "server")]
fn host() -> String {
    crate::machine::hostname()
}

#[cfg(not(feature = "server"))]
fn host() -> String {
    "unknown".into()
}
