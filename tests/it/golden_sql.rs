//! Every statement that EDS writes, in every dialect: nothing changes unnoticed.

use eds::change::TableSchema;
use eds::destination::import::staged;
use eds::destination::sql::as_of::AS_OF;
use eds::destination::sql::dialect::{Dialect, Rename};
use eds::destination::sql::held::HELD;
use eds::destination::sql::import::statements::{CUTOVERS, PROGRESS};
use eds::destination::sql::json_rows::ColumnsOfTable;
use eds::destination::sql::letters::DEAD_LETTERS;
use eds::destination::sql::mysql::dialect::{MARIADB, MYSQL};
use eds::destination::sql::mysql::rows::{self, Action};
use eds::destination::sql::postgres::dialect::POSTGRES;
use eds::destination::sql::postgres::import::delete_repeats;
use eds::destination::sql::postgres::rows::{stage_columns, upsert_from};
use eds::destination::sql::render::{CHECKPOINT, Namespace, Renderer};
use eds::destination::sql::snowflake::dialect::SNOWFLAKE;
use eds::destination::sql::snowflake::rows::{self as lines, RowSource};
use eds::destination::sql::sqlite::SQLITE;
use eds::destination::sql::sqlserver::catalog::{
    COLUMNS, DECLARED, columns_of_one, nullable_definition,
};
use eds::destination::sql::sqlserver::dialect::{SQLSERVER, SQLSERVER_DATABASE_KEYS};
use eds::destination::sql::sqlserver::rows::{
    delete_from, fill, insert_from, make_stage, update_from,
};
use eds::destination::sql::widen::Widened;
use eds::destination::sql::{snowflake, sqlserver};

const SCHEMA: &str = r#"{"table":"or\"der","modelVersion":"1","primaryKeys":["id","region"],"required":["id","region","total","meta"],"properties":{
    "id":{"type":"string"},"region":{"type":"integer"},"total":{"type":"integer"},"rate":{"type":"number"},"paid":{"type":"boolean"},
    "when":{"type":"string","format":"date-time"},"meta":{"type":"object"},"tags":{"type":"array"},"status":{"type":"array","items":{"enum":["A"]}},"select":{"type":"string"}}}"#;
const KEY_ONLY: &str = r#"{"table":"Only","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;

const DATED: &str = r#"{"table":"dated","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"},"updatedDate":{"type":"string","format":"date-time"}}}"#;

fn parsed(schema: &str) -> TableSchema {
    TableSchema::parse(schema).unwrap_or_else(|e| panic!("{e}"))
}

/// A statement that a file holds in several lines, in the form of a golden file.
fn on_one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What every dialect has.
fn common(renderer: &Renderer) -> Vec<String> {
    let schema = parsed(SCHEMA);
    vec![
        renderer.create_table(&schema),
        renderer.create_table(&parsed(KEY_ONLY)),
        renderer.add_column(&schema, 3),
        renderer.create_checkpoint(CHECKPOINT),
        renderer.insert_checkpoint(),
        renderer.take_checkpoint(),
        renderer.read_checkpoint(),
        renderer.read_records(),
        renderer.create_held(HELD),
        renderer.insert_held(),
        renderer.read_held(),
        renderer.read_held_labels(),
        renderer.read_held_body(),
        renderer.advance_held(),
        renderer.delete_held(),
        renderer.adopt_held(),
        renderer.create_dead_letters(DEAD_LETTERS),
        renderer.insert_dead_letters(2),
        renderer.read_dead_letter_entries(),
        renderer.read_dead_letter_labels(),
        renderer.read_dead_letter(),
        renderer.supersede_dead_letter(),
        renderer.delete_dead_letter(),
        renderer.adopt_dead_letters(),
        renderer.advance_checkpoint(),
        widened(renderer),
        renderer.read_page(&schema, false, 2_000).0,
        renderer.read_page(&schema, true, 2_000).0,
        renderer.read_keys(&schema, 2),
    ]
    .into_iter()
    .chain(renderer.dialect.read_back.concerns.map(on_one_line))
    .chain(renderer.create_as_of(AS_OF))
    .collect()
}

