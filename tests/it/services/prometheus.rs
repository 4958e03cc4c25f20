//! A Prometheus that scrapes every second.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{Server, ask, free_port, installed, plain, until_ok};

pub struct Prometheus {
    _server: Server,
    port: u16,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes `target` as job `eds`, and has `rules`, a file of them.
    pub fn start(target: &str, rules: &str) -> Prometheus {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
        };
        write("rules.yml", rules);
        write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
                 scrape_configs:\n  - job_name: eds\n    static_configs:\n      - targets: \
                 [\"{target}\"]\n"
            ),
        );
        let port = free_port();
        let flag = |name: &str, file: &str| format!("--{name}={}", dir.path().join(file).display());
        let args = [
            flag("config.file", "prometheus.yml"),
            flag("storage.tsdb.path", "data"),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--log.level=warn".into(),
        ];
        let program = installed("prometheus").display().to_string();
        let server = Server::start(plain(), &program, &args, &dir.path().join("log"), "TERM");
        until_ok(Duration::from_secs(60), || match ask(port, "GET", "/-/ready", "")? {
            (200, _) => Ok(()),
            (status, _) => Err(format!("{status}")),
        });
        Prometheus { _server: server, port, _dir: dir }
    }

    fn api(&self, path: &str) -> Result<Value, String> {
        let (_, body) = ask(self.port, "GET", &format!("/api/v1/{path}"), "")?;
        let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// What an expression is now; the error of one that is wrong.
    pub fn query(&self, expression: &str) -> Result<Value, String> {
        let bytes = expression.bytes().map(|b| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        });
        Ok(self.api(&format!("query?query={}", bytes.collect::<String>()))?["result"].clone())
    }

    /// The alerts that fire, by name.
    pub fn firing(&self) -> Result<Vec<String>, String> {
        let alerts = self.api("alerts")?;
        let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|a| a["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }
}
