//! The options of a destination's URL: which a driver obeys, which it accepts because URLs of the
//! Go program hold them, and which are misspelt.

use super::Driver;
use super::settings::{BadUrl, Settings};

/// The longest option's name that a message repeats.
const NAME_CHARS_MAX: usize = 40;

/// Spells the options as the driver does, whatever their case; takes out those without effect,
/// which [`Settings::ignored`] names from then on; refuses what is not known.
pub fn sort_out(settings: &mut Settings, driver: &Driver) -> Result<(), BadUrl> {
    for (key, value) in std::mem::take(&mut settings.parameters) {
        let named = |(name, _): &&(&'static str, &'static str)| name.eq_ignore_ascii_case(&key);
        if let Some((name, _)) = driver.parameters.iter().find(named) {
            settings.parameters.insert((*name).to_owned(), value);
        } else if let Some(ignored) = driver.accepted.iter().find(named) {
            settings.ignored.push(*ignored);
        } else {
            let names: Vec<&str> = driver.parameters.iter().map(|(name, _)| *name).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let scheme = driver.scheme.to_owned();
            return Err(BadUrl::UnknownParameter { scheme, key: shown(&key, &value), known });
        }
    }
    Ok(())
}

/// The option's name as a message may show it: a password with an `&` in it leaves its rest as
/// such a name.
fn shown(key: &str, value: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphabetic() || matches!(c, '-' | '_' | '.' | ' ');
    match !value.is_empty() && key.len() <= NAME_CHARS_MAX && key.chars().all(is_word) {
        true => format!("the option {key:?}"),
        false => "an option".to_owned(),
    }
}

/// A URL of the destination among `drivers` that may be shown: [`crate::secret::mask_url`] with the
/// names of the options that the driver knows.
pub fn masked(url: &str, drivers: &[Driver]) -> String {
    let scheme = url.split(':').next().unwrap_or_default();
    let driver = drivers.iter().find(|driver| driver.has_scheme(scheme));
    crate::secret::mask_url(url, |name| driver.is_some_and(|driver| driver.knows(name)))
}

