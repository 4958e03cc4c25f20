//! Where NATS is: a login may be in its URL, so that a file or a credential can name it, too.

use secrecy::ExposeSecret;

use super::Exit;
use crate::help::HelpCode;
use crate::secret::kept;

/// The variable of the environment with the servers of NATS.
pub const SERVERS_VARIABLE: &str = "EDS_SERVER";

/// The servers that are named: by the argument, else by the variable or where [`kept`] finds it.
pub fn named_servers(argument: Option<&str>) -> Result<Option<String>, Exit> {
    if let Some(servers) = argument {
        return Ok(Some(servers.to_owned()));
    }
    let kept = kept(SERVERS_VARIABLE).map_err(|e| Exit::usage(HelpCode::SecretFile, e))?;
    Ok(kept.map(|servers| servers.expose_secret().to_owned()))
}
