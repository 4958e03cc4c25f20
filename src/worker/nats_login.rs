//! Which NATS a worker goes to, and as whom.

use std::path::Path;

use secrecy::SecretString;

use super::run::RunError;
use crate::feed::jetstream::connect::Servers;
use crate::feed::jetstream::identity::Identity;
use crate::help::HelpCode;
use crate::secret::mask_urls;

/// The NATS of HQ in the cloud.
const SERVER: &str = "nats://connect.nats.shopmonkey.pub";
/// The NATS of an HQ on this machine.
const LOCAL_SERVER: &str = "nats://localhost:4222";

/// Messages that NATS delivers without an acknowledgement, unless somebody chooses another number.
pub const MAX_ACK_PENDING: i64 = 25_000;

/// The servers of NATS, as a comma list: those that were given, else those of the HQ at `api_url`.
pub fn servers(given: Option<&str>, api_url: Option<&str>) -> String {
    let own = if api_url.is_some_and(is_local) { LOCAL_SERVER } else { SERVER };
    given.unwrap_or(own).to_owned()
}

/// The identity that a credentials file gives, and its text; servers on this machine may do
/// without. `servers` is a comma list.
pub fn identity(
    creds: Option<&Path>,
    servers: &str,
) -> Result<(Identity, Option<SecretString>), RunError> {
    if let Some(file) = creds {
        let (identity, text) = Identity::from_file(file)?;
        return Ok((identity, Some(text.into())));
    }
    if is_local(servers) {
        Ok((Identity::local(), None))
    } else {
        Err(RunError::Refused(HelpCode::NatsLogin.tag(&format!(
            "NATS at {} needs credentials: name the file with --creds",
            mask_urls(servers)
        ))))
    }
}

/// How the server of this id connects to NATS at `urls`, a comma list.
pub fn connection(
    urls: &str,
    creds: Option<SecretString>,
    nats_ca: Option<&Path>,
    server_id: &str,
) -> Servers {
    Servers {
        urls: urls.to_owned(),
        creds,
        certificate_authority: nats_ca.map(Path::to_owned),
        name: format!("eds-{server_id}"),
        ..Servers::default()
    }
}

/// Whether all of these servers are on this machine.
fn is_local(servers: &str) -> bool {
    servers.split(',').all(|url| host(url.trim()).is_some_and(|host| is_this_machine(&host)))
}

/// The host of a URL, or of `host:port`, without brackets.
fn host(url: &str) -> Option<String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("nats://{url}") };
    let url = url::Url::parse(&whole).ok()?;
    url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in [
            "nats://localhost:4222",
            "localhost",
            "http://LocalHost:3101/path",
            "nats://127.0.0.1:4222, nats://[::1]:4222",
            "tls://user:password@127.0.0.2",
        ] {
            assert!(is_local(local), "{local}");
        }
        for elsewhere in [
            "nats://localhost.evil.example",
            "nats://evil.example/localhost",
            "nats://localhost@evil.example",
            "nats://127.0.0.1.evil.example:4222",
            "nats://localhost:4222,nats://evil.example",
            "nats://evil.example?host=127.0.0.1",
            "nats://notlocalhost",
            "",
        ] {
            assert!(!is_local(elsewhere), "{elsewhere}");
        }
    }
}
