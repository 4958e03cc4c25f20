//! Every statement that EDS writes, in every dialect: nothing changes unnoticed.

use eds::change::TableSchema;
use eds::destination::sql::dialect::{POSTGRES, SQLITE};
use eds::destination::sql::render::{Place, Renderer};

const SCHEMA: &str = r#"{"table":"or\"der","modelVersion":"1","primaryKeys":["id","region"],"required":["id","region","total","meta"],"properties":{
    "id":{"type":"string"},"region":{"type":"integer"},"total":{"type":"integer"},"rate":{"type":"number"},"paid":{"type":"boolean"},
    "when":{"type":"string","format":"date-time"},"meta":{"type":"object"},"tags":{"type":"array"},"status":{"type":"array","items":{"enum":["A"]}},"select":{"type":"string"}}}"#;

fn statements(renderer: &Renderer) -> String {
    let schema = TableSchema::parse(SCHEMA).unwrap_or_else(|e| panic!("{e}"));
    let key_only = TableSchema::parse(r#"{"table":"k","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#).unwrap_or_else(|e| panic!("{e}"));
    let all = [
        renderer.create_table(&schema),
        renderer.create_table(&key_only),
        renderer.add_column(&schema, 3),
        renderer.drop_not_null("or\"der", "total"),
        renderer.upsert_one(&schema),
        renderer.upsert_one(&key_only),
        renderer.upsert_from(&schema, "stage"),
        renderer.delete_one(&schema),
        renderer.stage_columns(&schema),
        renderer.create_checkpoint(),
        renderer.insert_checkpoint(),
        renderer.take_checkpoint(),
        renderer.read_checkpoint(),
        renderer.advance_checkpoint(),
    ];
    all.join(";\n") + ";\n"
}

#[test]
fn sql_is_as_written_down() {
    let postgres = Renderer { dialect: &POSTGRES, place: Place { schema: Some("pub\"lic".into()), prefix: "p_".into() } };
    let sqlite = Renderer { dialect: &SQLITE, place: Place::default() };
    crate::cli::golden("postgres.sql", &statements(&postgres));
    crate::cli::golden("sqlite.sql", &statements(&sqlite));
}
