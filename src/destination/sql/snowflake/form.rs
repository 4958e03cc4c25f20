//! HQ's forms for Snowflake, by password and by key pair, and the URL of the latter.

use crate::destination::form::{Answers, FieldError, FormField, encoded_path};

/// A database of Snowflake, by user and password. Its URL is that of any database on a server.
pub const WAREHOUSE: [FormField; 4] = [
    FormField::text("Database", "The name of the database").required(),
    FormField::text("Username", "The user to log in as"),
    FormField::password("Password", "That user's password"),
    FormField::text("Hostname", "The account, or the host that it is reached at").required(),
];

/// A database of Snowflake, by key pair.
pub const WAREHOUSE_BY_KEY: [FormField; 4] = [
    FormField::text("Database", "Database and schema: DATABASE/SCHEMA").required(),
    FormField::text("Username", "The user to log in as").required(),
    FormField::text("Account", "The account: organisation-account").required(),
    FormField {
        default: Some("SNOWFLAKE_SECRET_ACCESS_KEY"),
        ..FormField::text(
            "Secret",
            "The environment variable of the server that holds the user's private key (PKCS#8, \
             PEM)",
        )
    },
];

/// `snowflake-keypair://user@account/database/schema?secret-key=VARIABLE`
pub fn key_pair_url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    Ok(format!(
        "{scheme}://{}@{}/{}?secret-key={}",
        answers.encoded("Username"),
        answers.encoded("Account"),
        encoded_path(answers.get("Database").trim_matches('/')),
        answers.encoded("Secret")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{DRIVER, KEY_PAIR_DRIVER};
    use crate::destination::form::{Filled, url_of};
    use serde_json::{Value, json};

    fn filled(value: Value) -> Filled {
        value.as_object().cloned().unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn snowflake_is_named_by_account_and_key_variable() {
        let url = url_of(
            &DRIVER,
            &filled(
                json!({"Database": "DB", "Hostname": "org-account", "Username": "me", "Password": "p@ss"}),
            ),
        );
        assert_eq!(url, Ok("snowflake://me:p%40ss@org-account/DB".into()));
        let url = |value: Value| url_of(&KEY_PAIR_DRIVER, &filled(value));
        let named = url(
            json!({"Database": "DB/SCHEMA", "Username": "me", "Account": "org-my_account", "Secret": "MY_KEY"}),
        );
        assert_eq!(
            named,
            Ok("snowflake-keypair://me@org-my_account/DB/SCHEMA?secret-key=MY_KEY".into())
        );
        assert_eq!(
            url(json!({"Database": "DB", "Username": "me", "Account": "a"})),
            Ok("snowflake-keypair://me@a/DB?secret-key=SNOWFLAKE_SECRET_ACCESS_KEY".into())
        );
        let errors = url(json!({})).err().unwrap_or_default();
        assert_eq!(
            errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
            ["Database", "Username", "Account"]
        );
    }
}