/// A column that is made wider, by whichever way the dialect has.
fn widened(renderer: &Renderer) -> String {
    let to = renderer.dialect.types[0];
    let made = ["BIGINT", "FLOAT"].map(|from| {
        let widened = Widened { table: "or\"der", column: "to'tal", from, to, rest: " NULL" };
        renderer.widen(&widened).join(";\n")
    });
    made.join(";\n")
}

/// What imports say in every dialect.
fn imports(renderer: &Renderer) -> Vec<String> {
    let (schema, key_only) = (parsed(SCHEMA), parsed(KEY_ONLY));
    let new = staged(&schema);
    let renamed = (renderer.dialect.rename != Rename::Never)
        .then(|| renderer.rename(&new.table, &schema.table));
    let statements = vec![
        renderer.create_cutovers(CUTOVERS),
        renderer.create_progress(PROGRESS),
        renderer.read_cutovers(),
        renderer.insert_cutover(CUTOVERS),
        renderer.read_progress_names(),
        renderer.read_progress(),
        renderer.insert_progress(PROGRESS),
        renderer.advance_progress(),
        renderer.clear(PROGRESS),
        renderer.set_back_checkpoint(),
        renderer.create_staged(&schema, &new),
        renderer.reset_progress(),
        renderer.drop_table(&schema.table),
        renderer.delete_missing(&schema, &new),
    ];
    [
        statements,
        renamed.into_iter().collect(),
        renderer.merge_staged(&schema, &new),
        renderer.merge_staged(&key_only, &staged(&key_only)),
    ]
    .concat()
}

/// What dialects with one statement for an upsert have.
fn upserts(renderer: &Renderer) -> Vec<String> {
    [SCHEMA, KEY_ONLY].map(|schema| renderer.upsert_one(&parsed(schema))).to_vec()
}

fn mysql(renderer: &Renderer) -> Vec<String> {
    let schema = parsed(SCHEMA);
    let loosened = renderer.drop_not_null("or\"der", "total", "bigint NULL DEFAULT 5");
    let pairs = [("_eds_new_a", "a"), ("_eds_new_b", "b")]
        .map(|(from, to)| (from.to_owned(), to.to_owned()));
    let renames = vec![
        renderer.raise_epochs(),
        renderer.copy_checkpoints("_eds_new__eds_checkpoint"),
        renderer.rename_all(&pairs),
    ];
    let rows = vec![
        loosened,
        rows::sql(renderer, &schema, Action::Upsert, 2),
        rows::sql(renderer, &parsed(KEY_ONLY), Action::Upsert, 1),
        rows::sql(renderer, &schema, Action::Delete, 2),
    ];
    [rows, renames].concat()
}

fn sqlserver(renderer: &Renderer) -> Vec<String> {
    let (schema, key_only) = (parsed(SCHEMA), parsed(KEY_ONLY));
    let loose = ["id".to_owned()];
    let comparing_as_the_database =
        Renderer::new(&SQLSERVER_DATABASE_KEYS, renderer.namespace.clone());
    let settings = sqlserver::session_settings();
    let session = [
        settings.as_str(),
        sqlserver::ABOUT,
        sqlserver::ROLLBACK,
        renderer.dialect.begin,
        "COMMIT",
        COLUMNS,
        &columns_of_one(),
        DECLARED,
    ]
    .map(on_one_line);
    let stage = |schema: &TableSchema, columns: usize| {
        let contents = renderer.contents(schema, &schema.columns[..columns]);
        [
            make_stage(renderer, schema, columns, "#eds_1"),
            fill(
                "#eds_1",
                ColumnsOfTable { columns: &schema.columns[..columns], contents: &contents },
            ),
            "TRUNCATE TABLE #eds_1".into(),
        ]
    };
    let more = vec![
        renderer.drop_not_null(
            "or\"der",
            "total",
            &nullable_definition("nvarchar", Some(-1), Some("Latin1_General_CI_AS"), None, None),
        ),
        delete_from(renderer, &schema, "#eds_1", &[]),
        insert_from(renderer, &schema, "#eds_1", &[]),
        insert_from(renderer, &key_only, "#eds_1", &[]),
        delete_from(renderer, &schema, "#eds_1", &loose),
        insert_from(renderer, &schema, "#eds_1", &loose),
        comparing_as_the_database.create_table(&key_only),
        "DROP TABLE #eds_1".into(),
    ];
    let updates = [&schema, &key_only]
        .into_iter()
        .filter_map(|s| update_from(renderer, s, "#eds_1", &loose))
        .collect();
    [
        session.to_vec(),
        stage(&schema, schema.columns.len()).to_vec(),
        stage(&schema, schema.keys).to_vec(),
        updates,
        more,
    ]
    .concat()
}

