//! How HQ is reached, and with which key.

use clap::Args;
use secrecy::SecretString;

use super::Exit;
use crate::config::Config;
use crate::help::HelpCode;
use crate::hq::{Hq, api_of};
use crate::http::Http;
use crate::secret::kept;

/// The variable with the key to HQ.
const API_KEY_VARIABLE: &str = "EDS_API_KEY";
/// The Go program's, which an enrolment goes before on a server.
const GO_API_KEY_VARIABLE: &str = "SM_APIKEY";

/// The key to HQ.
#[derive(Args, Clone, Default)]
pub struct ApiKey {
    /// HQ's API key; prefer the variable EDS_API_KEY or SM_APIKEY, because every user of the
    /// machine can read arguments
    #[arg(long = "api-key", value_name = "KEY")]
    given: Option<String>,
}

impl ApiKey {
    /// The argument.
    pub fn argument(&self) -> Option<&str> {
        self.given.as_deref().filter(|key| !key.is_empty())
    }

    /// The argument, else the variable or where [`kept`] finds it.
    pub fn given(&self) -> Result<Option<SecretString>, Exit> {
        match self.argument() {
            Some(key) => Ok(Some(SecretString::from(key.to_owned()))),
            None => of_environment(API_KEY_VARIABLE),
        }
    }

    /// What the Go program's variable names.
    pub fn of_go_program() -> Result<Option<SecretString>, Exit> {
        of_environment(GO_API_KEY_VARIABLE)
    }
}

fn of_environment(variable: &str) -> Result<Option<SecretString>, Exit> {
    kept(variable).map_err(|e| Exit::usage(HelpCode::SecretFile, e))
}

/// How HQ is reached: with the key that was given, else as the configuration and the key say.
pub struct HqAccess {
    pub token: Option<SecretString>,
    pub address: Option<String>,
}

impl HqAccess {
    /// For a command of the moment: the variables go before the configuration.
    pub fn of_command(
        key: &ApiKey,
        api_url: Option<&str>,
        config: &Config,
    ) -> Result<HqAccess, Exit> {
        let token = match key.given()? {
            None => ApiKey::of_go_program()?.or_else(|| config.token.clone()),
            given => given,
        };
        Ok(HqAccess::new(token, api_url))
    }

    /// For a server: what its enrolment gave goes before the Go program's variable, as with that.
    #[cfg(feature = "server")]
    pub fn of_server(
        key: &ApiKey,
        api_url: Option<&str>,
        config: &Config,
    ) -> Result<HqAccess, Exit> {
        let token = match key.given()?.or_else(|| config.token.clone()) {
            None => ApiKey::of_go_program()?,
            known => known,
        };
        Ok(HqAccess::new(token, api_url))
    }

    fn new(token: Option<SecretString>, api_url: Option<&str>) -> HqAccess {
        let address = api_url.map(str::to_owned).or_else(|| token.as_ref().and_then(api_of));
        HqAccess { token, address }
    }

    /// `None` if HQ's address is not known.
    pub fn client(self) -> Result<Option<Hq>, Exit> {
        let http = Http::new().map_err(Exit::Failed)?;
        Ok(self.address.map(|base| Hq::new(http, &base, self.token)))
    }
}
