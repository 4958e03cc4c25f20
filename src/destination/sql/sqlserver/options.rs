//! The options of a SQL Server URL: EDS's own and those of the Go program's driver.

use super::KEY_COLLATION;
use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Driver, Settings};

/// Options that have an effect.
pub const OBEYED: &[(&str, &str)] = &[
    ("database", "the database, if the path does not name it"),
    ("user id", "the user, if none stands before the host"),
    ("password", "the password, if none stands before the host"),
    ("encrypt", "disable, false (the login only), true (verified) or strict (TDS 8.0)"),
    ("TrustServerCertificate", "true: encrypt without verifying"),
    ("certificate", "file with the certificate authority to trust"),
    ("hostNameInCertificate", "the name that the certificate is for"),
    ("fedauth", "ActiveDirectoryServicePrincipalAccessToken: the password is an access token"),
    ("schema", "schema of the tables; without it the user's own"),
    ("prefix", "prefix of each table's name"),
    (
        KEY_COLLATION,
        "of new keys: database or binary; without it database, where that tells keys apart",
    ),
    ("app name", "how the connection names itself (eds)"),
    ("workstation id", "how this machine is named"),
    ("dial timeout", "seconds to wait for a connection (15)"),
    ("connection timeout", "the same, where there is no dial timeout"),
    ("keepAlive", "seconds of silence before the server is asked whether it lives (30)"),
    ("packet size", "bytes of a packet, 512 to 32767 (32767)"),
];

/// Options without effect.
pub const ACCEPTED: &[(&str, &str)] = &[
    ("ApplicationIntent", "EDS writes"),
    ("MultiSubnetFailover", "each address of the host is tried"),
    ("failoverpartner", "name the partner's listener as the host"),
    ("failoverport", "name the partner's listener as the host"),
    ("log", "--verbose says more"),
    ("disableRetry", "EDS repeats by itself what may be repeated"),
    ("ServerSPN", "EDS does not log in by Kerberos"),
    ("authenticator", "EDS does not log in by Kerberos"),
    ("krb5-configfile", "EDS does not log in by Kerberos"),
    ("krb5-realm", "EDS does not log in by Kerberos"),
    ("krb5-keytabfile", "EDS does not log in by Kerberos"),
    ("krb5-credcachefile", "EDS does not log in by Kerberos"),
    ("epa enabled", "EDS does not log in by Kerberos"),
    ("tlsmin", "TLS 1.2 or later"),
    ("protocol", "EDS connects by TCP"),
    ("columnencryption", "EDS encrypts no columns"),
    ("guid conversion", "there are no columns of that type"),
    ("notraceid", "no trace is sent"),
];

/// Other names of options, as ADO and ODBC write them.
const SYNONYMS: [(&str, &str); 8] = [
    ("application name", "app name"),
    ("initial catalog", "database"),
    ("connect timeout", "connection timeout"),
    ("timeout", "connection timeout"),
    ("trust server certificate", "TrustServerCertificate"),
    ("uid", "user id"),
    ("pwd", "password"),
    ("wsid", "workstation id"),
];

/// Reads the URL, whose options may go by other names.
pub fn database_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let mut settings = server_url(text, driver)?;
    for (key, value) in std::mem::take(&mut settings.parameters) {
        let synonym = SYNONYMS.iter().find(|(other, _)| other.eq_ignore_ascii_case(&key));
        let key = synonym.map_or(key, |(_, name)| (*name).to_owned());
        match key.to_ascii_lowercase().as_str() {
            "user id" if settings.user.is_empty() => settings.user.clone_from(&value),
            "password" if settings.password.is_none() => {
                settings.password = Some(value.clone().into());
            }
            _ => {}
        }
        settings.parameters.insert(key, value);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    #[test]
    fn options_are_found_in_any_case_and_by_other_names() -> Result<(), BadUrl> {
        let url = "sqlserver://h/?Initial+Catalog=d&USER%20ID=u&PWD=p&Application%20Name=x";
        let (settings, _) = Settings::parse(url, DRIVERS)?;
        assert_eq!(settings.parameter("database"), Some("d"));
        assert_eq!(settings.parameter("app name"), Some("x"));
        assert_eq!(settings.user, "u");
        assert!(settings.password.is_some());
        Ok(())
    }
}
