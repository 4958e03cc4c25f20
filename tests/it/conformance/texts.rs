//! Text of every kind, in columns, within JSON and as keys.

use std::collections::BTreeSet;

use eds::change::ColumnType;
use serde_json::{Value, json};

use super::{Database, WAYS, canonical, replayed};
use crate::services::eds::{schema, upsert};

/// What has broken programs before: quotes of every language, escapes, keywords, templates,
/// invisible and wide characters.
const KNOWN: &[&str] = &[
    "",
    " ",
    "  leading",
    "trailing  ",
    "it's",
    "''",
    "'; DROP TABLE x; --",
    "\"quoted\"",
    "\"\"",
    "`tick`",
    "[bracket]",
    "]]",
    "back\\slash",
    "\\",
    "\\\\",
    "\\'",
    "\\\"",
    "\\.",
    "\\N",
    "\\n",
    "\\0",
    "\\u0041",
    "\\x41",
    "$1",
    "$$",
    "$_H_$",
    "@P1",
    "?",
    ":name",
    "%s",
    "%d%n",
    "{}",
    "{{.table}}",
    "${jndi}",
    "<b>&amp;</b>",
    "<!-- -->",
    "]]>",
    "--",
    "/* x */",
    "#",
    ";",
    "tab\tx",
    "new\nline",
    "return\rx",
    "crlf\r\nx",
    "\u{8}\u{c}\u{b}\u{1b}[31m",
    "null",
    "NULL",
    "undefined",
    "NaN",
    "Infinity",
    "-0",
    "0x1F",
    "1e309",
    "true",
    "0",
    "00",
    "1,000.00",
    "2024-02-30",
    "9999-99-99T99:99:99Z",
    "Ünïcödé",
    "e\u{301} é",
    "ﬁ ß ẞ ı İ",
    "部品 修理",
    "مرحبا",
    "שלום",
    "ไทย",
    "हिन्दी",
    "한국어",
    "ქართული",
    "🚗🔧",
    "👩‍🔧",
    "🇩🇪",
    "\u{200B}",
    "\u{FEFF}bom",
    "\u{202E}right to left",
    "\u{2028}\u{2029}",
    "\u{85}\u{a0}",
    "\u{FFFD}\u{FFFE}\u{FFFF}",
    "\u{E000}\u{F8FF}",
    "\u{10FFFF}",
    "a\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}",
    "nul\0inside",
    "\0",
];

/// At least 500 texts, none of them twice.
fn corpus() -> Vec<String> {
    let mut all: BTreeSet<String> = KNOWN.iter().map(|s| (*s).to_owned()).collect();
    all.extend((1u8..128).map(|b| format!("{}", char::from(b))));
    all.extend((1u8..128).map(|b| format!("a{0}b{0}{0}", char::from(b))));
    all.extend((0x80u32..0x100).filter_map(char::from_u32).map(|c| format!("{c}x")));
    // All 17 planes.
    all.extend((0u32..17).flat_map(|plane| (0..8).map(move |part| (plane, part))).map(
        |(plane, part)| {
            let code = |i: u32| char::from_u32(plane * 0x10000 + 0x20 + (part * 8 + i) * 0x3FF);
            (0..8).filter_map(code).collect::<String>()
        },
    ));
    for pair in KNOWN.windows(2) {
        all.insert(pair.concat());
    }
    let all: Vec<String> = all.into_iter().collect();
    assert!(all.len() >= 500, "{}", all.len());
    all
}

pub async fn arrive_unchanged(database: &dyn Database) {
    let mut texts = corpus();
    texts.push("x".repeat(1 << 20));
    texts.push("🚗".repeat(1 << 18));
    let (table, column) = ("select \"from\"; `x` [y] --", "order\" by 'x' `y` [z]");
    let schemas = json!({"t": schema(table, "1", json!({column: {"type": "string"}, "doc": {"type": "object"}, "list": {"type": "array"}}))});
    let event = |(i, text): (usize, &String)| {
        upsert(
            table,
            "1",
            json!({"id": format!("{i:04}"), column: text, "doc": {"t": text}, "list": [text]}),
        )
        .to_string()
            + "\n"
    };
    let journal: String = texts.iter().enumerate().map(event).collect();
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let kept = |text: &str| {
        if database.limits().without_nul { text.replace('\0', "") } else { text.to_owned() }
    };
    for way in WAYS {
        replayed(dir.path(), database, &schemas, &journal, way);
        let rows = database.read(table, &["id", column, "doc", "list"]).await;
        assert_eq!(rows.len(), texts.len());
        for (row, text) in rows.iter().zip(&texts) {
            let wanted = kept(text);
            let json = |i: usize| canonical(ColumnType::Object, row[i].as_deref());
            assert_eq!(
                (row[1].as_deref(), json(2), json(3)),
                (Some(wanted.as_str()), json!({"t": wanted}), json!([wanted])),
                "{text:?}"
            );
        }
    }
}

/// Keys that look alike to a collation are different rows: case, accents, width, trailing spaces.
pub async fn keys_are_told_apart(database: &dyn Database) {
    let limits = database.limits();
    let alike =
        ["a", "A", "á", "Á", "ａ", "a ", "a  ", "ss", "ß", "i", "I", "ı", "İ", "e\u{301}", "é"];
    let mut keys: BTreeSet<String> = corpus().into_iter().chain(alike.map(str::to_owned)).collect();
    keys.retain(|key| {
        !key.is_empty()
            && !key.contains('\0')
            && key.chars().count() <= 64
            && (!limits.pads_keys || key.trim_end_matches(' ') == key)
    });
    let schemas = json!({"t": schema("keyed", "1", json!({"copy": {"type": "string"}}))});
    let journal: String = keys
        .iter()
        .map(|key| upsert("keyed", "1", json!({"id": key, "copy": key})).to_string() + "\n")
        .collect();
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    replayed(dir.path(), database, &schemas, &journal, WAYS[1]);
    let rows = database.read("keyed", &["id", "copy"]).await;
    let expected: Vec<Vec<Option<String>>> =
        keys.iter().map(|k| vec![Some(k.clone()), Some(k.clone())]).collect();
    assert_eq!(rows, expected);
    // Deleted one by one, in two ways of asking.
    let gone: Vec<&String> = keys.iter().step_by(2).collect();
    let delete = |key: &String| {
        json!({"operation": "DELETE", "table": "keyed", "modelVersion": "1", "key": [key]})
            .to_string()
            + "\n"
    };
    let journal: String = gone.iter().map(|key| delete(key)).collect();
    replayed(dir.path(), database, &schemas, &journal, WAYS[1]);
    let left: Vec<Value> = database
        .read("keyed", &["id"])
        .await
        .into_iter()
        .map(|row| row[0].clone().into())
        .collect();
    let expected: Vec<Value> = keys.iter().skip(1).step_by(2).map(|k| k.as_str().into()).collect();
    assert_eq!(left, expected);
    // One that is too long for its column becomes a dead letter, with the cure.
    if limits.key_characters_max < 1_000 {
        let long = "k".repeat(limits.key_characters_max + 1);
        let journal = upsert("keyed", "1", json!({"id": long, "copy": "x"})).to_string() + "\n";
        let said = replayed(dir.path(), database, &schemas, &journal, WAYS[1]);
        assert!(
            said.contains("dead letter") && said.contains("ALTER TABLE") && !said.contains(&long),
            "{said}"
        );
    }
}
