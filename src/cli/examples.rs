//! Examples that `--help` shows below each command.

use clap::Command;

/// What somebody wants, and the line that does it.
type Example = (&'static str, &'static str);

/// The examples of each command, by its path behind `eds`.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "stream",
        &[
            (
                "Stream into the destination that EDS_URL names, with the schemas of HQ",
                "eds stream --server nats://nats.example.com --creds server.creds --api-url https://api.example.com",
            ),
            (
                "Catch up with a NATS on this machine, and end",
                "eds stream --server nats://localhost --schema schema.json --url sqlite://shop.db --until-caught-up",
            ),
        ],
    ),
    (
        "enroll",
        &[(
            "With the code that HQ shows, and with the server's own directory",
            "eds enroll P1234 --data-dir /var/lib/eds",
        )],
    ),
    (
        "server",
        &[
            (
                "Run the enrolled server; HQ says where the changes go",
                "eds server --data-dir /var/lib/eds",
            ),
            (
                "Let other machines read its metrics, on another port",
                "eds server --bind 0.0.0.0 --port 9100",
            ),
            ("Describe a destination", "eds server help postgres"),
        ],
    ),
    (
        "import",
        &[
            ("Order an export from HQ and load it where EDS_URL says", "eds import --no-confirm"),
            ("Say what would become of each table, and change nothing", "eds import --check"),
            (
                "Load files that are at hand, of two tables only",
                "eds import --dir ./export --schema schema.json --only order,customer",
            ),
        ],
    ),
    (
        "verify",
        &[
            ("Compare two tables with a fresh export", "eds verify order customer"),
            ("Write what is missing or differs", "eds verify order --repair"),
        ],
    ),
    (
        "replay",
        &[
            (
                "Apply a file of events to an SQLite file",
                "eds replay events.jsonl --schema schema.json --url sqlite://shop.db",
            ),
            (
                "Say what would be done",
                "eds replay events.jsonl --schema schema.json --url sqlite://shop.db --dry-run",
            ),
        ],
    ),
    (
        "demo",
        &[
            ("Stream for five seconds into ./eds-demo/shop.db", "eds demo --for 5s"),
            ("Into an empty database of yours", "eds demo --url postgres://eds@localhost/empty"),
        ],
    ),
    ("sandbox", &[("Run an HQ here, for a server in another terminal", "eds sandbox")]),
    (
        "dlq",
        &[
            ("See what could not be applied", "eds dlq list"),
            ("Try all of it again", "eds dlq retry"),
        ],
    ),
    (
        "dlq list",
        &[
            ("Those of one table", "eds dlq list --table order"),
            ("Their reasons, for a script", "eds dlq list --json | jq -r '.data[].reason'"),
        ],
    ),
    ("dlq show", &[("One with its message", "eds dlq show 7")]),
    (
        "dlq retry",
        &[
            ("Two of them, after the cure", "eds dlq retry 7 8"),
            ("See first which would be tried", "eds dlq retry --table order --dry-run"),
        ],
    ),
    ("dlq drop", &[("Those of a table that is not wanted any more", "eds dlq drop --table old")]),
    ("dlq export", &[("All with their messages", "eds dlq export --output letters.jsonl")]),
    (
        "why",
        &[
            ("Why a row is not as expected", "eds why order 9f2c"),
            ("A row whose key has two columns", "eds why order_line 9f2c 3 --show-values"),
        ],
    ),
    (
        "doctor",
        &[
            ("Before the first start, and whenever something is odd", "eds doctor"),
            ("Only the destination and its tables", "eds doctor --check destination,tables"),
        ],
    ),
    ("health", &[("Whether changes are delivered, for a container's probe", "eds health --ready")]),
    (
        "top",
        &[
            ("Watch the server on this machine", "eds top"),
            ("How many changes wait, for a script", "eds top --json | jq '.data[0].lag_events'"),
        ],
    ),
    ("drivers", &[("All options of one destination", "eds drivers postgres")]),
    ("state", &[("What is kept", "eds state list")]),
    ("state list", &[("What is kept", "eds state list --data-dir /var/lib/eds")]),
    ("state get", &[("One entry", "eds state get table-export")]),
    ("config", &[("Where each setting is from", "eds config show")]),
    (
        "config show",
        &[
            ("Of the server in this directory", "eds config show --data-dir /var/lib/eds"),
            (
                "Those that somebody has chosen",
                "eds config show --json | jq '.data[] | select(.origin != \"default\")'",
            ),
        ],
    ),
    ("consumer", &[("How far the consumer is", "eds consumer show")]),
    ("consumer show", &[("With a credentials file", "eds consumer show --creds server.creds")]),
    ("consumer hand-back", &[("Before the Go program is started again", "eds consumer hand-back")]),
    (
        "download",
        &[(
            "From a place of your own",
            "eds download 1.2.3 eds-1.2.3 --release-url https://releases.example.com",
        )],
    ),
    ("publickey", &[("For gpg", "eds publickey | gpg --import")]),
    ("completion", &[("For this session of bash", "source <(eds completion bash)")]),
    ("man", &[("Read the manual page", "eds man | man -l -")]),
    ("explain", &[("The page about a code", "eds explain EDS-303"), ("All codes", "eds explain")]),
    ("version", &[("For a script", "eds version --json")]),
];

/// Below the help of the whole program.
const ALL_FLAGS: &str = "Every flag is also a variable of the environment: --nats-ca is \
EDS_NATS_CA. A flag goes before its\nvariable, and a variable before config.toml; an empty variable \
counts as not set. `eds config\nshow` names where each setting is from.\n\nFirst steps:\n  eds demo --for 5s      see it work, with nothing \
installed\n  eds drivers            what it can write to\n  eds doctor             what would keep a \
start from going well";

/// Shows the examples below the help of each command.
pub fn with_examples(command: Command) -> Command {
    below(command, "").after_help(ALL_FLAGS)
}

fn below(command: Command, path: &str) -> Command {
    let shown = EXAMPLES.iter().find(|(of, _)| *of == path).map(|(_, examples)| text(examples));
    let path = path.to_owned();
    let command = command.mut_subcommands(|inner| {
        let inner_path = format!("{path} {}", inner.get_name());
        below(inner, inner_path.trim_start())
    });
    match shown {
        Some(text) => command.after_help(text),
        None => command,
    }
}

fn text(examples: &[Example]) -> String {
    let lines = examples.iter().map(|(what, line)| format!("  {what}:\n    {line}"));
    format!("Examples:\n{}", lines.collect::<Vec<_>>().join("\n"))
}
