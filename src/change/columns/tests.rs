//! What is left of messages, rows and schemas.

use super::*;

const KEY: &str = "a key of enough bytes";

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn rules(exclude: &[&str], hash: &[&str]) -> ColumnRules {
    let key = SecretString::from(KEY.to_owned());
    let rules = ColumnRules::new(&names(exclude), &names(hash), Some(&key));
    rules.unwrap_or_else(|e| panic!("{e}"))
}

fn left_of(rules: &ColumnRules, message: &str, origin: MessageOrigin) -> String {
    let payload = Bytes::copy_from_slice(message.as_bytes());
    let event = rules.decode(&mut Decoder::default(), payload, origin);
    event.unwrap_or_else(|e| panic!("{e}")).payload().to_owned()
}

fn schema() -> TableSchema {
    let json = r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"required":["n"],
        "properties":{"id":{"type":"string"},"n":{"type":"integer"},"ssn":{"type":"string"}}}"#;
    TableSchema::parse(json).unwrap_or_else(|e| panic!("{e}"))
}

/// `printf 5 | openssl dgst -sha256 -hmac 'a key of enough bytes'`
const HASH_OF_5: &str = "1abbae4d1aaffbc693ae67401c98fcc3edbd115336d10f434f3013b6cc76f089";

#[test]
fn a_message_keeps_nothing_of_what_is_left_out_wherever_it_stands() {
    let rules = rules(&["t.ssn", "t.gone"], &["t.n"]);
    let message = r#"{"operation":"UPDATE","extra":{"ssn":"SECRET"},"table":"t","key":["k"],
        "before":{"id":"k","ssn":"SECRET","n":4},"after":{ "\u0073sn" : "SECRET","id":"k","n":5},
        "diff":["n","ssn"],"after":{"ssn":{"a":["SECRET"]},"n":5.0,"id":"k","o":null},
        "_edsHashed":["n"]}"#;
    let left = left_of(&rules, message, MessageOrigin::Source);
    assert!(!left.contains("SECRET") && !left.contains("ssn"), "{left}");
    let left: serde_json::Value = serde_json::from_str(&left).unwrap_or_default();
    assert_eq!(left["after"], serde_json::json!({"n": HASH_OF_5, "id": "k", "o": null}));
    assert_eq!((&left["diff"], &left["_edsHashed"]), (&["n"].into(), &["n"].into()));
    assert!(left["before"]["n"].as_str().is_some_and(|hash| hash != HASH_OF_5));
    let other = message.replace("\"table\":\"t\"", "\"table\":\"u\"");
    assert_eq!(left_of(&rules, &other, MessageOrigin::Source), other);
}

#[test]
fn what_was_kept_is_hashed_once_and_by_later_rules_too() {
    let hashes = rules(&[], &["t.n"]);
    let message = r#"{"operation":"INSERT","table":"t","key":["k"],"after":{"id":"k","n":5,"m":"x","o":"SECRET"}}"#;
    let kept = left_of(&hashes, message, MessageOrigin::Source);
    assert!(kept.contains(HASH_OF_5), "{kept}");
    assert_eq!(left_of(&hashes, &kept, MessageOrigin::Kept), kept);
    assert_ne!(left_of(&hashes, &kept, MessageOrigin::Source), kept, "the source cannot say so");
    let more = left_of(&rules(&["t.o"], &["t.n", "t.m"]), &kept, MessageOrigin::Kept);
    assert!(more.contains(HASH_OF_5) && !more.contains("\"x\""), "{more}");
    assert!(!more.contains("SECRET"), "{more}");
    assert_eq!(left_of(&ColumnRules::default(), &kept, MessageOrigin::Kept), kept);
    // What lists a column as hashed and has another value in it lies.
    let lies = message.replace("\"after\"", "\"_edsHashed\":[\"n\"],\"after\"");
    assert!(left_of(&hashes, &lies, MessageOrigin::Kept).contains(HASH_OF_5));
}

