//! Secrets in a form that messages and logs may show, and where they are kept: a variable of the
//! environment, a file that one names, or systemd's credentials.

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use secrecy::SecretString;
use url::Url;

/// Stands for what is not shown, however long it is.
const HIDDEN: &str = "****";
/// Stands for the value of an option.
const HIDDEN_VALUE: &str = "*";
/// What is put behind the name of a variable, for the one that names a file with the secret.
const FILE: &str = "_FILE";
/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The claims of a JWT, as JSON; nothing is verified. An error says what is wrong with it.
pub fn jwt_claims(jwt: &str) -> Result<Vec<u8>, &'static str> {
    let payload = jwt.trim().split('.').nth(1).ok_or("its JWT is not of three parts")?;
    BASE64URL_NOPAD
        .decode(payload.trim_end_matches('=').as_bytes())
        .map_err(|_| "its JWT is not base64")
}

/// Replaces the second half of a name, the longer one, by asterisks.
fn half(name: &str) -> String {
    let chars = name.chars().count();
    name.chars().take(chars / 2).chain(std::iter::repeat_n('*', chars - chars / 2)).collect()
}

/// A URL as it may be shown: scheme, host, port, and halves of the user's name and of the path.
/// Nothing of a password, a key or a token is left, nor how long they are, even where the URL is
/// not one: a password whose `/`, `?`, `#` or `@` is not percent-encoded ends up in other parts.
/// `is_name` says which names of options may be shown, for the same reason.
/// `http://us**:****@localhost:8080/pa**?query=*`
pub fn mask_url(text: &str, is_name: impl Fn(&str) -> bool) -> String {
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else { return HIDDEN.to_owned() };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_empty() || scheme.len() > 32 || !scheme.chars().all(is_scheme) {
        return HIDDEN.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match Url::parse(text) {
        Ok(url) if !rest[end..].contains(['@', '#']) => parts(&url, is_name),
        _ => format!("{scheme}://{HIDDEN}"),
    }
}

fn parts(url: &Url, is_name: impl Fn(&str) -> bool) -> String {
    let plain = |s: &str| percent_encoding::percent_decode_str(s).decode_utf8_lossy().into_owned();
    let mut out = format!("{}://", url.scheme());
    match (url.username(), url.password()) {
        ("", None) => {}
        // Alone it may be a token.
        (_, None) => out += &format!("{HIDDEN}@"),
        (user, Some(_)) => out += &format!("{}:{HIDDEN}@", half(&plain(user))),
    }
    out += url.host_str().unwrap_or_default();
    if let Some(port) = url.port() {
        out += &format!(":{port}");
    }
    let path = plain(url.path().trim_start_matches('/'));
    if path.contains([';', '=', ':', '@']) {
        // A connection string: keys are in it.
        out += &format!("/{HIDDEN}");
    } else if !path.is_empty() {
        out += &format!("/{}", half(&path));
    }
    let shown = |(name, _): (std::borrow::Cow<'_, str>, _)| match is_name(&name) {
        true => format!("{name}={HIDDEN_VALUE}"),
        false => HIDDEN_VALUE.to_owned(),
    };
    let pairs: Vec<String> = url.query_pairs().map(shown).collect();
    if !pairs.is_empty() {
        out += &format!("?{}", pairs.join("&"));
    }
    out
}

/// The place that a URL names: nothing of its login, its options and what follows them.
pub fn place(url: &str) -> String {
    let before_options = url.split(['?', '#']).next().unwrap_or_default();
    match before_options.contains('@') {
        true => mask_url(before_options, |_| false),
        false => before_options.to_owned(),
    }
}

/// URLs separated by commas, each as it may be shown.
pub fn mask_urls(list: &str) -> String {
    let urls = list.split(',').map(str::trim).filter(|url| !url.is_empty());
    urls.map(|url| if url.contains("://") { mask_url(url, |_| false) } else { host_only(url) })
        .collect::<Vec<_>>()
        .join(", ")
}

/// `host:port` without the login before it.
fn host_only(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => text.to_owned(),
    }
}

/// Whether a URL holds a login, as far as can be seen.
pub fn has_login(url: &str) -> bool {
    url.contains('@')
}