/// A character that a URL's user or password has to percent-encode and that ended it early instead;
/// with how it is written. What followed would be taken for host, path and options, and be shown.
pub fn unencoded(text: &str) -> Option<(char, &'static str)> {
    let (_, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('#') {
        Some(('#', "%23"))
    } else if path.contains('@') && authority.contains([':', '@']) {
        Some(('/', "%2F"))
    } else if query.contains('@') && authority.contains(':') && !authority.contains('@') {
        Some(('?', "%3F"))
    } else {
        None
    }
}

/// The URL with only the first of its hosts, `a:1,b:2`, and the others.
pub fn first_host(text: &str) -> (String, Vec<String>) {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    let start = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut hosts = text[start..end].split(',').map(str::trim).filter(|host| !host.is_empty());
    let first = hosts.next().unwrap_or_default();
    (format!("{}{first}{}", &text[..start], &text[end..]), hosts.map(str::to_owned).collect())
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn parsed(url: &str) -> Result<Settings, String> {
        Settings::parse(url, DRIVERS).map(|(settings, _)| settings).map_err(|e| e.to_string())
    }

    /// An option whose name says that it holds a secret is one; a file's name is none.
    #[test]
    fn options_that_are_secrets_are_known_as_such() {
        let is_secret = |name: &str| {
            let words = ["password", "secret", "token"];
            let name = name.to_ascii_lowercase();
            let is_rule = name.starts_with("allow") || name.ends_with("file");
            !is_rule && words.iter().any(|word| name.contains(word))
        };
        for driver in DRIVERS {
            // Where a secret is, is none.
            let is_value = |what: &str| !what.contains("variable");
            let values = driver.parameters.iter().filter(|(_, what)| is_value(what));
            let options = values.map(|(name, _)| *name);
            let unknown = options.filter(|n| is_secret(n) && !driver.secrets.contains(n));
            assert_eq!(unknown.collect::<Vec<_>>(), [""; 0], "{}", driver.scheme);
        }
    }

    #[test]
    fn a_place_has_no_keys_and_brokers_in_any_order() -> Result<(), String> {
        let place = |url: &str| Ok::<_, String>(parsed(url)?.place());
        let hub = |key: &str, hub: &str| {
            place(&format!(
                "eventhub://ns.example/;SharedAccessKeyName=k;SharedAccessKey={key};EntityPath={hub}"
            ))
        };
        assert_eq!(hub("old", "h")?, hub("new", "h")?);
        assert_ne!(hub("old", "h")?, hub("old", "other")?);
        assert_eq!(place("kafka://a:9092,b:9092/t")?, place("kafka://b:9092,a:9092/t")?);
        assert_ne!(place("kafka://a:9092/t")?, place("kafka://a:9092/u")?);
        Ok(())
    }

    /// What becomes of an option.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum OptionFate {
        Obeyed,
        Accepted,
        Refused,
    }
    use OptionFate::{Accepted, Obeyed, Refused};

    fn fate(base: &str, option: &str) -> OptionFate {
        match parsed(&format!("{base}?{option}")) {
            Ok(settings) if settings.ignored.is_empty() => Obeyed,
            Ok(_) => Accepted,
            Err(_) => Refused,
        }
    }

    /// The options of lib/pq, go-sql-driver, go-mssqldb and gosnowflake, in the case in which their
    /// documents write them and in others.
    const GO_OPTIONS: [(&str, &[(&str, OptionFate)]); 4] = [
        (
            "postgres://u:p@h/d",
            &[
                ("search_path=a,b", Obeyed),
                ("channel_binding=require", Obeyed),
                ("target_session_attrs=read-write", Obeyed),
                ("host=/run/postgresql", Obeyed),
                ("sslrootcert=/ca.pem", Obeyed),
                ("sslnegotiation=direct", Obeyed),
                ("keepalives_idle=60", Obeyed),
                ("role=loader", Obeyed),
                ("sslinline=true", Obeyed),
                ("sslpassword=x", Accepted),
                ("work_mem=64MB", Obeyed),
                ("binary_parameters=yes", Accepted),
                ("disable_prepared_binary_result=yes", Accepted),
                ("fallback_application_name=x", Accepted),
                ("statement_timeout=1000", Accepted),
                ("TimeZone=Europe/Berlin", Accepted),
                ("client_encoding=UTF8", Accepted),
                ("datestyle=ISO", Accepted),
                ("sslmod=require", Refused),
                ("serch_path=a", Refused),
            ],
        ),
        (
            "mysql://u:p@h/d",
            &[
                ("timeout=5s", Obeyed),
                ("TLS=preferred", Obeyed),
                ("allowCleartextPasswords=true", Obeyed),
                ("foreign_key_checks=0", Obeyed),
                ("optimizer_switch=%27a=on%27", Obeyed),
                ("readTimeout=30s", Accepted),
                ("writeTimeout=30s", Accepted),
                ("maxAllowedPacket=0", Accepted),
                ("time_zone=%27%2B02:00%27", Accepted),
                ("sql_mode=ANSI", Accepted),
                ("parseTime=true", Accepted),
                ("allowFallbackToPlaintext=true", Accepted),
                ("checkConnLiveness=false", Accepted),
                ("connectionAttributes=a:b", Accepted),
                ("readTimout=30s", Refused),
                ("tsl=true", Refused),
            ],
        ),
        (
            "sqlserver://u:p@h/d",
            &[
                ("dial+timeout=5", Obeyed),
                ("Dial%20Timeout=5", Obeyed),
                ("keepAlive=30", Obeyed),
                ("KEEPALIVE=30", Obeyed),
                ("packet size=8192", Obeyed),
                ("workstation id=w", Obeyed),
                ("trustservercertificate=true", Obeyed),
                ("App Name=x", Obeyed),
                ("ApplicationIntent=ReadWrite", Accepted),
                ("multisubnetfailover=true", Accepted),
                ("log=63", Accepted),
                ("disableRetry=true", Accepted),
                ("failoverpartner=other", Accepted),
                ("encript=true", Refused),
            ],
        ),
        (
            "snowflake://u:p@a/d",
            &[
                ("loginTimeout=60", Obeyed),
                ("requestTimeout=60", Obeyed),
                ("warehouse=w", Obeyed),
                ("jwtTimeout=60", Accepted),
                ("clientTimeout=900", Accepted),
                ("cloudStorageTimeout=60", Accepted),
                ("maxRetryCount=7", Accepted),
                ("ocspFailOpen=true", Accepted),
                ("validateDefaultParameters=true", Accepted),
                ("client_session_keep_alive=true", Accepted),
                ("warehose=w", Refused),
            ],
        ),
    ];

    #[test]
    fn options_of_the_go_drivers_are_obeyed_or_accepted_and_misspelt_ones_refused() {
        for (base, options) in GO_OPTIONS {
            for (option, expected) in options {
                assert_eq!(fate(base, option), *expected, "{base}?{option}");
            }
        }
    }

    /// Each option is in one list, and says in one line what it does or why it does nothing.
    #[test]
    fn the_lists_of_options_do_not_overlap() {
        for driver in DRIVERS {
            let mut names: Vec<String> = driver
                .parameters
                .iter()
                .chain(driver.accepted)
                .map(|(name, _)| name.to_lowercase())
                .collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "{}", driver.scheme);
            let secret = |name: &&str| !driver.has_parameter(name);
            assert_eq!(driver.secrets.iter().find(|name| secret(name)), None, "{}", driver.scheme);
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_refused_and_not_shown() {
        for url in [
            "postgres://user:12/Zk7qWv@host/db",
            "postgres://user:12?Zk7qWv@host/db",
            "postgres://user:12#Zk7qWv@host/db",
            "mysql://user:a@b/Zk7qWv@host/db",
            "postgres://user:Zk/7qWv@host/db",
            "postgres://user:p@host/db?password=a&Zk7qWv",
            "postgres://user:p@host/db?Zk7qWv=",
            "s3://bucket/x?secret-access-key=a&Zk7qWv/+=b",
        ] {
            let why = parsed(url).err().unwrap_or_else(|| "it was taken".into());
            assert!(!why.contains("7qWv") && !why.contains("was taken"), "{url}: {why}");
            assert!(!masked(url, DRIVERS).contains("7qWv"), "{url}");
        }
        assert!(parsed("s3://bucket/a@b").is_ok());
        let shown = masked("s3://bucket/folder?Region=x&secret-access-key=y&z=1", DRIVERS);
        assert_eq!(shown, "s3://bucket/fol***?Region=*&secret-access-key=*&*");
    }
}
