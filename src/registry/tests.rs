//! What becomes of answers, and of what they lack.

use super::*;

const GOOD: &str = r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;

#[test]
fn an_entry_that_is_no_schema_leaves_the_others_readable() {
    for bad in [r#"{"table":"u","modelVersion":"1"}"#, "7", r#"{"properties":[]}"#] {
        let SchemaReply::Schemas(map) = read_map(&format!(r#"{{"t":{GOOD},"u":{bad}}}"#)) else {
            panic!("{bad}")
        };
        assert_eq!((map.all.len(), map.unreadable.len()), (1, 1), "{bad}");
        assert!(map.unreadable[0].starts_with("\"u\": "), "{}", map.unreadable[0]);
    }
    for bad in ["[]", "", "{", "<html>"] {
        assert!(matches!(read_map(bad), SchemaReply::Unusable(_)), "{bad}");
    }
}

/// A version may be published while EDS runs in whose key a column is that is left out.
#[test]
fn a_schema_that_does_not_go_with_the_rules_is_said_and_not_known() {
    let state = State::in_memory().unwrap_or_else(|e| panic!("{e}"));
    let source = SchemaSource::Fixed(Arc::default());
    let rules = ColumnRules::new(&["t.a".to_owned()], &[], None);
    let rules = Arc::new(rules.unwrap_or_else(|e| panic!("{e}")));
    let published = |version: &str, keys: &str| {
        let json = format!(
            r#"{{"table":"t","modelVersion":"{version}","primaryKeys":[{keys}],"properties":{{"id":{{"type":"string"}},"a":{{"type":"string"}}}}}}"#
        );
        SchemaAnswer::Schemas([read_one("", &json)].into_iter().collect())
    };
    let mut registry = Registry::new(source.clone(), state.clone()).with_columns(rules.clone());
    assert!(registry.store("t", "1", published("1", "\"id\"")));
    let left = registry.cached("t", "1").map(|schema| schema.columns.len());
    assert_eq!((left, registry.conflict()), (Some(1), None));
    assert!(!registry.store("t", "2", published("2", "\"id\",\"a\"")));
    assert!(registry.cached("t", "2").is_none());
    assert!(registry.conflict().is_some_and(|why| why.contains("t.a is part of the primary")));
    // What is stored is the whole schema, as other rules may follow.
    let again = Registry::new(source, state);
    let whole = again.cached("t", "1").map(|schema| schema.columns.len());
    let left = again.with_columns(rules).cached("t", "1").map(|schema| schema.columns.len());
    assert_eq!((whole, left), (Some(2), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_asked_for_again_with_growing_waits() {
    let schemas = Arc::new(std::sync::RwLock::new(vec![GOOD.to_owned()].into()));
    let state = State::in_memory().unwrap_or_else(|e| panic!("{e}"));
    let mut registry = Registry::new(SchemaSource::Fixed(schemas.clone()), state);
    let (table, version, answer) = registry.ask("t", "2").await;
    registry.store(&table, &version, answer);
    for wait in [RECHECK_WAIT_MIN, RECHECK_WAIT_MIN * 2] {
        assert!(registry.unknown("t", "2").is_some());
        assert!(registry.recheck().is_none(), "it is too early");
        tokio::time::advance(wait).await;
        assert!(registry.unknown("t", "2").is_some(), "nobody waits for the answer");
        let lookup = registry.recheck().unwrap_or_else(|| panic!("it is time"));
        let (table, version, answer) = lookup.await;
        registry.store(&table, &version, answer);
    }
    let published = GOOD.replace("\"1\"", "\"2\"");
    schemas.write().unwrap_or_else(|e| panic!("{e}")).texts.push(published);
    tokio::time::advance(RECHECK_WAIT_MIN * 4).await;
    registry.unknown("t", "2");
    let (table, version, answer) = registry.recheck().unwrap_or_else(|| panic!("it is time")).await;
    registry.store(&table, &version, answer);
    assert!(registry.unknown("t", "2").is_none() && registry.cached("t", "2").is_some());
}