fn snowflake(renderer: &Renderer) -> Vec<String> {
    let (schema, key_only, dated) = (parsed(SCHEMA), parsed(KEY_ONLY), parsed(DATED));
    let session = vec![
        lines::CREATE_STAGE.into(),
        lines::CREATE_BATCH_TABLE.into(),
        lines::put("3f.json.gz"),
        lines::copy("3f.json.gz"),
        on_one_line(snowflake::catalog::COLUMNS),
        snowflake::catalog::primary_keys(renderer, None),
        snowflake::catalog::primary_keys(renderer, Some("or\"der")),
        lines::SHOW_TRANSACTIONS.into(),
        lines::abort(7),
        format!("{} NAME eds_0123456789abcdef", renderer.dialect.begin),
        "COMMIT".into(),
        "ROLLBACK".into(),
        renderer.drop_not_null("or\"der", "total", ""),
    ];
    let rows = [RowSource::Bound, RowSource::Staged(1)].map(|from| {
        let merges = [(&schema, false), (&key_only, false), (&dated, true)]
            .map(|(schema, newer_only)| lines::merge(renderer, schema, from, newer_only));
        [
            &merges[..],
            &[
                lines::delete(renderer, &schema, from),
                lines::insert(renderer, &staged(&schema), from),
            ],
        ]
        .concat()
    });
    let loaded = vec![
        snowflake::import::count_repeats(renderer, &staged(&schema)),
        snowflake::import::delete_repeats(renderer, &staged(&schema)),
        renderer.insert_staged(&schema, &staged(&schema)),
    ];
    [session, rows.concat(), loaded].concat()
}

#[test]
fn sql_is_as_written_down() {
    let place =
        Namespace { schema: Some("pub\"l`i]c".into()), prefix: "p_".into(), lower_case: false };
    let golden =
        |dialect: &'static Dialect, namespace: &Namespace, more: fn(&Renderer) -> Vec<String>| {
            let renderer = Renderer::new(dialect, namespace.clone());
            let all = [common(&renderer), more(&renderer), imports(&renderer)].concat();
            crate::cli::golden(
                &format!("{}.sql", dialect.name.to_lowercase().replace(' ', "")),
                &(all.join(";\n") + ";\n"),
            );
        };
    golden(&POSTGRES, &place, |renderer| {
        let schema = parsed(SCHEMA);
        let more = vec![
            renderer.drop_not_null("or\"der", "total", ""),
            upsert_from(renderer, &schema, "stage"),
            stage_columns(renderer, &schema),
            renderer.add_key(&staged(&schema)),
            delete_repeats(renderer, &staged(&schema)),
        ];
        [upserts(renderer), more].concat()
    });
    golden(&SQLITE, &Namespace { schema: None, ..place.clone() }, |renderer| {
        [upserts(renderer), vec![renderer.delete_one(&parsed(SCHEMA))]].concat()
    });
    golden(&MYSQL, &place, mysql);
    golden(&SQLSERVER, &place, sqlserver);
    golden(&SNOWFLAKE, &place, snowflake);
    golden(&MARIADB, &Namespace { lower_case: true, ..place }, mysql);
}