/// The secret `name`: what the variable of that name holds, else the file that the variable
/// `<name>_FILE` names, else the file `name` among systemd's credentials. White space at the end
/// does not count. An error names the file.
pub fn kept(name: &str) -> Result<Option<SecretString>, String> {
    Ok(kept_at(name)?.map(|(text, _)| text))
}

/// The secret `name` as [`kept`] finds it, and where: a variable, or a file.
pub fn kept_at(name: &str) -> Result<Option<(SecretString, String)>, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(text) = variable(name) {
        let text = text.into_string().map_err(|_| format!("{name} is not UTF-8"))?;
        return Ok(Some((text.trim_end().to_owned().into(), name.to_owned())));
    }
    if let Some(file) = variable(&format!("{name}{FILE}")) {
        let file = PathBuf::from(file);
        let text = secret_in(&file).map_err(|e| {
            format!("the file {} that {name}{FILE} names cannot be read: {e}", file.display())
        })?;
        let place = format!("{} ({name}{FILE})", file.display());
        return Ok(Some((text, place)));
    }
    let Some(dir) = variable(CREDENTIALS_DIRECTORY) else { return Ok(None) };
    let file = Path::new(&dir).join(name);
    match secret_in(&file) {
        Ok(text) => Ok(Some((text, file.display().to_string()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("the credential {} cannot be read: {e}", file.display())),
    }
}

/// The secret that a file has, without white space at its end.
pub fn secret_in(file: &Path) -> std::io::Result<SecretString> {
    std::fs::read_to_string(file).map(|text| text.trim_end().to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever stands where the secret is: the URL as it is shown has no four characters of it.
    #[test]
    fn nothing_of_a_secret_is_shown_whatever_the_form_of_its_url() {
        const FORMS: [&str; 24] = [
            "postgres://user:{}@host:5432/db?sslmode=require",
            "postgres://{}@host/db",
            "postgres://user:{}/more@host/db",
            "postgres://user:12/{}@host/db",
            "postgres://user:12?{}@host/db",
            "postgres://user:12#{}@host/db",
            "postgres://user:a@b/{}@host/db",
            "postgres://user:%zz{}@host/db",
            "postgres://user:{} with space@host/db",
            "postgres://user:pass@host:{}/db",
            "postgres://host/db?password={}",
            "postgres://host/db?a={}&{}=b",
            "postgres://host/db?{}",
            "postgres:user:{}@host/db",
            "user:{}@host/db",
            "{}",
            "://{}",
            "eventhub://ns.example/;SharedAccessKeyName=Root;SharedAccessKey={};EntityPath=hub",
            "Endpoint=sb://ns.example/;SharedAccessKey={};EntityPath=hub",
            "s3://bucket/folder?access-key-id=AKIA&secret-access-key={}&session-token={}",
            "s3://bucket/folder?secret-access-key=ab/{}+cd=",
            "snowflake://user:{}@account/db",
            "nats://{}@host:4222",
            "kafka://user:{}@a:9092,b:9092/topic",
        ];
        for secret in ["Zk7qWord", "Zk7%71Word", "Zk7qWord=="] {
            for form in FORMS {
                let url = form.replace("{}", secret);
                let shown = mask_url(&url, |name| name.starts_with("secret-"));
                let pieces = ["Zk7q", "k7qW", "Word", "qWor"];
                assert!(pieces.iter().all(|piece| !shown.contains(piece)), "{url}: {shown}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_is_shown_as_the_contract_says() {
        let shown = |url: &str| mask_url(url, |name| name == "query");
        assert_eq!(
            shown("http://user:password@localhost:8080/path?query=1&other=2"),
            "http://us**:****@localhost:8080/pa**?query=*&*"
        );
        assert_eq!(shown("postgres://h/db"), "postgres://h/d*");
        assert_eq!(shown("file:///var/eds"), "file:///var****");
        assert_eq!(shown(""), "****");
        assert_eq!(place("https://h:1/a/b.gz?X-Amz-Signature=abc#d"), "https://h:1/a/b.gz");
        assert_eq!(place("https://u:p@h/path"), "https://*:****@h/pa**");
        assert_eq!(mask_urls("nats://a:4222, u:p@b:1"), "nats://a:4222, ****@b:1");
    }
}
