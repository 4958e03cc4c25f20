//! HQ's form for a hub, and the URL of it: the connection string that Azure's portal shows.

use crate::destination::form::{Answers, FieldError, FormField, encoded};

const CONNECTION_STRING: &str = "Connection String";

/// What Azure's portal shows to be copied.
pub const CONNECTION: [FormField; 1] = [FormField::password(
    CONNECTION_STRING,
    "The hub's connection string: Endpoint=sb://…;EntityPath=…",
)
.required()];

/// The endpoint's host is the URL's; what follows stays as it is.
pub fn url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    let wrong = |error: &str| FieldError::new(CONNECTION_STRING, error);
    let text = answers.get(CONNECTION_STRING);
    let mut parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    let endpoint = parts
        .next()
        .and_then(|first| first.strip_prefix("Endpoint=sb://"))
        .map(|host| host.trim_end_matches('/'));
    let host = endpoint
        .filter(|host| !host.is_empty())
        .ok_or_else(|| wrong("it does not begin with Endpoint=sb://"))?;
    let rest: Vec<String> =
        parts.map(|part| part.split('=').map(encoded).collect::<Vec<_>>().join("=")).collect();
    if !rest.iter().any(|part| part.starts_with("EntityPath=")) {
        return Err(wrong(
            "it has no EntityPath: copy the connection string of the hub, not that of the \
             namespace",
        ));
    }
    Ok(format!("{scheme}://{host}/;{}", rest.join(";")))
}

#[cfg(test)]
mod tests {
    use super::super::DRIVER;
    use crate::destination::form::{Filled, url_of};
    use serde_json::{Value, json};

    fn filled(value: Value) -> Filled {
        value.as_object().cloned().unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn a_connection_string_becomes_a_url() -> Result<(), String> {
        let url = |text: &str| {
            url_of(&DRIVER, &filled(json!({ "Connection String": text })))
                .map_err(|e| format!("{e:?}"))
        };
        let whole = url(
            "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=a/b+c==;EntityPath=hub",
        )?;
        assert_eq!(
            whole,
            "eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=a%2Fb%2Bc==;EntityPath=hub"
        );
        assert!(url("Endpoint=sb://ns/;SharedAccessKeyName=Root;SharedAccessKey=k").is_err());
        assert!(url("https://ns").is_err());
        Ok(())
    }
}
