//! HQ's form for a database on a server, and the URL of it.

use crate::destination::form::{Answers, FieldError, FormField, encoded_host};

/// The fields of a database on a server whose usual port is `port`.
pub const fn fields(port: &'static str) -> [FormField; 5] {
    [
        FormField::text("Database", "The name of the database").required(),
        FormField::text("Username", "The user to log in as"),
        FormField::password("Password", "That user's password"),
        FormField::text("Hostname", "The host of the database server, by name or address")
            .required(),
        FormField::port(port, "The port of the database server"),
    ]
}

/// `scheme://user:password@host:port/database`
pub fn url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    let login = match answers.get("Username") {
        "" => String::new(),
        _ => format!("{}:{}@", answers.encoded("Username"), answers.encoded("Password")),
    };
    let port = match answers.get("Port") {
        "" => String::new(),
        port => format!(":{port}"),
    };
    let host = encoded_host(answers.get("Hostname"));
    Ok(format!("{scheme}://{login}{host}{port}/{}", answers.encoded("Database")))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use crate::destination::Settings;
    use crate::destination::catalog::DRIVERS;
    use crate::destination::form::{Filled, url_of};
    use crate::destination::sql::postgres::DRIVER;
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    fn filled(value: Value) -> Filled {
        value.as_object().cloned().unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn a_form_comes_to_the_url_that_the_contract_shows() -> Result<(), String> {
        let url = |value: Value| url_of(&DRIVER, &filled(value));
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "h"})),
            Ok("postgres://h:5432/db".into())
        );
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "h", "Username": "user"})),
            Ok("postgres://user:@h:5432/db".into())
        );
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "::1", "Port": 6543})),
            Ok("postgres://[::1]:6543/db".into())
        );
        let errors = url(json!({"Username": "user", "Port": "many"})).err().unwrap_or_default();
        let of: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(of, ["Database", "Hostname", "Port"]);
        Ok(())
    }

    /// What a form says, the settings read from its URL say.
    #[test]
    fn odd_passwords_arrive() -> Result<(), String> {
        for password in ["p@ss/w:rd%", "100%", "a b+c", "ünïcode?#&", "%40"] {
            let answers = json!({
                "Database": "d/b", "Hostname": "h", "Username": "me@x", "Password": password
            });
            let url = url_of(&DRIVER, &filled(answers)).map_err(|e| format!("{e:?}"))?;
            let (settings, _) = Settings::parse(&url, DRIVERS).map_err(|e| e.to_string())?;
            let found = (
                settings.user.as_str(),
                settings.password.as_ref().map(|p| p.expose_secret().to_owned()),
                settings.path.as_str(),
            );
            assert_eq!(found, ("me@x", Some(password.to_owned()), "/d/b"), "{url}");
        }
        Ok(())
    }
}