#[test]
fn equal_values_have_equal_hashes_however_they_are_spelled() {
    let rules = rules(&[], &["t.n"]);
    let hash = |token: &str| {
        let row = rules.row("t", format!(r#"{{"n":{token}}}"#).into());
        String::from_utf8_lossy(&row).into_owned()
    };
    let spelled = [
        ["5", "5.0", "50e-1", "\"5\""],
        ["0.1", "1e-1", "0.10", "0.100"],
        ["\"ä\"", "\"\\u00e4\"", " \"ä\"", "\"ä\" "],
        [
            r#"{"a":"b  \" c"}"#,
            r#"{ "a" : "b  \" c"}"#,
            r#"{"a":"b  \" c" }"#,
            "{\"a\":\n\"b  \\\" c\"}",
        ],
    ];
    for [one, others @ ..] in &spelled {
        for other in others {
            assert_eq!(hash(other), hash(one), "{other}");
        }
    }
    let different: BTreeSet<String> = spelled.iter().map(|[one, ..]| hash(one)).collect();
    assert_eq!(different.len(), spelled.len());
    assert_eq!(hash("null"), r#"{"n":null}"#);
    assert_ne!(hash(r#"{"a":"b \" c"}"#), hash(r#"{"a":"b  \" c"}"#));
}

#[test]
fn a_row_of_an_export_is_less_its_columns() {
    let rules = rules(&["t.ssn"], &["t.n"]);
    let row =
        |table: &str, line: &'static str| rules.row(table, Bytes::from_static(line.as_bytes()));
    assert_eq!(row("t", r#"{"ssn":"1","id":"k"}"#), r#"{"id":"k"}"#);
    assert_eq!(row("t", r#"{"ssn":"1"}"#), "{}");
    for unchanged in [r#"{"ssn":"1""#, "[1]", "", r#"{"ssn":"1"}x"#] {
        assert_eq!(row("t", unchanged), unchanged, "it is no row, and is told so");
    }
    assert_eq!(row("u", r#"{"ssn":"1"}"#), r#"{"ssn":"1"}"#);
}

#[test]
fn a_schema_lacks_what_is_left_out_and_has_texts_for_hashes() -> Result<(), BadColumnRule> {
    let left = rules(&["t.ssn"], &["t.n"]).schema(&schema())?.unwrap_or_else(|| panic!("less"));
    let columns: Vec<_> = left.columns.iter().map(|c| (&*c.name, c.kind, c.nullable)).collect();
    let text = super::super::ColumnType::Text;
    assert_eq!(columns, [("id", text, false), ("n", text, false)]);
    assert_eq!((left.column("n"), left.column("ssn")), (Some(1), None));
    assert_eq!(rules(&["u.ssn"], &[]).schema(&schema())?, None);
    for key in [rules(&["t.id"], &[]), rules(&[], &["t.id"])] {
        let refused = key.schema(&schema()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.starts_with("t.id is part of the primary key"), "{refused}");
    }
    Ok(())
}

#[test]
fn rules_that_cannot_be_meant_are_refused() {
    let key = SecretString::from(KEY.to_owned());
    let refused = |exclude: &[&str], hash: &[&str], key: Option<&SecretString>| {
        ColumnRules::new(&names(exclude), &names(hash), key).err()
    };
    for form in ["email", ".email", "t."] {
        assert!(matches!(refused(&[form], &[], None), Some(BadColumnRule::Form { .. })), "{form}");
    }
    assert!(matches!(refused(&["t.a"], &["t.a"], Some(&key)), Some(BadColumnRule::Both(_))));
    assert_eq!(refused(&[], &["t.a"], None), Some(BadColumnRule::NoKey));
    let short = SecretString::from("short".to_owned());
    assert_eq!(refused(&[], &["t.a"], Some(&short)), Some(BadColumnRule::ShortKey));
    assert_eq!(refused(&["t.a", "t.a", ""], &[], None), None);
    assert!(!format!("{:?}", rules(&[], &["t.n"])).contains("key"));
}

#[test]
fn a_message_that_cannot_be_read_is_kept_only_where_nothing_is_left_out() {
    let message = Bytes::from_static(br#"{"table":"t","after":{"ssn":"SECRET"#);
    assert_eq!(ColumnRules::default().unreadable(message.clone()), message);
    let kept = rules(&["t.ssn"], &[]).unreadable(message);
    assert!(!String::from_utf8_lossy(&kept).contains("SECRET"));
}

#[test]
fn types_are_words_and_numbers() -> Result<(), BadColumnRule> {
    let typed = |text: &str| ColumnRules::default().with_types(&[text.to_owned()]);
    let left = typed("t.n=numeric(12, 2), t.ssn = char varying(9)")?.schema(&schema())?;
    let left = left.unwrap_or_else(|| panic!("types"));
    let types: Vec<_> = left.columns.iter().map(|column| column.declared.as_deref()).collect();
    assert_eq!(types, [None, Some("numeric(12, 2)"), Some("char varying(9)")]);
    for odd in [
        "t.n",
        "n=text",
        "t.n=",
        "t.n=text; DROP TABLE t",
        "t.n=numeric(a)",
        "t.n=x')",
        "t.n=a(1)b",
    ] {
        assert!(matches!(typed(odd), Err(BadColumnRule::Type(_))), "{odd}");
    }
    assert!(!typed("t.n=bigint")?.hides());
    Ok(())
}

/// An import that goes on under other rules would have rows of both in one table.
#[test]
fn rules_that_leave_other_rows_or_columns_have_another_text() -> Result<(), BadColumnRule> {
    let keyed = |key: &str| {
        let key = SecretString::from(key.to_owned());
        ColumnRules::new(&[], &names(&["t.n"]), Some(&key))
    };
    let typed = |types: &str| ColumnRules::default().with_types(&[types.to_owned()]);
    let stamped = |deleted_at, version| {
        let stamps = AddedStamps { deleted_at, version, ..AddedStamps::default() };
        ColumnRules::default().adding(stamps)
    };
    let all = [
        ColumnRules::default(),
        rules(&["t.n"], &[]),
        rules(&["t.ssn"], &[]),
        keyed(KEY)?,
        keyed("another key of enough bytes")?,
        typed("t.n=bigint")?,
        typed("t.n=integer")?,
        stamped(true, false),
        stamped(false, true),
    ];
    let texts: BTreeSet<Option<String>> = all.iter().map(ColumnRules::text).collect();
    assert_eq!(texts.len(), all.len());
    assert_eq!(keyed(KEY)?.text(), rules(&[], &["t.n"]).text());
    assert!(!format!("{texts:?}").contains(KEY));
    Ok(())
}
