//! The command line as a whole: its reference, its variables, what programs read, and that every
//! line of the documents is one that it takes.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::cli::golden_at;
use crate::services::at_once;
use crate::services::eds::{binary, schema, upsert};
use crate::tidy::documents::documents;

/// A directory in which commands run, without variables of whoever runs the tests.
struct CommandPlace {
    dir: tempfile::TempDir,
}

impl CommandPlace {
    fn new() -> CommandPlace {
        CommandPlace { dir: tempfile::tempdir().unwrap_or_else(|e| panic!("{e}")) }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        let made = path.parent().map(std::fs::create_dir_all);
        assert!(made.is_none_or(|made| made.is_ok()), "{}", path.display());
        std::fs::write(path, text).unwrap_or_else(|e| panic!("{e}"));
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(binary());
        command.args(words(line)).current_dir(self.dir.path());
        for name in ["EDS_URL", "PORT", "EDS_BIND", "SM_APIKEY"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, line: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = self.command(line);
        command.envs(variables.iter().copied());
        command.output().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The rows of the document that a command prints with `--json`, and its exit code.
    fn told(&self, line: &str, variables: &[(&str, &str)]) -> (Value, i32) {
        let output = self.run(&format!("{line} --json"), variables);
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{line}: {e}: {output:?}"));
        let names: Vec<&String> = told.as_object().into_iter().flat_map(|o| o.keys()).collect();
        assert_eq!(names, ["command", "data", "error", "version"], "{line}");
        let code = output.status.code().unwrap_or(-1);
        assert_eq!(told["error"].is_null(), code == 0, "{line}: {told}");
        assert!(line.starts_with(told["command"].as_str().unwrap_or("?")), "{line}: {told}");
        (told, code)
    }

    /// Value and origin of each setting.
    fn settings(&self, flags: &str, variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let (told, code) = self.told(&format!("config show {flags}"), variables);
        assert_eq!(code, 0, "{told}");
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let rows = told["data"].as_array().cloned().unwrap_or_default();
        let shown = |row: &Value| format!("{} < {}", text(row, "value"), text(row, "from"));
        rows.iter().map(|row| (text(row, "setting"), shown(row))).collect()
    }
}

/// The words of a line of a shell, as far as the documents use it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn help(path: &str) -> String {
    let output = CommandPlace::new().run(&format!("{path} --help"), &[]);
    assert!(output.status.success(), "{path}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The commands below one, as its help lists them.
fn commands_of(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

fn collect(path: &str, pages: &mut Vec<(String, String)>) {
    let page = help(path);
    let below = commands_of(&page);
    pages.push((path.to_owned(), page));
    for name in below {
        collect(format!("{path} {name}").trim(), pages);
    }
}

/// docs/cli.md is made of the whole `--help`; `EDS_GOLDEN=write` makes it anew.
#[test]
fn the_reference_is_what_help_prints() {
    let mut pages = Vec::new();
    collect("", &mut pages);
    assert!(pages.len() > 25, "{}", pages.len());
    let mut text = String::from(
        "# The command line\n\nThis page is what `eds --help` and `--help` after each command \
         print; a test makes it anew\n(`EDS_GOLDEN=write cargo x test command_line`).\n",
    );
    for (path, page) in &pages {
        let title = format!("eds {path}");
        text += &format!("\n## {}\n\n```text\n{}\n```\n", title.trim(), page.trim_end());
        assert!(path.is_empty() || page.contains("\nExamples:\n"), "{path} has no example");
    }
    golden_at("docs/cli.md", &text);
}

/// What stands behind `eds` in a line of a document, up to where another program begins.
fn command_line(text: &str) -> Option<&str> {
    let begins = |at: &usize| {
        text[..*at].chars().last().is_none_or(|c| c.is_whitespace() || "(`".contains(c))
    };
    let at = text.match_indices("eds ").map(|(at, _)| at).filter(begins).last()?;
    let rest = &text[at + "eds ".len()..];
    let end = rest.find([')', '#', '|', '>', '&', ';', '`']).unwrap_or(rest.len());
    let line = rest[..end].trim();
    // `eds COMMAND --help` stands for all of them, and docker has flags of its own.
    let is_ours = line.starts_with(|c: char| c.is_ascii_lowercase() || c == '-');
    Some(line).filter(|_| is_ours && !text.starts_with("docker "))
}

/// The command lines of a document: in blocks for a shell, and in the text.
fn command_lines(text: &str) -> Vec<String> {
    let (mut found, mut block) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language.to_owned()) };
            continue;
        }
        match block.as_deref() {
            Some("sh") => found.extend(command_line(line)),
            Some("console") if line.starts_with("$ ") => found.extend(command_line(line)),
            Some(_) => {}
            None => {
                let inline = line.split('`').skip(1).step_by(2);
                found.extend(
                    inline.filter(|code| code.starts_with("eds ")).filter_map(command_line),
                );
            }
        }
    }
    let whole = |line: &&str| {
        let is_help = *line == "help" || line.contains("LETTER");
        !is_help && !line.ends_with('\\') && !line.contains(['…', '[', '|', '*'])
    };
    found.into_iter().filter(whole).map(str::to_owned).collect()
}

