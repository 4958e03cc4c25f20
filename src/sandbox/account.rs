//! An operator of NATS with one account: the server's configuration, and credentials with exactly
//! the rights that HQ gives.

use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::clock::now_s;

/// The keys of an operator, its system account and one account; new ones each time, kept nowhere.
pub struct Account {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

/// A JWT as NATS wants it, by Ed25519.
fn jwt(mut claims: Value, signer: &KeyPair) -> Result<String, String> {
    claims["jti"] = uuid::Uuid::new_v4().simple().to_string().into();
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let input = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = signer.sign(input.as_bytes()).map_err(|e| e.to_string())?;
    Ok(format!("{input}.{}", BASE64URL_NOPAD.encode(&signature)))
}

impl Default for Account {
    fn default() -> Account {
        Account {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
        }
    }
}

impl Account {
    /// The configuration of a server that knows this account, with JetStream in `store`.
    pub fn server_config(&self, port: u16, store: &Path) -> Result<String, String> {
        let operator = self.operator.public_key();
        let claims = |subject: &KeyPair, name: &str, nats: Value| json!({"iat": now_s(), "iss": operator, "sub": subject.public_key(), "name": name, "nats": nats});
        let mut limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let system_key = self.system.public_key();
        let operator_jwt = jwt(
            claims(
                &self.operator,
                "operator",
                json!({"type": "operator", "version": 2, "system_account": system_key}),
            ),
            &self.operator,
        )?;
        let system_jwt = jwt(
            claims(
                &self.system,
                "system",
                json!({"type": "account", "version": 2, "limits": limits}),
            ),
            &self.operator,
        )?;
        for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[key] = json!(-1);
        }
        let account_jwt = jwt(
            claims(
                &self.account,
                "account",
                json!({"type": "account", "version": 2, "limits": limits}),
            ),
            &self.operator,
        )?;
        Ok(format!(
            "host: 127.0.0.1\nport: {port}\noperator: {operator_jwt}\nsystem_account: \
             {system_key}\nresolver: MEMORY\nresolver_preload: {{\n {system_key}: {system_jwt}\n \
             {}: {account_jwt}\n}}\njetstream {{ store_dir: \"{}\", max_file_store: 8GB }}\n",
            self.account.public_key(),
            store.display()
        ))
    }

    /// A credentials file of a user with these rights; `expires` in Unix seconds.
    pub fn creds(
        &self,
        name: &str,
        publish: &Value,
        subscribe: &Value,
        expires: Option<u64>,
    ) -> Result<String, String> {
        creds_of(&self.account, name, publish, subscribe, expires)
    }

    /// Of the operator's own account, which leads the servers.
    pub fn system_creds(&self) -> Result<String, String> {
        creds_of(&self.system, "system", &json!({}), &json!({}), None)
    }

    /// Of one who may do everything.
    pub fn admin_creds(&self) -> Result<String, String> {
        self.creds("admin", &json!({}), &json!({}), None)
    }

    /// What HQ gives to a server for a session; `expires` in Unix seconds.
    pub fn session_creds(
        &self,
        server_id: &str,
        session: &str,
        companies: &[String],
        expires: Option<u64>,
    ) -> Result<String, String> {
        let publish = [
            "$JS.API.STREAM.NAMES".to_owned(),
            "$JS.ACK.dbchange.>".to_owned(),
            "$JS.API.CONSUMER.MSG.NEXT.dbchange.>".to_owned(),
            "$JS.API.STREAM.CREATE.dbchange".to_owned(),
            "$JS.API.CONSUMER.>".to_owned(),
            format!("eds.client.{session}.>"),
            "_INBOX.>".to_owned(),
            "dbchange.>".to_owned(),
        ];
        let mut subscribe: Vec<String> =
            companies.iter().map(|company| format!("dbchange.*.*.{company}.*.PUBLIC.>")).collect();
        subscribe.extend([format!("eds.notify.{session}.>"), "_INBOX.>".to_owned()]);
        self.creds(server_id, &json!({"allow": publish}), &json!({"allow": subscribe}), expires)
    }
}

fn creds_of(
    account: &KeyPair,
    name: &str,
    publish: &Value,
    subscribe: &Value,
    expires: Option<u64>,
) -> Result<String, String> {
    let user = KeyPair::new_user();
    let nats = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": publish, "sub": subscribe});
    let mut claims = json!({"iat": now_s(), "iss": account.public_key(), "sub": user.public_key(), "name": name, "nats": nats});
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    let jwt = jwt(claims, account)?;
    let seed = user.seed().map_err(|e| e.to_string())?;
    Ok(format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN \
         USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ))
}
