//! HQ's form for a topic, and the URL of it.

use crate::destination::form::{Answers, FieldError, FormField, encoded, encoded_host};

/// A topic of a cluster.
pub const TOPIC: [FormField; 3] = [
    FormField::text(
        "Hostname",
        "The host of a broker; of several, with ports, separated by commas",
    )
    .required(),
    FormField::port("9092", "The port of the broker"),
    FormField::text("Topic", "The topic to write to").required(),
];

/// `kafka://host:port,host:port/topic`. Hosts that come with a port of their own keep it.
pub fn url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    let port = answers.get("Port");
    let broker = |host: &str| match host.rsplit_once(':') {
        Some((name, own)) if own.parse::<u16>().is_ok() && !name.contains(':') => {
            format!("{}:{own}", encoded(name))
        }
        _ => format!("{}:{port}", encoded_host(host)),
    };
    let hosts = answers.get("Hostname").split(',').map(str::trim).filter(|host| !host.is_empty());
    let brokers: Vec<String> = hosts.map(broker).collect();
    Ok(format!(
        "{scheme}://{}/{}",
        brokers.join(","),
        encoded(answers.get("Topic").trim_matches('/'))
    ))
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
    fn brokers_keep_the_ports_that_they_come_with() -> Result<(), String> {
        let url = |value: Value| url_of(&DRIVER, &filled(value)).map_err(|e| format!("{e:?}"));
        assert_eq!(
            url(json!({"Hostname": "kafka", "Topic": "topic"}))?,
            "kafka://kafka:9092/topic"
        );
        assert_eq!(
            url(json!({"Hostname": "a:1, b", "Port": 9093, "Topic": "t"}))?,
            "kafka://a:1,b:9093/t"
        );
        assert!(url(json!({"Hostname": "a"})).is_err());
        Ok(())
    }
}
