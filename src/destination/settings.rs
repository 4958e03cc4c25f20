//! A destination's URL, read once: scheme, place, login, options.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use super::options::{self, unencoded};
use super::{Driver, Failure};

/// The longest that changes are gathered: a minute less than what NATS waits for their
/// acknowledgement.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(240);

/// The longest wait that an option may ask for.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The options that say where something is, or what is written there, rather than how.
const PLACE_OPTIONS: [&str; 5] = ["database", "endpoint", "format", "prefix", "schema"];

/// What a destination's URL says, percent-decoded. `Debug` and `Display` show the place and whose
/// login it is, and nothing of the password or the options.
#[derive(Clone, Default)]
pub struct Settings {
    /// What is shown of the URL.
    pub(super) shown: String,
    /// The driver's scheme, even where the URL uses an alias.
    pub scheme: String,
    /// A name or an address, an IPv6 address without brackets; the folder of a unix socket; empty
    /// where a URL has only a path.
    pub host: String,
    /// `None`: the driver's usual port.
    pub port: Option<u16>,
    /// Further hosts, as written, where the destination is a cluster.
    pub other_hosts: Vec<String>,
    /// Empty where there is no login.
    pub user: String,
    /// The password of `user`.
    pub password: Option<SecretString>,
    /// What follows the host, with its leading slash; where there is no host, a path of this
    /// machine's file system.
    pub path: String,
    /// The options that follow the question mark, by the names that the driver gives them.
    pub parameters: BTreeMap<String, String>,
    /// Variables that the URL sets in each session of the server, beside the driver's options.
    pub variables: Vec<(String, String)>,
    /// Options without effect, each with the reason.
    pub ignored: Vec<(&'static str, &'static str)>,
    /// How long changes are gathered before they are written (the option `freshness`); `None`: as
    /// the driver prefers.
    pub freshness: Option<Duration>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A URL that cannot be used, with what would cure it. Never shows the URL itself: it may hold a
/// password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is not of the form of a URL: the reason, and an example.
    #[error(
        "the destination URL is not a URL ({0}); it looks like {1}. Characters such as @ / : % in \
         a password are written percent-encoded (%40 %2F %3A %25)"
    )]
    NotAUrl(url::ParseError, String),
    /// No driver has this scheme: it, and those that there are.
    #[error("the destination {0:?} is not known to this build; it knows: {1}")]
    UnknownScheme(String, String),
    /// A part of it ends early, at a character that has to be percent-encoded there.
    #[error(
        "the destination URL is taken apart by a {0:?}: in a user's name or a password it is \
         written {1}, and an @ behind the host %40"
    )]
    Unencoded(char, &'static str),
    /// The driver does not know an option; most are misspelt.
    #[error("the {scheme} URL has {key}, which EDS does not know; it knows: {known}")]
    UnknownParameter {
        /// The driver's scheme.
        scheme: String,
        /// The option, or that it is one.
        key: String,
        /// The options that it knows, as a list.
        known: String,
    },
    /// The option `freshness` is no duration, or too long a one.
    #[error("{0}")]
    Freshness(String),
    /// A part of the URL is missing: the driver's title, the part, an example.
    #[error("the {0} URL has no {1}; it looks like {2}")]
    Missing(&'static str, &'static str, &'static str),
}

/// Asks whether the driver is meant whose scheme begins as this word does.
fn near(word: &str, drivers: &[Driver]) -> Option<String> {
    let common =
        |scheme: &str| scheme.chars().zip(word.chars()).take_while(|(a, b)| a == b).count();
    let nearest = drivers.iter().map(|driver| driver.scheme).max_by_key(|scheme| common(scheme))?;
    (common(nearest) >= 3).then(|| format!("; is it {nearest}:// that you mean?"))
}

impl Settings {
    /// Reads `url` for the driver among `drivers` that its scheme names.
    pub fn parse<'d>(url: &str, drivers: &'d [Driver]) -> Result<(Settings, &'d Driver), BadUrl> {
        let known = || drivers.iter().map(|d| d.scheme).collect::<Vec<_>>().join(", ");
        let example = || drivers.first().map_or(String::new(), |d| d.example.to_owned());
        let Some((scheme, _)) = url.split_once(':') else {
            return Err(BadUrl::NotAUrl(url::ParseError::RelativeUrlWithoutBase, example()));
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let driver = drivers.iter().find(|d| d.has_scheme(scheme)).ok_or_else(|| {
            // What is no URL at all may begin with a secret.
            match url.contains("://") && scheme.chars().all(is_word) {
                true => BadUrl::UnknownScheme(
                    scheme.to_owned(),
                    known() + &near(scheme, drivers).unwrap_or_default(),
                ),
                false => BadUrl::NotAUrl(url::ParseError::RelativeUrlWithoutBase, example()),
            }
        })?;
        let mut settings = (driver.read_url)(url, driver)?;
        options::sort_out(&mut settings, driver)?;
        settings.freshness = settings.parameter("freshness").map(freshness).transpose()?;
        Ok((settings, driver))
    }

    /// Those of a URL that has nothing but its scheme.
    pub fn without_options(driver: &Driver) -> Settings {
        Settings { scheme: driver.scheme.to_owned(), ..Settings::default() }
    }

    /// The value of an option.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str)
    }

    /// The option `key`, a number within `range`; `None` without it.
    pub fn number(
        &self,
        key: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, Failure> {
        let Some(text) = self.parameter(key) else { return Ok(None) };
        let number = text.parse::<usize>().ok().filter(|n| range.contains(n));
        number.map(Some).ok_or_else(|| {
            Failure::misconfigured(format!(
                "{key}={text:?} is not a number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }

    /// The option `key`, one of the `known` words in whatever case, as what the word stands for;
    /// `None` without it.
    pub fn one_of<T: Copy>(&self, key: &str, known: &[(&str, T)]) -> Result<Option<T>, Failure> {
        let Some(text) = self.parameter(key) else { return Ok(None) };
        let chosen = known.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        chosen.map(|(_, meant)| Some(*meant)).ok_or_else(|| {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            let choice = match words.split_last() {
                Some((last, others)) if !others.is_empty() => {
                    format!("{} or {last}", others.join(", "))
                }
                _ => words.concat(),
            };
            Failure::misconfigured(format!("{key}={text:?} is not known; choose {choice}"))
        })
    }

    /// The option `key`, how long something is waited for: a number of seconds or a duration;
    /// `None` without it.
    pub fn wait(&self, key: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.parameter(key) else { return Ok(None) };
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => crate::duration::parse(text).ok(),
        };
        let sensible = wait.filter(|wait| !wait.is_zero() && *wait <= WAIT_MAX);
        sensible.map(Some).ok_or_else(|| {
            Failure::misconfigured(format!(
                "{key}={text:?} is not a time to wait, of more than nothing and at most a day; \
                 write 10, 10s or 1m30s"
            ))
        })
    }

    /// A name for the place that the URL is about, the same for each way to log in and each choice
    /// of how to write: what is known of what was written there belongs to it.
    pub fn place(&self) -> String {
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        let mut add = |part: &str| {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        };
        add(&self.scheme);
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let first = std::iter::once(format!("{}{port}", self.host));
        let hosts = first.chain(self.other_hosts.iter().cloned());
        let mut hosts: Vec<String> = hosts.map(|host| host.to_ascii_lowercase()).collect();
        hosts.sort_unstable();
        add(&hosts.join(","));
        let path = if self.host.is_empty() { absolute(&self.path) } else { self.path.clone() };
        // A connection string has its key in the path: of that only the entity is a place.
        let is_entity = |part: &&str| part.to_ascii_lowercase().starts_with("entitypath=");
        match path.split(';').find(is_entity).filter(|_| !self.host.is_empty()) {
            Some(entity) => add(entity),
            None => add(path.trim_end_matches('/')),
        }
        for option in PLACE_OPTIONS {
            add(option);
            add(self.parameter(option).unwrap_or_default());
        }
        format!("{}-{:016x}", self.scheme, hasher.digest())
    }

    /// Whether what is shown of the URL says which place it is about.
    pub fn is_shown_whole(&self) -> bool {
        !self.path.contains(';') && PLACE_OPTIONS.iter().all(|o| self.parameter(o).is_none())
    }

    /// The path without its slash: the database, where the path names one.
    pub fn database(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    /// Whether the host is this machine, where TLS is off unless asked for.
    pub fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.starts_with('/')
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The path from the root, whatever the working directory.
fn absolute(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    absolute.to_string_lossy().into_owned()
}

/// How long changes are gathered before they are written.
fn freshness(text: &str) -> Result<Duration, BadUrl> {
    match crate::duration::parse(text) {
        Ok(chosen) if chosen <= FLUSH_INTERVAL_MAX => Ok(chosen),
        Ok(_) => Err(BadUrl::Freshness(format!(
            "freshness is at most {FLUSH_INTERVAL_MAX:?}: NATS delivers again what is not \
             acknowledged for five minutes"
        ))),
        Err(why) => Err(BadUrl::Freshness(format!("freshness: {why}"))),
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Reads `scheme://user:password@host:port/path?options`: [`Driver::read_url`] of a destination on
/// a server.
pub fn server_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    with_host(url_parts(text, driver)?, driver)
}

/// The settings, if they name a host.
pub fn with_host(settings: Settings, driver: &Driver) -> Result<Settings, BadUrl> {
    match settings.host.is_empty() {
        true => Err(BadUrl::Missing(driver.title, "host", driver.example)),
        false => Ok(settings),
    }
}

/// The same, where the host may be missing.
pub fn url_parts(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    if let Some((character, encoded)) = unencoded(text) {
        return Err(BadUrl::Unencoded(character, encoded));
    }
    let url = Url::parse(text).map_err(|e| BadUrl::NotAUrl(e, driver.example.to_owned()))?;
    let host = url.host_str().unwrap_or_default();
    Ok(Settings {
        shown: shown(&url),
        host: decoded(host.trim_start_matches('[').trim_end_matches(']')),
        port: url.port(),
        user: decoded(url.username()),
        password: url.password().map(|password| decoded(password).into()),
        path: decoded(url.path()),
        parameters: url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect(),
        ..Settings::without_options(driver)
    })
}

/// Reads `scheme://path?options`: [`Driver::read_url`] of a destination in this machine's file
/// system. The path may be relative, as in `sqlite://shop.db`.
pub fn path_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let rest = text.split_once(':').map_or("", |(_, rest)| rest);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    // Options follow a question mark; one that no option follows belongs to the name.
    let (path, query) =
        rest.rsplit_once('?').filter(|(_, query)| query.contains('=')).unwrap_or((rest, ""));
    let path = decoded(path);
    if path.is_empty() {
        return Err(BadUrl::Missing(driver.title, "path", driver.example));
    }
    Ok(Settings {
        shown: format!("{}://{path}", driver.scheme),
        path,
        parameters: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        ..Settings::without_options(driver)
    })
}

/// `scheme://user@host:3306/database`: neither password nor options.
fn shown(url: &Url) -> String {
    let user =
        if url.username().is_empty() { String::new() } else { format!("{}@", url.username()) };
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let host = url.host_str().unwrap_or_default();
    format!("{}://{user}{host}{port}{}", url.scheme(), url.path())
}

#[cfg(all(test, feature = "file", feature = "postgres", feature = "snowflake"))]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn parsed(url: &str) -> Result<Settings, BadUrl> {
        Settings::parse(url, DRIVERS).map(|(settings, _)| settings)
    }

    #[test]
    fn neither_password_nor_options_are_shown() -> Result<(), BadUrl> {
        let settings = parsed("postgresql://me:p%40ss@[::1]:5433/d%20b?schema=s")?;
        assert_eq!(settings.to_string(), "postgresql://me@[::1]:5433/d%20b");
        assert_eq!((settings.scheme.as_str(), settings.host.as_str()), ("postgres", "::1"));
        assert_eq!((settings.path.as_str(), settings.parameter("schema")), ("/d b", Some("s")));
        let settings = parsed("file://a%20b/c?d?format=ndjson")?;
        assert_eq!(settings.to_string(), "file://a b/c?d");
        assert_eq!(settings.parameter("format"), Some("ndjson"));
        Ok(())
    }

    #[test]
    fn a_place_is_known_whoever_logs_in_and_however_it_is_written() -> Result<(), BadUrl> {
        let place = |url: &str| Ok::<_, BadUrl>(parsed(url)?.place());
        let one = place("postgres://me:secret@Host/db?schema=s")?;
        assert_eq!(one, place("postgresql://you@host/db?schema=s&sslmode=disable")?);
        assert!(!one.contains("secret") && one.starts_with("postgres-"));
        for other in
            ["postgres://host/db", "postgres://host:5433/db?schema=s", "postgres://host/e?schema=s"]
        {
            assert_ne!(one, place(other)?, "{other}");
        }
        let here = place("file://out?format=ndjson")?;
        let absolute = std::path::absolute("out").unwrap_or_default();
        assert_eq!(here, place(&format!("file://{}/?format=ndjson", absolute.display()))?);
        assert_ne!(here, place("file://out")?);
        Ok(())
    }

    #[test]
    fn freshness_is_bounded_and_only_for_drivers_that_have_it() -> Result<(), BadUrl> {
        assert_eq!(parsed("file:///d")?.freshness, None);
        assert_eq!(parsed("file:///d?freshness=4m")?.freshness, Some(FLUSH_INTERVAL_MAX));
        for wrong in ["file:///d?freshness=soon", "snowflake://me@a/d?freshness=5m"] {
            assert!(matches!(parsed(wrong), Err(BadUrl::Freshness(_))), "{wrong}");
        }
        let unknown = parsed("postgres://h/d?freshness=1s").err();
        assert!(matches!(unknown, Some(BadUrl::UnknownParameter { .. })), "{unknown:?}");
        Ok(())
    }

    #[test]
    fn options_with_wrong_values_are_refused() {
        let with = |text: &str| Settings {
            parameters: [("key".to_owned(), text.to_owned())].into(),
            ..Settings::default()
        };
        let text = |failure: Failure| failure.text;
        let number = |settings: Settings| settings.number("key", 1..=9).map_err(text);
        assert_eq!(number(Settings::default()), Ok(None));
        assert_eq!(number(with("9")), Ok(Some(9)));
        for wrong in ["0", "10", "-1", "many", ""] {
            let expected = format!("key={wrong:?} is not a number from 1 to 9");
            assert_eq!(number(with(wrong)), Err(expected));
        }
        let known = [("off", false), ("on", true)];
        let one_of = |settings: Settings| settings.one_of("key", &known).map_err(text);
        assert_eq!(one_of(Settings::default()), Ok(None));
        assert_eq!(one_of(with("On")), Ok(Some(true)));
        let unknown = Err("key=\"maybe\" is not known; choose off or on".to_owned());
        assert_eq!(one_of(with("maybe")), unknown);
        let wait = |settings: Settings| settings.wait("key").ok();
        assert_eq!(wait(Settings::default()), Some(None));
        for (written, seconds) in [("10", 10), ("10s", 10), ("1m30s", 90)] {
            assert_eq!(wait(with(written)), Some(Some(Duration::from_secs(seconds))), "{written}");
        }
        for wrong in ["", "0", "0s", "soon", "-1", "10 s", "25h", "99999999999999999999"] {
            assert_eq!(wait(with(wrong)), None, "{wrong}");
        }
    }
}
