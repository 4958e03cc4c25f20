//! A destination's URL, read once: scheme, place, login, options.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use super::Driver;

/// The longest that changes are gathered: a minute less than what NATS waits for their
/// acknowledgement.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(240);

/// What a destination's URL says. `Debug` and `Display` show the place and whose login it is, and
/// nothing of the password or the options.
#[derive(Clone)]
pub struct Settings {
    place: String,
    pub scheme: String,
    pub host: String,
    pub port: Option<u16>,
    /// Further hosts, as written, where the destination is a cluster.
    pub other_hosts: Vec<String>,
    pub user: String,
    pub password: Option<SecretString>,
    /// What follows the host, decoded, with its leading slash; for `sqlite` and `file` a path of
    /// the file system.
    pub path: String,
    pub parameters: BTreeMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// A URL that cannot be used, with what would cure it. Never shows the URL itself: it may hold a
/// password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error(
        "the destination URL is not a URL ({0}); it looks like {1}. Characters such as @ / : % in \
         a password are written percent-encoded (%40 %2F %3A %25)"
    )]
    NotAUrl(url::ParseError, String),
    #[error("the destination {0:?} is not known to this build; it knows: {1}")]
    UnknownScheme(String, String),
    #[error("the {scheme} URL has the option {key:?}, which EDS does not know; it knows: {known}")]
    UnknownParameter { scheme: String, key: String, known: String },
    #[error("the {0} URL has no {1}; it looks like {2}")]
    Missing(&'static str, &'static str, &'static str),
}

impl Settings {
    /// Reads `url` for the driver among `drivers` that its scheme names.
    pub fn parse<'d>(url: &str, drivers: &'d [Driver]) -> Result<(Settings, &'d Driver), BadUrl> {
        let known = || drivers.iter().map(|d| d.scheme).collect::<Vec<_>>().join(", ");
        let example = || drivers.first().map_or(String::new(), |d| d.example.to_owned());
        let Some((scheme, _)) = url.split_once(':') else {
            return Err(BadUrl::NotAUrl(url::ParseError::RelativeUrlWithoutBase, example()));
        };
        let by_name = |d: &&Driver| {
            d.scheme.eq_ignore_ascii_case(scheme)
                || d.aliases.iter().any(|a| a.eq_ignore_ascii_case(scheme))
        };
        let driver = drivers
            .iter()
            .find(by_name)
            .ok_or_else(|| BadUrl::UnknownScheme(scheme.to_owned(), known()))?;
        let settings = Self::read(url, driver)?;
        if let Some(key) = settings
            .parameters
            .keys()
            .find(|key| !driver.parameters.iter().any(|(name, _)| name == key))
        {
            let known =
                driver.parameters.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            return Err(BadUrl::UnknownParameter {
                scheme: driver.scheme.to_owned(),
                key: key.clone(),
                known,
            });
        }
        Ok((settings, driver))
    }

    fn read(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
        let decoded = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
        if matches!(driver.scheme, "sqlite" | "file") {
            // A path needs no host, and may be relative: sqlite://shop.db.
            let rest = text.split_once(':').map_or("", |(_, rest)| rest);
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            // Options follow a question mark; one that no option follows belongs to the name.
            let (path, query) = rest
                .rsplit_once('?')
                .filter(|(_, query)| query.contains('='))
                .unwrap_or((rest, ""));
            let path = decoded(path);
            let parameters = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            if path.is_empty() {
                return Err(BadUrl::Missing(driver.title, "path", driver.example));
            }
            let place = format!("{}://{path}", driver.scheme);
            let scheme = driver.scheme.to_owned();
            return Ok(Settings {
                place,
                scheme,
                host: String::new(),
                port: None,
                other_hosts: Vec::new(),
                user: String::new(),
                password: None,
                path,
                parameters,
            });
        }
        let (text, other_hosts) =
            if driver.scheme == "kafka" { first_host(text) } else { (text.to_owned(), Vec::new()) };
        let url = Url::parse(&text).map_err(|e| BadUrl::NotAUrl(e, driver.example.to_owned()))?;
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or(BadUrl::Missing(
            driver.title,
            "host",
            driver.example,
        ))?;
        Ok(Settings {
            place: place(&url),
            scheme: driver.scheme.to_owned(),
            host: decoded(host.trim_start_matches('[').trim_end_matches(']')),
            port: url.port(),
            other_hosts,
            user: decoded(url.username()),
            password: url.password().map(|p| decoded(p).into()),
            path: decoded(url.path()),
            parameters: url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect(),
        })
    }

    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str)
    }

    /// How long changes are gathered before they are written: `freshness`, where the driver knows
    /// it.
    pub fn flush_interval(&self, preferred: Duration) -> Result<Duration, String> {
        match self.parameter("freshness").map(crate::duration::parse) {
            None => Ok(preferred),
            Some(Ok(chosen)) if chosen <= FLUSH_INTERVAL_MAX => Ok(chosen),
            Some(Ok(_)) => Err(format!(
                "freshness is at most {FLUSH_INTERVAL_MAX:?}: NATS delivers again what is not \
                 acknowledged for five minutes"
            )),
            Some(Err(why)) => Err(format!("freshness: {why}")),
        }
    }

    /// Whether the host is this machine, where TLS is off unless asked for.
    pub fn is_local(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The URL with only the first of its hosts, `a:1,b:2`, and the others.
fn first_host(text: &str) -> (String, Vec<String>) {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    let start = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut hosts = text[start..end].split(',').map(str::trim).filter(|host| !host.is_empty());
    let first = hosts.next().unwrap_or_default();
    (format!("{}{first}{}", &text[..start], &text[end..]), hosts.map(str::to_owned).collect())
}

/// `mysql://user@host:3306/database`
fn place(url: &Url) -> String {
    let user =
        if url.username().is_empty() { String::new() } else { format!("{}@", url.username()) };
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!(
        "{}://{user}{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path().split(';').next().unwrap_or_default()
    )
}
