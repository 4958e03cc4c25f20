//! Login: account, host, user and credentials of a Snowflake URL, and the request that they make.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

use super::key::{BadKey, Key};
use crate::destination::{Failure, Settings};
use crate::secret::kept;

/// The environment variable that holds the private key, unless the URL names another.
pub const KEY_VARIABLE: &str = "SNOWFLAKE_SECRET_ACCESS_KEY";
/// What stands behind the name of that variable, for the one that holds the key's passphrase.
const PASSPHRASE: &str = "_PASSPHRASE";
/// How long a connection is waited for, unless the URL says otherwise.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long an answer is waited for, unless the URL says otherwise; Snowflake answers within a
/// minute, if only that the statement still runs.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(120);
const DOMAINS: [&str; 2] = [".snowflakecomputing.com", ".snowflakecomputing.cn"];

/// How a user proves who it is.
pub enum Proof {
    /// A password.
    Password(SecretString),
    /// A token of an identity provider, or one that Snowflake gave out for programs.
    Token(&'static str, SecretString),
    /// A key pair: a token that the private key signs.
    Key(Box<Key>),
}

/// Who logs in where.
pub struct Login {
    /// `https://org-account.snowflakecomputing.com`
    pub base: String,
    /// Without region.
    pub account: String,
    /// The user's name.
    pub user: String,
    /// What the user proves its name by.
    pub proof: Proof,
    /// The database of the tables.
    pub database: String,
    /// The schema of the tables.
    pub schema: String,
    /// `None` for the user's own.
    pub warehouse: Option<String>,
    /// `None` for the user's own.
    pub role: Option<String>,
    /// How long a connection is waited for.
    pub connect_wait: Duration,
    /// How long an answer is waited for.
    pub request_wait: Duration,
}

impl Login {
    /// Reads URL and environment.
    pub fn read(settings: &Settings) -> Result<Login, Failure> {
        let mut path = settings.path.trim_matches('/').splitn(2, '/');
        let database = path.next().unwrap_or_default().to_owned();
        if database.is_empty() {
            return Err(Failure::misconfigured(format!(
                "the Snowflake URL {settings} names no database: it follows the account"
            )));
        }
        if settings.user.is_empty() {
            return Err(Failure::misconfigured(format!(
                "the Snowflake URL {settings} names no user: write user@account"
            )));
        }
        let schema = settings
            .parameter("schema")
            .or(path.next())
            .filter(|s| !s.is_empty())
            .unwrap_or("PUBLIC");
        Ok(Login {
            base: base(settings)?,
            account: account(settings.parameter("account").unwrap_or(&settings.host)),
            user: settings.user.clone(),
            proof: proof(settings)?,
            database,
            schema: schema.to_owned(),
            warehouse: settings.parameter("warehouse").map(str::to_owned),
            role: settings.parameter("role").map(str::to_owned),
            connect_wait: settings.wait("loginTimeout")?.unwrap_or(CONNECT_WAIT_MAX),
            request_wait: settings.wait("requestTimeout")?.unwrap_or(REQUEST_WAIT_MAX),
        })
    }

    /// What a login request says, and the fingerprint of the key that signed it.
    pub fn credentials(
        &self,
        session_parameters: Value,
    ) -> Result<(Value, Option<String>), Failure> {
        let mut data = json!({
            // EDS speaks the protocol of this driver: the server chooses the form of its answers by
            // it.
            "CLIENT_APP_ID": "Go",
            "CLIENT_APP_VERSION": "1.17.0",
            "ACCOUNT_NAME": self.account,
            "LOGIN_NAME": self.user,
            "SESSION_PARAMETERS": session_parameters,
            "CLIENT_ENVIRONMENT": { "APPLICATION": "EDS", "OS": std::env::consts::OS },
        });
        match &self.proof {
            Proof::Password(password) => data["PASSWORD"] = password.expose_secret().into(),
            Proof::Token(authenticator, token) => {
                data["AUTHENTICATOR"] = (*authenticator).into();
                data["TOKEN"] = token.expose_secret().into();
            }
            Proof::Key(key) => {
                let unusable =
                    |why| Failure::misconfigured(format!("the private key cannot be used: {why}"));
                data["AUTHENTICATOR"] = "SNOWFLAKE_JWT".into();
                data["TOKEN"] =
                    key.token(&self.account, &self.user).map_err(unusable)?.expose_secret().into();
                return Ok((data, Some(key.fingerprint().map_err(unusable)?)));
            }
        }
        Ok((data, None))
    }

    /// The path and query of a login request.
    pub fn path(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("requestId", &Uuid::new_v4().to_string())
            .append_pair("databaseName", &self.database)
            .append_pair("schemaName", &self.schema);
        let more = [("warehouse", &self.warehouse), ("roleName", &self.role)];
        query.extend_pairs(
            more.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))),
        );
        format!("/session/v1/login-request?{}", query.finish())
    }
}

/// The account by which Snowflake knows it: without domain, private link and region.
fn account(host: &str) -> String {
    let name = DOMAINS.iter().find_map(|domain| host.strip_suffix(domain)).unwrap_or(host);
    let name =
        if name.contains(".global") { name.split('-').next() } else { name.split('.').next() };
    name.unwrap_or_default().to_owned()
}