/// Every line that a document or an example of a help shows is one that the program takes.
#[test]
fn every_command_of_the_documents_is_taken() {
    let mut lines: Vec<(String, String)> = Vec::new();
    for file in documents() {
        let of = |line| (file.path.clone(), line);
        lines.extend(command_lines(&file.text).into_iter().map(of));
        if file.path == "docs/cli.md" {
            let examples = file.text.lines().filter(|line| line.starts_with("    "));
            lines.extend(examples.filter_map(command_line).map(|line| of(line.to_owned())));
        }
    }
    assert!(lines.len() > 100, "{}", lines.len());
    let shell = CommandPlace::new();
    at_once(lines, |(path, line)| {
        // The words are read before the help is shown.
        let output = shell.run(&format!("{line} --help"), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: eds {line}\n{said}");
    });
}

/// A flag goes before its variable, that before the file, and that before the default.
#[test]
fn each_setting_names_where_it_is_from() {
    let shell = CommandPlace::new();
    let nothing = shell.settings("", &[]);
    assert_eq!(nothing["port"], "8080 < default");
    assert_eq!(nothing["url"], " < not set");
    shell.write(
        "data/config.toml",
        "token = \"s3cret\"\nserver_id = \"s1\"\nurl = \"postgres://me:s3cret@h/shop\"\nkeep_logs = true\n",
    );
    shell.write("url", "mysql://me:s3cret@h/shop\n");
    let file = shell.settings("", &[]);
    assert_eq!(file["url"], "postgres://m*:****@h/sh** < ./data/config.toml");
    assert_eq!(file["api-key"], "**** < ./data/config.toml");
    assert_eq!(file["eds-id"], "s1 < ./data/config.toml");
    assert_eq!(file["keep-logs"], "true < ./data/config.toml");
    let variables = [
        ("EDS_URL_FILE", "url"),
        ("EDS_API_KEY", "s3cret2"),
        ("EDS_ID", "s2"),
        ("EDS_PORT", "9"),
        ("PORT", "11"),
        ("EDS_TABLES", "a,b"),
        ("EDS_SERVER", "nats://me:s3cret@n"),
        ("EDS_KEEP_LOGS", "no"),
        ("SM_APIKEY", "s3cret3"),
    ];
    let environment = shell.settings("", &variables);
    assert_eq!(environment["url"], "mysql://m*:****@h/sh** < url (EDS_URL_FILE)");
    assert_eq!(environment["api-key"], "**** < EDS_API_KEY");
    assert_eq!(environment["eds-id"], "s2 < EDS_ID");
    assert_eq!(environment["port"], "9 < EDS_PORT");
    assert_eq!(environment["tables"], "a,b < EDS_TABLES");
    assert_eq!(environment["server"], "nats://m*:****@n < EDS_SERVER");
    assert_eq!(environment["keep-logs"], "no < EDS_KEEP_LOGS");
    let flags = "--url sqlite://x.db --port 10 --tables c --eds-id s3 --companyIds 1,2";
    let given = shell.settings(flags, &variables);
    assert!(given["url"].ends_with("< --url"), "{given:?}");
    assert_eq!(given["port"], "10 < --port");
    assert_eq!(given["tables"], "c < --tables");
    assert_eq!(given["eds-id"], "s3 < --eds-id");
    assert_eq!(given["company-ids"], "1,2 < --company-ids");
    for settings in [file, environment, given] {
        assert!(settings.values().all(|value| !value.contains("s3cret")), "{settings:?}");
    }
}

/// The settings that operations.md shows are shown so, column by column.
#[test]
fn the_document_shows_the_settings_that_are_printed() {
    let text = documents().into_iter().find(|file| file.path == "docs/operations.md");
    let text = text.map(|file| file.text).unwrap_or_default();
    let (_, block) = text.split_once("$ EDS_PORT=9100 eds ").unwrap_or_else(|| panic!("{text}"));
    let mut lines = block.lines();
    let line = lines.next().unwrap_or_default();
    let shell = CommandPlace::new();
    let config = "token = \"t\"\nserver_id = \"s\"\nurl = \"postgres://eds:s3cret@db/shop\"\n";
    shell.write("data/config.toml", config);
    let printed = shell.run(line, &[("EDS_PORT", "9100")]);
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed: Vec<String> = printed.lines().map(cells).collect();
    let shown: Vec<String> = lines.take_while(|line| *line != "```").map(cells).collect();
    assert!(shown.len() > 4, "{shown:?}");
    for line in shown.iter().filter(|line| *line != "…") {
        assert!(printed.contains(line), "{line} is not in {printed:#?}");
    }
}

/// The Go program's variable of the port goes on working; an empty one says nothing, and neither
/// does what Kubernetes sets for a service that is called eds.
#[test]
fn variables_that_say_nothing_are_passed_over() {
    let shell = CommandPlace::new();
    assert_eq!(shell.settings("", &[("PORT", "11")])["port"], "11 < PORT");
    assert_eq!(shell.settings("", &[("PORT", "")])["port"], "8080 < default");
    assert_eq!(shell.settings("", &[("EDS_PORT", ""), ("PORT", "11")])["port"], "11 < PORT");
    let service = [("EDS_PORT", "tcp://10.0.0.1:8080"), ("EDS_TABLES", ""), ("PORT", "")];
    let settings = shell.settings("", &service);
    assert_eq!((&*settings["port"], &*settings["tables"]), ("8080 < default", " < default"));
    let output = shell.run("config show", &[("EDS_PORT", "http")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--port"), "{said}");
    // Of every command, wherever the flag of all commands is written.
    let dir = [("EDS_DATA_DIR", "elsewhere")];
    let said = |line: &str| String::from_utf8_lossy(&shell.run(line, &dir).stderr).into_owned();
    assert!(said("state list").contains("elsewhere holds no state"));
    assert!(said("-d here state list").contains("here holds no state"));
    assert!(said("state list -d here").contains("here holds no state"));
}

/// Upstream's spellings are understood, and nobody is shown them.
#[test]
fn the_go_programs_flags_go_on_working() {
    let shell = CommandPlace::new();
    for line in [
        "stream --minPendingLatency 1s --maxPendingLatency 2s --companyIds 1 --help",
        "server --maxAckPending 9 --maxPendingBuffer 9 --minPendingLatency=1ms --help",
        "import --companyIds a --locationIds b --timeOffset 2024-07-11T21:16:51Z --help",
    ] {
        let output = shell.run(line, &[]);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{line}: {output:?}");
        let spelled = ["companyIds", "PendingLatency", "timeOffset", "locationIds"];
        assert!(spelled.iter().all(|flag| !shown.contains(&format!("--{flag}"))), "{shown}");
    }
}

/// One document, and nothing else on standard output, whether a command succeeds or fails.
#[test]
fn programs_read_one_document() {
    let shell = CommandPlace::new();
    let schemas =
        serde_json::json!({"t": schema("t", "1", serde_json::json!({"n": {"type": "integer"}}))});
    let event = |id: &str, n: Value| {
        format!("{}\n", upsert("t", "1", serde_json::json!({"id": id, "n": n})))
    };
    shell.write("schema.json", &schemas.to_string());
    shell.write("events.jsonl", &[event("1", 1.into()), event("2", "two".into())].concat());
    let url = [("EDS_URL", "sqlite://shop.db")];
    let done = shell.run("replay events.jsonl --schema schema.json", &url);
    assert!(done.status.success(), "{done:?}");
    for (line, rows) in [
        ("dlq list", 1),
        ("dlq show 0", 1),
        ("why t 1", 1),
        ("dlq retry --dry-run", 1),
        ("dlq drop --all", 1),
        ("explain", eds::help::HelpCode::ALL.len()),
        ("drivers", 10),
        ("drivers postgres", 1),
        ("version", 1),
        ("publickey", 1),
        ("state get table-export", 0),
        ("import --dir nowhere --schema schema.json", 0),
        ("explain EDS-999", 0),
        ("health --port 1", 0),
        ("top --port 1", 0),
        ("consumer show --server nats://127.0.0.1:1", 0),
        ("download 1.0.0 x", 0),
    ] {
        let (told, _) = shell.told(line, &url);
        assert_eq!(told["data"].as_array().map(Vec::len), Some(rows), "{line}: {told}");
    }
    let (told, code) = shell.told("doctor --check data-dir,config", &url);
    assert_eq!((told["data"].as_array().map(Vec::len), code), (Some(2), 0), "{told}");
    let (told, _) = shell.told("demo --for 1s --rate 200 --no-nats", &[]);
    assert_eq!(told["data"][0]["equal"], true, "{told}");
}

/// Whoever reads may have seen enough; that is no error, and no panic.
#[test]
fn a_reader_may_go_away() {
    let shell = CommandPlace::new();
    let mut command = shell.command("explain --json");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let full = std::fs::File::options().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let mut command = shell.command("explain");
    let output = command.stdout(full).output().unwrap_or_else(|e| panic!("{e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("[EDS-203]"), "{said}");
}

/// The manual page has every command, and only requests that man(7) knows.
#[test]
fn the_manual_page_is_whole() {
    let output = CommandPlace::new().run("man", &[]);
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    for command in commands_of(&help("")) {
        assert!(
            page.contains(&format!(".SS \"eds {}\"", command.replace('-', "\\-"))),
            "{command}"
        );
    }
    let known = ["TH", "SH", "SS", "B", "I", "RI", "TP", "PP", "nf", "fi", "br"];
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line[1..].split(' ').next().unwrap_or_default();
        assert!(known.contains(&request), "{line}");
    }
    assert!(!page.contains("companyIds") && page.contains("EDS_NATS_CA"), "{page}");
    golden_at("packaging/man/eds.1", &page);
}

/// What packages bring for shells is what the program prints.
#[test]
fn packages_complete_what_the_program_has() {
    for (shell, file) in [("bash", "eds.bash"), ("zsh", "_eds"), ("fish", "eds.fish")] {
        let output = CommandPlace::new().run(&format!("completion {shell}"), &[]);
        let script = String::from_utf8_lossy(&output.stdout);
        golden_at(&format!("packaging/completion/{file}"), &script);
    }
}

/// A terminal shows colours, unless somebody wants none.
#[test]
fn colours_can_be_switched_off() {
    let shell = CommandPlace::new();
    shell.write("events.jsonl", "");
    let line = format!("{} replay events.jsonl --url file://out", binary());
    let on_a_terminal = |variables: &[(&str, &str)]| {
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(shell.dir.path());
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
        let output = command.output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(coloured) = on_a_terminal(&[]) else { return };
    assert!(coloured.contains("\x1b[") && coloured.contains("done"), "{coloured}");
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let said = on_a_terminal(&[plain]).unwrap_or_default();
        assert!(!said.contains('\x1b') && said.contains("done"), "{plain:?}: {said}");
    }
}
