//! What a server is set to: by config.toml, while it runs; by old flags and variables.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::services::eds::{Running, binary};
use crate::services::hq::said;
use crate::services::site::{CODE, Site};
use crate::services::{ask, free_port, send, small_disks_can_be_made};

fn config(site: &Site) -> String {
    std::fs::read_to_string(site.data_dir().join("config.toml")).unwrap_or_default()
}

/// Everything in config.toml is taken up at SIGHUP, without another process.
#[tokio::test(flavor = "multi_thread")]
async fn config_toml_is_taken_up_while_the_server_runs() {
    let site = Site::new("taken", 96).await;
    site.enroll().await;
    let server = site.server(&[]);
    let session = site.session(0).await;
    let text = format!("{}keep_logs = true\nurl = \"{}\"\n", config(&site), site.sqlite());
    std::fs::write(site.data_dir().join("config.toml"), text).unwrap_or_else(|e| panic!("{e}"));
    send(server.pid(), "HUP");
    site.until_log("streaming eds-taken", 1).await;
    assert_eq!(site.order(&session, "sendlogs", Value::Null).await["success"], true);
    let logs = std::fs::read_dir(site.data_dir().join(&session).join("logs"));
    let names: Vec<String> = logs
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".sent.log")), "they are kept: {names:?}");

    // Enrolled anew: the next session is the other server's.
    site.hq.add_code("L-two", "other");
    let output = site.run(&["enroll", "L-two", "--api-url", site.hq.url()]).await;
    assert!(output.status.success(), "{}", said(&output));
    send(server.pid(), "HUP");
    let record = site.record(1).await;
    assert_eq!(record.server_id, "other");
    assert!(server.stop().status.success());
}

/// A config.toml that is mounted into a container is written where it is; where it is read-only,
/// what HQ configures holds for the process.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_toml_is_used() {
    if !small_disks_can_be_made() {
        return eprintln!("this machine does not let the tests mount anything");
    }
    for (name, options) in [("mounted", "bind"), ("readonly", "remount,ro,bind")] {
        let site = Site::new(name, 97).await;
        site.enroll().await;
        let file = site.data_dir().join("config.toml").display().to_string();
        let script = format!(
            "mount --bind \"$0\" \"$0\" && mount -o {options} \"$0\" \"$0\" && exec \"$@\""
        );
        let nats = site.nats.url();
        let words = ["-m", "sh", "-c", &script, &file, binary(), "server", "--port", "0"];
        let words = [&words[..], &["--server", &nats]].concat();
        let command = site.command_of(Path::new("unshare"), &words);
        let server = Running::start(command, site.dir.path().join("server.log"));
        let session = site.session(0).await;
        let data = json!({"url": site.sqlite(), "backfill": false});
        let reply = site.hq_nats.ask(&session, "configure", data).await;
        let reply = reply.unwrap_or_else(|e| panic!("{e}\n{}", site.log()));
        assert_eq!(reply["success"], true, "{reply}");
        site.until_log(&format!("streaming eds-{name}"), 1).await;
        site.publish(50).await;
        site.until_equal().await;
        let is_forgotten = reply["message"].as_str().is_some_and(|m| m.contains("is forgotten"));
        let is_written = config(&site).contains("url = ");
        assert_eq!((is_written, is_forgotten), (name == "mounted", name == "readonly"), "{reply}");
        assert!(server.stop().status.success());
    }
}

/// The code comes through a pipe; the enrolment's key goes before the variable; the old flag for
/// the port still means it.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_through_a_pipe_and_old_words() {
    let site = Site::new("pipe", 98).await;
    let mut command = site.command_of(Path::new(binary()), &["enroll", "--api-url", site.hq.url()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    let stdin = child.stdin.take();
    stdin.map_or(Ok(()), |mut stdin| writeln!(stdin, "{CODE}")).unwrap_or_else(|e| panic!("{e}"));
    let output = tokio::task::spawn_blocking(move || child.wait_with_output())
        .await
        .unwrap_or_else(|e| panic!("{e}"))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success() && config(&site).contains("pipe"), "{}", said(&output));

    let (port, nats) = (free_port(), site.nats.url());
    let own = port.to_string();
    let words = ["server", "--health-port", &own, "--server", &nats, "--url", &site.sqlite()];
    let mut command = site.command_of(Path::new(binary()), &words);
    command.env("SM_APIKEY", "of.another.server");
    let server = Running::start(command, site.dir.path().join("server.log"));
    site.until_log("streaming eds-pipe", 1).await;
    crate::services::eventually("health is served", Duration::from_secs(30), async || {
        tokio::task::block_in_place(|| ask(port, "GET", "/", "")).is_ok_and(|(code, _)| code == 200)
    })
    .await;
    assert!(server.stop().status.success());
}
