//! The options of a PostgreSQL URL: those of libpq and of the Go program's driver.

use crate::destination::options::first_host;
use crate::destination::settings::{BadUrl, url_parts, with_host};
use crate::destination::{Driver, Settings};

/// Options that have an effect.
pub const OBEYED: &[(&str, &str)] = &[
    ("sslmode", "disable, allow, prefer, require, verify-ca or verify-full"),
    ("sslrootcert", "file with the certificate authorities to trust"),
    ("sslcert", "file with the client's certificate"),
    ("sslkey", "file with the client's key"),
    (
        "sslinline",
        "true: sslrootcert, sslcert and sslkey hold the PEM text itself, and no file's name",
    ),
    ("sslnegotiation", "postgres, or direct where the server speaks nothing but TLS"),
    ("channel_binding", "disable, prefer or require"),
    ("schema", "schema of the tables; without it the first of the search path"),
    ("prefix", "prefix of each table's name"),
    ("application_name", "how the connection names itself (eds)"),
    ("connect_timeout", "seconds to wait for a connection (10)"),
    ("options", "settings passed on to the server, e.g. -c work_mem=64MB"),
    ("search_path", "where the server looks for tables; the first is the schema of the tables"),
    ("role", "the role to take after the login"),
    ("work_mem", "passed on to the server"),
    ("maintenance_work_mem", "passed on to the server"),
    ("target_session_attrs", "which of several hosts: read-write (default) or any"),
    ("host", "host, or folder of the server's unix socket, if no host stands before the path"),
    ("port", "port, if none stands before the path"),
    ("user", "user, if none stands before the host"),
    ("password", "password, if none stands before the host"),
    ("dbname", "database, if the path names none"),
    ("keepalives_idle", "seconds of silence before the server is asked whether it lives (30)"),
];

/// Options without effect.
pub const ACCEPTED: &[(&str, &str)] = &[
    ("binary_parameters", "values travel as each type is exact"),
    ("disable_prepared_binary_result", "EDS reads no rows"),
    ("fallback_application_name", "application_name says how EDS names itself"),
    ("sslsni", "the host's name is always told"),
    ("sslpassword", "the key in sslkey has to be without a password"),
    ("sslcompression", "there is none"),
    ("gssencmode", "EDS encrypts by TLS"),
    ("krbsrvname", "EDS does not log in by Kerberos"),
    ("krbspn", "EDS does not log in by Kerberos"),
    ("keepalives", "connections are always watched"),
    ("keepalives_interval", "connections are always watched"),
    ("keepalives_count", "connections are always watched"),
    ("tcp_user_timeout", "connections are always watched"),
    ("load_balance_hosts", "hosts are tried in their order"),
    ("statement_timeout", "EDS bounds its own waits"),
    ("lock_timeout", "EDS bounds its own waits"),
    ("transaction_timeout", "EDS bounds its own waits"),
    ("idle_in_transaction_session_timeout", "EDS bounds its own waits"),
    ("idle_session_timeout", "EDS bounds its own waits"),
    ("default_transaction_isolation", "EDS chooses it"),
    ("default_transaction_read_only", "EDS writes"),
    ("synchronous_commit", "what is acknowledged has to survive a power cut"),
    ("standard_conforming_strings", "it is on"),
    ("client_min_messages", "EDS sets it"),
    ("client_encoding", "text is UTF-8"),
    ("TimeZone", "times are UTC"),
    ("DateStyle", "times travel in binary form"),
    ("IntervalStyle", "there are no intervals"),
    ("extra_float_digits", "numbers travel in binary form"),
    ("timezone_abbreviations", "times are UTC"),
];

/// Those of `OBEYED` that the server obeys.
const SERVER_SETTINGS: [&str; 4] = ["search_path", "role", "work_mem", "maintenance_work_mem"];

/// Reads the URL: several hosts, or none, and then what its options say instead.
pub fn database_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let (text, other_hosts) = first_host(text);
    let mut settings = Settings { other_hosts, ..url_parts(&text, driver)? };
    let options = settings.parameters.clone();
    let given = |key: &str| options.get(key).filter(|text| !text.is_empty());
    if let Some(hosts) = given("host").filter(|_| settings.host.is_empty()) {
        let mut hosts = hosts.split(',').map(str::to_owned);
        settings.host = hosts.next().unwrap_or_default();
        settings.other_hosts = hosts.collect();
    }
    if let Some(port) = given("port").filter(|_| settings.port.is_none()) {
        let wrong = |_| BadUrl::NotAUrl(url::ParseError::InvalidPort, driver.example.to_owned());
        settings.port = Some(port.parse().map_err(wrong)?);
    }
    if let Some(user) = given("user").filter(|_| settings.user.is_empty()) {
        settings.user.clone_from(user);
    }
    if let Some(password) = given("password").filter(|_| settings.password.is_none()) {
        settings.password = Some(password.clone().into());
    }
    if let Some(name) = given("dbname").filter(|_| settings.database().is_empty()) {
        settings.path = format!("/{name}");
    }
    with_host(settings, driver)
}

/// What is passed on to the server: the option `options`, and settings that stand by themselves.
pub fn server_settings(settings: &Settings) -> Option<String> {
    let mut all: Vec<String> =
        settings.parameter("options").map(str::to_owned).into_iter().collect();
    for name in SERVER_SETTINGS {
        if let Some(value) = settings.parameter(name) {
            // The server splits at spaces that no backslash stands before.
            let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
            all.push(format!("-c {name}={value}"));
        }
    }
    Some(all.join(" ")).filter(|text| !text.is_empty())
}

/// The hosts with their ports, first the one that stands first.
pub fn hosts(settings: &Settings, usual_port: u16) -> Vec<(String, u16)> {
    let mut hosts = vec![(settings.host.clone(), settings.port.unwrap_or(usual_port))];
    for other in &settings.other_hosts {
        let split =
            other.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = split.unwrap_or((other.as_str(), usual_port));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        hosts.push((host.to_owned(), port));
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn read(url: &str) -> Result<Settings, String> {
        Settings::parse(url, DRIVERS).map(|(settings, _)| settings).map_err(|e| e.to_string())
    }

    #[test]
    fn several_hosts_and_sockets_are_found() -> Result<(), String> {
        let of = |url: &str| read(url).map(|settings| hosts(&settings, 5432));
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(
            of("postgres://u:p@a:1,b,[::1]:3/d")?,
            [host("a", 1), host("b", 5432), host("::1", 3)]
        );
        let socket = [host("/run/postgresql", 5433)];
        assert_eq!(of("postgres:///d?host=/run/postgresql&port=5433&user=u")?, socket);
        assert_eq!(of("postgres://u@%2Frun%2Fpostgresql:5433/d")?, socket);
        assert!(read("postgres:///d?host=/run/postgresql")?.is_local());
        let settings = read("postgres://?host=h&user=u&password=p&dbname=d")?;
        assert_eq!((settings.user.as_str(), settings.database()), ("u", "d"));
        assert!(settings.password.is_some() && settings.host == "h");
        Ok(())
    }

    #[test]
    fn settings_of_the_server_are_passed_on() -> Result<(), String> {
        let of = |url: &str| read(url).map(|settings| server_settings(&settings));
        assert_eq!(of("postgres://h/d")?, None);
        assert_eq!(
            of("postgres://h/d?options=-c%20a=b&search_path=x,%20y&work_mem=64MB")?.as_deref(),
            Some("-c a=b -c search_path=x,\\ y -c work_mem=64MB")
        );
        Ok(())
    }
}
