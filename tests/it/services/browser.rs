//! Chromium without a window, spoken to through a pipe.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::until_ok;

/// What ends a message of the pipe.
const END: u8 = 0;

pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    last: u64,
    session: String,
    /// What the page complained about.
    complaints: Vec<String>,
    _dir: TempDir,
}

impl Browser {
    /// Shows `url` in a window of so many pixels.
    pub fn open(url: &str, (width, height): (u32, u32)) -> Browser {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        // The pipe is read from descriptor 3 and written to 4.
        let script = "exec chromium --headless=new --remote-debugging-pipe --no-sandbox \
                      --disable-gpu --no-first-run --disable-background-networking \
                      --disable-component-update --disable-sync --disable-dev-shm-usage \
                      --user-data-dir=\"$0\" about:blank 3<&0 4>&1 >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("chromium: {e}"));
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("chromium has no pipe");
        };
        let mut browser = Browser {
            child,
            input,
            output: BufReader::new(output),
            last: 0,
            session: String::new(),
            complaints: Vec::new(),
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        for domain in ["Runtime", "Log", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height);
        browser.call("Page.navigate", json!({"url": url}));
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let sent = self.input.write_all(format!("{message}\0").as_bytes());
        sent.and_then(|()| self.input.flush()).unwrap_or_else(|e| panic!("{method}: {e}"));
        loop {
            let mut answer = Vec::new();
            self.output.read_until(END, &mut answer).unwrap_or_else(|e| panic!("{method}: {e}"));
            assert_eq!(
                answer.pop(),
                Some(END),
                "chromium has ended; `cargo x services` installs it"
            );
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{e}"));
            match answer["method"].as_str() {
                // A recommendation is no complaint.
                Some("Log.entryAdded") if answer["params"]["entry"]["level"] == "verbose" => {}
                Some("Runtime.exceptionThrown" | "Log.entryAdded") => {
                    self.complaints.push(answer["params"].to_string());
                }
                _ if answer["id"] == self.last => {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                _ => {}
            }
        }
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", params)["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        until_ok(Duration::from_secs(60), || match self.value(expression) {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{expression}: {other}; {:?}", self.complaints)),
        });
    }

    /// Presses and releases a key.
    pub fn press(&mut self, key: &str, code: u32, text: &str) {
        let down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    pub fn colours(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// A picture of what it shows, in the directory `EDS_PICTURES`, where somebody wants to look.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("EDS_PICTURES") else { return };
        let taken = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let data = taken["data"].as_str().unwrap_or_default();
        let png = data_encoding::BASE64.decode(data.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let file = std::path::Path::new(&folder).join(format!("{name}.png"));
        std::fs::write(&file, png).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    /// What the page complained about so far.
    pub fn complaints(&mut self) -> Vec<String> {
        self.value("1");
        std::mem::take(&mut self.complaints)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
