//! Columns whose type changes between versions, keys that change, names and numbers of columns that
//! a database does not take.

use eds::change::ColumnType;
use serde_json::{Value, json};

use super::{Database, WAYS, Widens, canonical, replayed};
use crate::services::eds::{replay, replay_in, schema, upsert};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

fn journal(events: &[Value]) -> String {
    events.iter().map(|e| format!("{e}\n")).collect()
}

/// A replay that has to end with a failure; what it said.
fn refused(database: &dyn Database, schemas: &Value, events: &[Value]) -> String {
    let output = replay(&database.url(), schemas, events, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// The same names with other types in each version.
fn versions(table: &str) -> [Value; 3] {
    let time = json!({"type": "string", "format": "date-time"});
    let (text, number) = (json!({"type": "string"}), json!({"type": "number"}));
    [
        schema(
            table,
            "1",
            json!({"n": {"type": "integer"}, "b": {"type": "boolean"}, "w": time, "o": {"type": "object"}}),
        ),
        schema(table, "2", json!({"n": number, "b": text, "w": text, "o": text})),
        schema(table, "3", json!({"n": text, "b": text, "w": text, "o": text})),
    ]
}

const PRECISE: i64 = 9_007_199_254_740_993;

/// What becomes of columns whose type changes.
pub async fn columns_change_their_types(database: &dyn Database) {
    match database.limits().widens {
        Widens::Any => {
            columns_become_wide_enough(database).await;
            keys_become_text(database).await;
        }
        Widens::AnyButKeys => columns_become_wide_enough(database).await,
        Widens::Never => columns_are_named_that_are_too_narrow(database).await,
    }
}

/// Whole numbers become numbers and texts, everything else becomes text; then come older versions
/// again. Nothing is rounded, and nothing waits.
async fn columns_become_wide_enough(database: &dyn Database) {
    for (way, table) in WAYS.into_iter().zip(["few", "many"]) {
        let all = versions(table);
        let schemas = |upto: usize| {
            let named = all[..upto].iter().enumerate().map(|(i, s)| (format!("{i}"), s.clone()));
            Value::Object(named.collect())
        };
        let old = |id: &str| {
            let after = json!({"id": id, "n": PRECISE, "b": true, "w": "2024-02-03T04:05:06.7Z",
                "o": {"a": 1}});
            upsert(table, "1", after)
        };
        let second = json!({"id": "b", "n": 1.5, "b": "maybe", "w": "soon", "o": "no object"});
        let third = json!({"id": "c", "n": "x", "b": "", "w": "2024", "o": "{}"});
        let (second, third) = (upsert(table, "2", second), upsert(table, "3", third));
        let first: Vec<Value> = (0..12).map(|n| old(&format!("a{n:02}"))).collect();
        let replay = |upto, events: &[Value]| {
            let said = replayed(temp().path(), database, &schemas(upto), &journal(events), way);
            assert!(!said.contains("dead letter"), "{said}");
        };
        replay(1, &first);
        replay(2, std::slice::from_ref(&second));
        replay(2, &[old("d"), second.clone()]);
        replay(3, &[third, old("a11"), second, old("e")]);
        let rows = database.read(table, &["id", "n", "b", "w", "o"]).await;
        let columns = |id: &str| {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(id));
            row.unwrap_or_else(|| panic!("{id} is not in {rows:?}"))[1..].to_vec()
        };
        let texts = |row: [&str; 4]| row.map(|text| Some(text.to_owned())).to_vec();
        assert_eq!(columns("b"), texts(["1.5", "maybe", "soon", "no object"]));
        assert_eq!(columns("c"), texts(["x", "", "2024", "{}"]));
        for id in ["a00", "a11", "d", "e"] {
            let row = columns(id);
            assert_eq!(row[0].as_deref(), Some("9007199254740993"), "{id}");
            assert_eq!(canonical(ColumnType::Boolean, row[1].as_deref()), json!(true), "{id}");
            let time = canonical(ColumnType::Time, row[2].as_deref());
            assert_eq!(time, json!("2024-02-03T04:05:06.700000Z"), "{id}");
            assert_eq!(canonical(ColumnType::Object, row[3].as_deref()), json!({"a": 1}), "{id}");
        }
        assert_eq!(rows.len(), 16);
    }
}

/// Where the database cannot change types, the table is refused, with what a person has to do.
async fn columns_are_named_that_are_too_narrow(database: &dyn Database) {
    let of = |version: &str, kind: &str| schema("t", version, json!({"n": {"type": kind}}));
    let old = upsert("t", "1", json!({"id": "a", "n": PRECISE}));
    let first = json!({"t": of("1", "integer")});
    replayed(temp().path(), database, &first, &journal(&[old]), WAYS[0]);
    let said = refused(database, &json!({"t": of("2", "number")}), &[]);
    for part in ["table \"t\"", "column \"n\"", "NUMBER(0)", "STRING", "ALTER TABLE"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let kept = database.read("t", &["n"]).await;
    assert_eq!(kept, [[Some(PRECISE.to_string())]]);
}

/// The key gets another type, and rows are found by it as before.
async fn keys_become_text(database: &dyn Database) {
    let keyed = |version: &str, kind: &str| {
        json!({"table": "k", "modelVersion": version, "primaryKeys": ["n"], "required": ["n"],
            "properties": {"n": {"type": kind}, "v": {"type": "string"}}})
    };
    let schemas = json!({"1": keyed("1", "integer"), "2": keyed("2", "string")});
    let row = |version: &str, n: Value, v: &str| {
        json!({"operation": "UPDATE", "table": "k", "modelVersion": version, "key": [n],
            "after": {"n": n, "v": v}})
    };
    let delete = |version: &str, n: Value| json!({"operation": "DELETE", "table": "k", "modelVersion": version, "key": [n]});
    let first = [PRECISE, PRECISE - 1, 7, 8].map(|n| row("1", json!(n), "first"));
    let only_first = json!({"1": keyed("1", "integer")});
    replayed(temp().path(), database, &only_first, &journal(&first), WAYS[1]);
    let later = [
        row("2", json!("x"), "second"),
        row("2", json!("7"), "second"),
        row("1", json!(8), "third"),
        delete("1", json!(PRECISE)),
    ];
    for way in WAYS {
        replayed(temp().path(), database, &schemas, &journal(&later), way);
        let rows = database.read("k", &["n", "v"]).await;
        let mut expected = [("7", "second"), ("8", "third"), ("x", "second")]
            .map(|(n, v)| (n.to_owned(), v))
            .to_vec();
        expected.push(((PRECISE - 1).to_string(), "first"));
        expected.sort();
        let expected: Vec<Vec<Option<String>>> =
            expected.into_iter().map(|(n, v)| vec![Some(n), Some(v.to_owned())]).collect();
        assert_eq!(rows, expected);
    }
}

/// A column that is NOT NULL with a default is written like any other: its NOT NULL yields, or the
/// one row is a dead letter. A default of a column that EDS does not write is used.
pub async fn a_default_does_not_stop_the_table(database: &dyn Database) {
    let [table, id, n, own] = ["nn", "id", "n", "own"].map(|name| database.quoted(name));
    let create = format!(
        "CREATE TABLE {table} ({id} VARCHAR(64) NOT NULL PRIMARY KEY, \
         {n} BIGINT DEFAULT 0 NOT NULL, {own} BIGINT DEFAULT 7 NOT NULL)"
    );
    database.run(&create).await;
    let adopted = WAYS.map(|way| [way, &["--adopt", "nn"]].concat());
    let schemas = json!({"nn": schema("nn", "1", json!({"n": {"type": "integer"}}))});
    let row = |id: &str, n: Value| upsert("nn", "1", json!({"id": id, "n": n}));
    let rows = [row("a", Value::Null), row("b", json!(1))];
    let said = replayed(temp().path(), database, &schemas, &journal(&rows), &adopted[0]);
    let many: Vec<Value> = (0..500).map(|n| row(&format!("m{n}"), json!(n))).collect();
    let many = [&many[..], &[row("c", Value::Null)]].concat();
    replayed(temp().path(), database, &schemas, &journal(&many), &adopted[1]);
    let read = database.read("nn", &["id", "n", "own"]).await;
    let cells =
        |id: &str| read.iter().find(|r| r[0].as_deref() == Some(id)).map(|r| r[1..].to_vec());
    let seven = Some("7".to_owned());
    assert_eq!(cells("b"), Some(vec![Some("1".to_owned()), seven.clone()]));
    let yields = database.limits().drops_not_null;
    assert_eq!(cells("a"), yields.then(|| vec![None, seven.clone()]), "{said}");
    assert_eq!(cells("c"), yields.then(|| vec![None, seven]));
    assert_eq!(read.len(), if yields { 503 } else { 501 });
}

/// A key that changed between versions refuses the table, with both keys.
pub async fn another_key_is_named(database: &dyn Database) {
    let first = schema("t", "1", json!({"c": {"type": "string"}}));
    let mut second = schema("t", "2", json!({"c": {"type": "string"}}));
    second["primaryKeys"] = json!(["id", "c"]);
    let rows = [upsert("t", "1", json!({"id": "a", "c": "x"}))];
    replayed(temp().path(), database, &json!({"t": first}), &journal(&rows), WAYS[0]);
    let said = refused(database, &json!({"t": second}), &[]);
    for part in ["table \"t\" is (id)", "is (id, c) now", "import"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("did not make"), "{said}");
    assert_eq!(database.read("t", &["id"]).await, [[Some("a".to_owned())]]);
}

/// Names of which the database would make one, or that it does not take, are refused before
/// anything is written.
pub async fn names_that_fall_together_are_named(database: &dyn Database) {
    let text = || json!({"type": "string"});
    let long = |end: &str| format!("{}{end}", "n".repeat(299));
    let cases = [
        (("users", "id"), ("Users", "id")),
        ((&*long("1"), "id"), (&*long("2"), "id")),
        (("t", &*long("1")), ("t", &*long("2"))),
        (("u", "name"), ("u", "Name")),
    ];
    let limits = database.limits();
    for (i, ((table, column), (other_table, other_column))) in cases.into_iter().enumerate() {
        let first = schema(table, "1", json!({column: text(), other_column: text()}));
        let other = schema(other_table, "1", json!({column: text(), other_column: text()}));
        let schemas = json!({"1": first, "2": other});
        // The stand-in for Snowflake does not tell such columns apart, though Snowflake does.
        if i == 3 && limits.widens == Widens::Never {
            continue;
        }
        let is_taken = match i {
            0 => !limits.folds_tables,
            3 => !limits.folds_columns,
            _ => limits.takes_long_names,
        };
        if is_taken {
            let output = replay_in(temp().path(), &database.url(), &schemas, "", &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            continue;
        }
        let said = refused(database, &schemas, &[]);
        let names =
            if table == other_table { [column, other_column] } else { [table, other_table] };
        assert!(
            names.iter().all(|n| said.contains(&format!("\"{n}\""))) || said.contains("too long"),
            "{names:?}: {said}"
        );
    }
}

/// More columns than a table can have are refused with their number and the limit.
pub async fn too_many_columns_are_counted(database: &dyn Database) {
    let Some(max) = database.limits().columns_max else { return };
    let columns = (0..max).map(|i| (format!("c{i:04}"), json!({"type": "boolean"})));
    let wide = schema("wide", "1", Value::Object(columns.collect()));
    let said = refused(database, &json!({"wide": wide}), &[]);
    let counted = format!("table \"wide\" would have {} columns", max + 1);
    assert!(said.contains(&counted) && said.contains(&format!("at most {max}")), "{said}");
}

/// A user may say which changes of tables EDS makes.
pub async fn a_user_says_what_becomes_of_changed_schemas(database: &dyn Database) {
    let number = |kind: &str| json!({"type": kind});
    let versions = [
        json!({"n": number("integer")}),
        json!({"n": number("integer"), "m": number("integer")}),
        json!({"n": number("number"), "m": number("integer")}),
    ];
    let schemas = |version: usize| {
        let columns = versions[version - 1].clone();
        json!({"t": schema("policy", &version.to_string(), columns)})
    };
    let row = |version: usize, after: Value| upsert("policy", &version.to_string(), after);
    let run = |version: usize, after: Value, policy: &str| {
        let args = ["--schema-change", policy];
        let output = replay(&database.url(), &schemas(version), &[row(version, after)], &args);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_ok, said) = run(1, json!({"id": "a", "n": 1}), "hold");
    assert!(is_ok, "a new table is made: {said}");
    let (is_ok, said) = run(2, json!({"id": "b", "n": 2, "m": 7}), "hold");
    assert!(
        !is_ok && said.contains("ALTER TABLE") && said.contains("--schema-change hold"),
        "{said}"
    );
    let (is_ok, said) = run(2, json!({"id": "b", "n": 2, "m": 7}), "ignore");
    assert!(is_ok && said.contains("column \"m\" is new in table \"policy\""), "{said}");
    let (is_ok, said) = run(2, json!({"id": "c", "n": 3, "m": 8}), "add");
    assert!(is_ok, "{said}");
    let (is_ok, said) = run(2, json!({"id": "d", "n": 4, "m": 9}), "hold");
    assert!(is_ok, "nothing has to be changed: {said}");
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        [text("a"), text("1"), None],
        [text("b"), text("2"), None],
        [text("c"), text("3"), text("8")],
        [text("d"), text("4"), text("9")],
    ];
    assert_eq!(database.read("policy", &["id", "n", "m"]).await, expected);
    if database.limits().widens != Widens::Never {
        let (is_ok, said) = run(3, json!({"id": "e", "n": 1.5}), "add");
        let is_left = !is_ok && said.contains("--schema-change add leaves that to you");
        let stored = database.read("policy", &["id", "n"]).await;
        let is_exact = is_ok && stored.last() == Some(&vec![text("e"), text("1.5")]);
        assert!(is_left || is_exact, "{said}");
    }
}