/// Where the account answers.
fn base(settings: &Settings) -> Result<String, Failure> {
    let named = settings.parameter("host").map(str::to_owned).or_else(|| {
        let whole = settings.port.is_some()
            || settings.is_local()
            || DOMAINS.iter().any(|domain| settings.host.ends_with(domain));
        whole.then(|| {
            settings.port.map_or(settings.host.clone(), |port| format!("{}:{port}", settings.host))
        })
    });
    let host = named.unwrap_or_else(|| {
        // A host's name has no underscores; regions in China are reached by another domain.
        let domain =
            if settings.host.split('.').nth(1).is_some_and(|region| region.starts_with("cn-")) {
                DOMAINS[1]
            } else {
                DOMAINS[0]
            };
        format!("{}{domain}", settings.host.replace('_', "-"))
    });
    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
    match settings.parameter("protocol") {
        None | Some("https") => Ok(format!("https://{host}")),
        Some("http") if matches!(name, "localhost" | "127.0.0.1" | "[::1]") => {
            Ok(format!("http://{host}"))
        }
        Some("http") => Err(Failure::misconfigured(
            "protocol=http is for a server on this machine only: the login would travel \
             in the open",
        )),
        Some(other) => Err(Failure::misconfigured(format!(
            "protocol={other:?} is not known; there is https, and http for this machine"
        ))),
    }
}

fn proof(settings: &Settings) -> Result<Proof, Failure> {
    if settings.scheme == "snowflake-keypair" {
        return key(settings);
    }
    let token = || settings.parameter("token").map(SecretString::from);
    let password =
        || settings.password.clone().or_else(token).filter(|p| !p.expose_secret().is_empty());
    let given = password().ok_or_else(|| {
        Failure::misconfigured(format!(
            "the Snowflake URL \
        {settings} has no password; with a key pair it begins with snowflake-keypair://"
        ))
    })?;
    match settings.parameter("authenticator").map(str::to_lowercase).as_deref() {
        None | Some("snowflake") => Ok(Proof::Password(given)),
        Some("oauth") => Ok(Proof::Token("OAUTH", given)),
        Some("programmatic_access_token") => Ok(Proof::Token("PROGRAMMATIC_ACCESS_TOKEN", given)),
        Some(other) => {
            let text = format!(
                "authenticator={other:?} is not known; there is snowflake, oauth or \
                 programmatic_access_token, and snowflake-keypair:// for a key pair"
            );
            Err(Failure::misconfigured(text))
        }
    }
}

fn key(settings: &Settings) -> Result<Proof, Failure> {
    let name =
        settings.parameter("secret-key").filter(|name| !name.is_empty()).unwrap_or(KEY_VARIABLE);
    let pem = kept(name).map_err(Failure::misconfigured)?.ok_or_else(|| {
        Failure::misconfigured(format!(
            "the environment variable {name} is not set: it holds the private key of {:?} in PEM \
             form, or {name}_FILE names its file; ?secret-key= names another variable",
            settings.user
        ))
    })?;
    let passphrase_name = format!("{name}{PASSPHRASE}");
    let passphrase = kept(&passphrase_name).map_err(Failure::misconfigured)?;
    let key = Key::read(&pem, passphrase.as_ref(), &passphrase_name);
    key.map(|key| Proof::Key(Box::new(key))).map_err(|why: BadKey| {
        Failure::misconfigured(format!(
            "the private key in the environment variable {name} cannot be used: {why}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn read(url: &str) -> Result<(String, String), String> {
        let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
        let login = Login::read(&settings).map_err(|e| e.text)?;
        Ok((login.base, login.account))
    }

    #[test]
    fn an_account_is_reached_at_its_host() {
        let of = |base: &str, account: &str| Ok((format!("https://{base}"), account.to_owned()));
        assert_eq!(
            read("snowflake://u:p@org-account/db"),
            of("org-account.snowflakecomputing.com", "org-account")
        );
        assert_eq!(
            read("snowflake://u:p@org-my_account/db"),
            of("org-my-account.snowflakecomputing.com", "org-my_account")
        );
        assert_eq!(
            read("snowflake://u:p@xy12345.eu-central-1/db"),
            of("xy12345.eu-central-1.snowflakecomputing.com", "xy12345")
        );
        assert_eq!(
            read("snowflake://u:p@xy12345.cn-northwest-1.aws/db"),
            of("xy12345.cn-northwest-1.aws.snowflakecomputing.cn", "xy12345")
        );
        assert_eq!(
            read("snowflake://u:p@org-a.privatelink.snowflakecomputing.com/db"),
            of("org-a.privatelink.snowflakecomputing.com", "org-a")
        );
        assert_eq!(
            read("snowflake://u:p@proxy.example:8443/db?account=org-a"),
            of("proxy.example:8443", "org-a")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let wrong = |url: &str| read(url).err().unwrap_or_default();
        assert!(wrong("snowflake://u:p@a").contains("no database"));
        assert!(wrong("snowflake://a/db").contains("no user"));
        assert!(wrong("snowflake://u@a/db").contains("no password"));
        assert!(wrong("snowflake://u:p@a/db?authenticator=okta").contains("okta"));
        assert!(wrong("snowflake://u:p@a/db?protocol=http").contains("this machine only"));
        assert!(
            wrong("snowflake-keypair://u@a/db?secret-key=EDS_NO_SUCH_VARIABLE")
                .contains("EDS_NO_SUCH_VARIABLE")
        );
    }
}
