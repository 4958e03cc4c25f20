//! Secrets in a form that messages and logs may show.

use url::Url;

/// Replaces the second half of `secret`, the longer one, by asterisks.
pub fn mask(secret: &str) -> String {
    let chars = secret.chars().count();
    secret.chars().take(chars / 2).chain(std::iter::repeat_n('*', chars - chars / 2)).collect()
}

/// Masks user, password, path and each query value of a URL; keeps scheme, host, port and the names
/// of the query: `http://us**:pass****@localhost:8080/pa**?query=*`
pub fn mask_url(url: &Url) -> String {
    let plain = |s: &str| percent_encoding::percent_decode_str(s).decode_utf8_lossy().into_owned();
    let mut out = format!("{}://", url.scheme());
    if !url.username().is_empty() || url.password().is_some() {
        out += &mask(&plain(url.username()));
        if let Some(password) = url.password() {
            out += ":";
            out += &mask(&plain(password));
        }
        out += "@";
    }
    out += url.host_str().unwrap_or_default();
    if let Some(port) = url.port() {
        out += &format!(":{port}");
    }
    if url.path().len() > 1 {
        out += "/";
        out += &mask(&plain(url.path().trim_start_matches('/')));
    }
    let pairs: Vec<String> =
        url.query_pairs().map(|(key, value)| format!("{key}={}", mask(&value))).collect();
    if !pairs.is_empty() {
        out += "?";
        out += &pairs.join("&");
    }
    out
}

/// Masks a text that should be a URL; one that is none is masked as a whole.
pub fn mask_text(url: &str) -> String {
    Url::parse(url).map_or_else(|_| mask(url), |url| mask_url(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_as_the_contract_shows() -> Result<(), url::ParseError> {
        let url = Url::parse("http://user:password@localhost:8080/path?query=1")?;
        assert_eq!(mask_url(&url), "http://us**:pass****@localhost:8080/pa**?query=*");
        assert_eq!(mask_url(&Url::parse("postgres://h/db")?), "postgres://h/d*");
        assert_eq!(mask(""), "");
        Ok(())
    }
}
