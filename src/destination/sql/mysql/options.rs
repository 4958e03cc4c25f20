//! The options of a MySQL URL: EDS's own and those of the Go program's driver.

use crate::destination::settings::{BadUrl, server_url};
use crate::destination::{Driver, Failure, FailureKind, Settings};

/// Options that have an effect.
pub const OBEYED: &[(&str, &str)] = &[
    ("tls", "false, preferred, skip-verify or true (verified, with the host's name)"),
    ("ssl-host", "the name that the server's certificate is for, if not the host's"),
    ("ssl-ca", "file with the certificate authorities to trust"),
    ("ssl-cert", "file with the client's certificate"),
    ("ssl-key", "file with the client's key"),
    ("schema", "database of the tables, if not the one of the URL"),
    ("prefix", "prefix of each table's name"),
    ("timeout", "how long to wait for a connection (10s)"),
    ("allowCleartextPasswords", "true: show the server the password, within TLS"),
    ("foreign_key_checks", "0 or 1, set in each session"),
    ("unique_checks", "0 or 1, set in each session"),
    ("sql_log_bin", "0 or 1, set in each session"),
];

/// Options without effect.
pub const ACCEPTED: &[(&str, &str)] = &[
    ("charset", "text is utf8mb4"),
    ("collation", "text is utf8mb4"),
    ("parseTime", "EDS reads no rows"),
    ("loc", "times are UTC"),
    ("time_zone", "times are UTC"),
    ("timeTruncate", "times keep their microseconds"),
    ("sql_mode", "it is strict"),
    ("readTimeout", "EDS bounds its own waits"),
    ("writeTimeout", "EDS bounds its own waits"),
    ("maxAllowedPacket", "the server's own limit counts"),
    ("max_allowed_packet", "the server's own limit counts"),
    ("interpolateParams", "values are parameters"),
    ("multiStatements", "each statement is sent by itself"),
    ("clientFoundRows", "it is on"),
    ("columnsWithAlias", "EDS reads no rows"),
    ("compress", "rows travel as they are"),
    ("connectionAttributes", "EDS names itself"),
    ("checkConnLiveness", "connections are always watched"),
    ("rejectReadOnly", "EDS connects anew by itself"),
    ("allowAllFiles", "EDS loads no files of this machine"),
    ("allowFallbackToPlaintext", "tls=preferred says the same"),
    ("allowNativePasswords", "they are allowed"),
    ("allowOldPasswords", "MySQL 8 has none"),
    ("serverPubKey", "the server is asked for its key"),
    ("tinyInt1IsBool", "EDS reads no rows"),
    ("autocommit", "EDS begins and ends its transactions"),
    ("tx_isolation", "EDS chooses it"),
    ("transaction_isolation", "EDS chooses it"),
    ("wait_timeout", "EDS bounds its own waits"),
    ("interactive_timeout", "EDS bounds its own waits"),
    ("net_read_timeout", "EDS bounds its own waits"),
    ("net_write_timeout", "EDS bounds its own waits"),
    ("max_execution_time", "EDS bounds its own waits"),
    ("lock_wait_timeout", "EDS bounds its own waits"),
    ("innodb_lock_wait_timeout", "EDS bounds its own waits"),
    ("group_concat_max_len", "EDS reads no rows"),
    ("character_set_client", "text is utf8mb4"),
    ("character_set_connection", "text is utf8mb4"),
    ("character_set_results", "text is utf8mb4"),
    ("collation_connection", "text is utf8mb4"),
];

/// Those of `OBEYED` that are set in a session.
const SWITCHES: [&str; 3] = ["foreign_key_checks", "unique_checks", "sql_log_bin"];

/// Reads the URL. The Go program's driver takes an option that it does not know for a variable of
/// the session; all those have an underscore, and no option that could be misspelt has one.
pub fn database_url(text: &str, driver: &Driver) -> Result<Settings, BadUrl> {
    let mut settings = server_url(text, driver)?;
    let is_variable = |name: &str| {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.contains('_') && name.chars().all(is_word) && !driver.knows(name)
    };
    let all = std::mem::take(&mut settings.parameters);
    let (variables, options): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| is_variable(name));
    settings.parameters = options.into_iter().collect();
    settings.variables = variables;
    Ok(settings)
}

/// Whether `value` is one value in SQL: a word or number, or a text in quotes that nothing ends
/// early.
fn is_value(value: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let inner = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    match inner {
        Some(text) => !text.contains(['\'', '\\']) && !text.chars().any(char::is_control),
        None => !value.is_empty() && value.strip_prefix('-').unwrap_or(value).chars().all(is_word),
    }
}

/// The failure of setting the variables of a session: the server knows which there are.
pub fn refused(settings: &Settings, failure: Failure) -> Failure {
    if failure.kind == FailureKind::Unavailable || settings.variables.is_empty() {
        return failure;
    }
    let names: Vec<&str> = settings.variables.iter().map(|(name, _)| name.as_str()).collect();
    Failure::misconfigured(format!(
        "the server does not set what the URL asks for (variables of a session: {}): {}. Is one \
         misspelt?",
        names.join(", "),
        failure.text
    ))
}

/// The statement that sets what the URL asks of a session; `None` where it asks for nothing.
pub fn session_switches(settings: &Settings) -> Result<Option<String>, Failure> {
    let values = [("0", '0'), ("1", '1'), ("off", '0'), ("on", '1'), ("false", '0'), ("true", '1')];
    let mut set = Vec::new();
    for name in SWITCHES {
        if let Some(value) = settings.one_of(name, &values)? {
            set.push(format!("{name} = {value}"));
        }
    }
    for (name, value) in &settings.variables {
        if !is_value(value) {
            return Err(Failure::misconfigured(format!(
                "the option {name} is taken for a variable of MySQL, whose value is a number, a \
                 word, or a text in '…'"
            )));
        }
        set.push(format!("{name} = {value}"));
    }
    Ok((!set.is_empty()).then(|| format!("SET SESSION {}", set.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    #[test]
    fn switches_of_a_session_are_set_as_the_url_says() -> Result<(), String> {
        let of = |url: &str| {
            let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
            session_switches(&settings).map_err(|e| e.text)
        };
        assert_eq!(of("mysql://h/d")?, None);
        let set = "SET SESSION foreign_key_checks = 0, sql_log_bin = 1";
        assert_eq!(of("mysql://h/d?foreign_key_checks=OFF&sql_log_bin=1")?.as_deref(), Some(set));
        assert!(of("mysql://h/d?unique_checks=2").is_err());
        let set = "SET SESSION bulk_insert_buffer_size = 1024, optimizer_switch = 'a=on,b=off'";
        let url = "mysql://h/d?optimizer_switch=%27a=on,b=off%27&bulk_insert_buffer_size=1024";
        assert_eq!(of(url)?.as_deref(), Some(set));
        for wrong in ["1;DROP%20TABLE%20t", "%27a%27%27", "(SELECT%201)", "", "%27\\%27"] {
            let url = format!("mysql://h/d?sort_buffer_size={wrong}");
            assert!(of(&url).is_err(), "{wrong}");
        }
        Ok(())
    }
}
