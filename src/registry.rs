//! The schemas of tables by model version. They are kept in memory and in the state file, and asked
//! for at their publisher when a version is new.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::change::TableSchema;
use crate::state::State;

/// How long to ask for a version that the publisher does not know: events may use a version before
/// it is published. For so long afterwards it counts as unknown without asking.
pub const UNKNOWN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two requests for a version that is unknown, or while the publisher is unreachable.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Where schemas are published.
#[derive(Clone)]
pub enum SchemaSource {
    /// A file in the form of HQ's `/v3/schema`. It is read again once for a version that it lacks.
    File(PathBuf),
    /// A URL that answers in the form of HQ's `/v3/schema`.
    #[cfg(feature = "http")]
    Url(crate::http::Http, String),
    /// HQ, by its API's address: it publishes single versions, too.
    #[cfg(feature = "http")]
    Hq(crate::http::Http, String),
    /// Schemas of the program itself, as JSON texts: the demo's and the tests'.
    Fixed(Arc<std::sync::RwLock<Vec<String>>>),
}

impl SchemaSource {
    /// HQ at this address.
    #[cfg(feature = "http")]
    pub fn of_hq(http: crate::http::Http, base: &str) -> SchemaSource {
        SchemaSource::Hq(http, base.trim_end_matches('/').to_owned())
    }

    /// Whether no schema can ever be had from it.
    pub fn is_nothing(&self) -> bool {
        matches!(self, SchemaSource::Fixed(all) if all.read().is_ok_and(|all| all.is_empty()))
    }
}

/// A schema as its publisher has it.
#[derive(Clone)]
pub struct Published {
    /// HQ's name for what the table holds; its schemas are published by this name.
    pub object: String,
    /// The schema of one version of the table.
    pub schema: Arc<TableSchema>,
    json: String,
}

/// A publisher's answer.
pub enum SchemaAnswer {
    /// What was asked for, and maybe more.
    Schemas(Vec<Published>),
    /// The publisher does not know the version.
    Unknown,
}

/// What came of one request to a publisher.
enum Asked {
    SchemaAnswer(SchemaAnswer),
    Unavailable(String),
}

/// The schemas that are known, and where to get others.
pub struct Registry {
    publisher: SchemaSource,
    state: State,
    known: HashMap<String, Vec<Arc<TableSchema>>>,
    objects: HashMap<String, String>,
    /// Tables and versions that the publisher did not know, with the time of its answer.
    unknown: HashMap<(String, String), Instant>,
}

impl Registry {
    /// Begins with the schemas in the state file. One that cannot be read is asked for again.
    pub fn new(publisher: SchemaSource, state: State) -> Registry {
        let mut registry = Registry {
            publisher,
            state,
            known: HashMap::new(),
            objects: HashMap::new(),
            unknown: HashMap::new(),
        };
        let cached = registry.state.schemas().unwrap_or_else(|e| {
            warn!("{e}; schemas will be asked for again");
            Vec::new()
        });
        for json in cached {
            // What an earlier version of EDS stored and this one cannot read is asked for again.
            if let Ok(schema) = TableSchema::parse(&json) {
                registry.insert(Arc::new(schema));
            }
        }
        registry
    }

    fn insert(&mut self, schema: Arc<TableSchema>) {
        let versions = self.known.entry(schema.table.to_string()).or_default();
        versions.retain(|known| known.version != schema.version);
        versions.push(schema);
    }

    /// The schema, if it is known; asks nobody.
    pub fn cached(&self, table: &str, version: &str) -> Option<Arc<TableSchema>> {
        self.known.get(table)?.iter().find(|s| *s.version == *version).cloned()
    }

    /// Whether the publisher did not know the version within the last [`UNKNOWN_WAIT_MAX`].
    pub fn is_unknown(&self, table: &str, version: &str) -> bool {
        let asked = self.unknown.get(&(table.to_owned(), version.to_owned()));
        asked.is_some_and(|at| at.elapsed() < UNKNOWN_WAIT_MAX)
    }

    /// Asks the publisher once for the current schema of every table; called at the start. If the
    /// publisher is unreachable, schemas that were seen before do. An error says what to do.
    pub async fn current(&mut self) -> Result<Vec<Arc<TableSchema>>, String> {
        match self.publisher.map().await {
            Asked::SchemaAnswer(SchemaAnswer::Schemas(all)) => {
                let current = all.iter().map(|p| p.schema.clone()).collect();
                self.store("", "", SchemaAnswer::Schemas(all));
                Ok(current)
            }
            Asked::SchemaAnswer(SchemaAnswer::Unknown) => Err(format!(
                "{} has no schemas (404); is it the URL of HQ's /v3/schema, or of a file \
                 of that form?",
                self.publisher.name()
            )),
            // Schemas that were seen before do until a new version appears.
            Asked::Unavailable(why) if self.publisher.may_be_away() && !self.known.is_empty() => {
                warn!(
                    "the table schemas cannot be fetched from {}: {why}; using the stored ones",
                    self.publisher.name()
                );
                Ok(self.known.values().filter_map(|versions| versions.last().cloned()).collect())
            }
            Asked::Unavailable(why) => Err(format!(
                "the table schemas cannot be fetched from {}: {why}",
                self.publisher.name()
            )),
        }
    }

    /// Asks for one version: as long as it takes while the publisher is unreachable, and
    /// [`UNKNOWN_WAIT_MAX`] while it does not know the version; a file is asked once. The future
    /// holds no reference, so that changes of other tables go on meanwhile; its answer is for
    /// [`Registry::store`].
    pub fn ask(&self, table: &str, version: &str) -> BoxFuture<'static, SchemaAnswer> {
        let publisher = self.publisher.clone();
        let (object, table, version) = (
            self.objects.get(table).cloned().unwrap_or_else(|| table.to_owned()),
            table.to_owned(),
            version.to_owned(),
        );
        Box::pin(async move {
            let started = Instant::now();
            loop {
                match publisher.version(&object, &table, &version).await {
                    Asked::SchemaAnswer(SchemaAnswer::Schemas(all))
                        if all.iter().any(|p| {
                            *p.schema.table == *table && *p.schema.version == *version
                        }) =>
                    {
                        return SchemaAnswer::Schemas(all);
                    }
                    Asked::SchemaAnswer(_) if started.elapsed() >= publisher.unknown_wait() => {
                        return SchemaAnswer::Unknown;
                    }
                    Asked::SchemaAnswer(_) => {}
                    Asked::Unavailable(why) => warn!(
                        "the schema of table {table:?}, version {version:?}, cannot be fetched \
                         from {}: {why}; retrying",
                        publisher.name()
                    ),
                }
                sleep(ASK_AGAIN).await;
            }
        })
    }

    /// Keeps the answer of [`Registry::ask`] for `table` and `version`, also in the state file.
    pub fn store(&mut self, table: &str, version: &str, found: SchemaAnswer) {
        match found {
            SchemaAnswer::Unknown => {
                self.unknown.retain(|_, at| at.elapsed() < UNKNOWN_WAIT_MAX);
                self.unknown.insert((table.to_owned(), version.to_owned()), Instant::now());
            }
            SchemaAnswer::Schemas(all) => {
                for published in all {
                    let schema = published.schema;
                    self.objects.insert(schema.table.to_string(), published.object);
                    if self
                        .cached(&schema.table, &schema.version)
                        .is_some_and(|known| known == schema)
                    {
                        continue;
                    }
                    if let Err(e) =
                        self.state.save_schema(&schema.table, &schema.version, &published.json)
                    {
                        warn!(
                            "{e}; the schema of {:?} will be asked for again after a restart",
                            schema.table
                        );
                    }
                    self.insert(schema);
                }
            }
        }
    }
}

impl SchemaSource {
    fn name(&self) -> String {
        match self {
            SchemaSource::File(path) => path.display().to_string(),
            #[cfg(feature = "http")]
            SchemaSource::Url(_, url) | SchemaSource::Hq(_, url) => url::Url::parse(url)
                .map_or_else(|_| "the schema URL".into(), |u| crate::secret::mask_url(&u)),
            SchemaSource::Fixed(_) => "the program".into(),
        }
    }

    /// Whether it is elsewhere and may be unreachable or behind for a while.
    fn may_be_away(&self) -> bool {
        !matches!(self, SchemaSource::File(_) | SchemaSource::Fixed(_))
    }

    fn unknown_wait(&self) -> Duration {
        if self.may_be_away() { UNKNOWN_WAIT_MAX } else { Duration::ZERO }
    }

    async fn map(&self) -> Asked {
        match self {
            SchemaSource::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => read_map(&text),
                Err(e) => Asked::Unavailable(e.to_string()),
            },
            #[cfg(feature = "http")]
            SchemaSource::Url(http, url) => read_answer(http.get(url).await, read_map),
            #[cfg(feature = "http")]
            SchemaSource::Hq(http, base) => {
                read_answer(http.get(&format!("{base}/v3/schema")).await, read_map)
            }
            SchemaSource::Fixed(all) => {
                let all = all.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.iter()
                    .map(|json| read_one("", json))
                    .collect::<Result<Vec<_>, _>>()
                    .map_or_else(Asked::Unavailable, |all| {
                        Asked::SchemaAnswer(SchemaAnswer::Schemas(all))
                    })
            }
        }
    }

    async fn version(&self, object: &str, _table: &str, version: &str) -> Asked {
        match self {
            #[cfg(feature = "http")]
            SchemaSource::Hq(http, base) => {
                let part = |s: &str| {
                    percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC)
                        .to_string()
                };
                let url = format!("{base}/v3/schema/{}/{}", part(object), part(version));
                let read = |text: &str| {
                    read_one(object, text).map_or_else(Asked::Unavailable, |one| {
                        Asked::SchemaAnswer(SchemaAnswer::Schemas(vec![one]))
                    })
                };
                read_answer(http.get(&url).await, read)
            }
            _ => {
                let _ = (object, version);
                self.map().await
            }
        }
    }
}

#[cfg(feature = "http")]
fn read_answer(answer: crate::http::HttpAnswer, read: impl Fn(&str) -> Asked) -> Asked {
    match answer {
        crate::http::HttpAnswer::Body(text) => read(&text),
        crate::http::HttpAnswer::NotFound => Asked::SchemaAnswer(SchemaAnswer::Unknown),
        crate::http::HttpAnswer::Unavailable(why) => Asked::Unavailable(why),
    }
}

fn read_one(object: &str, json: &str) -> Result<Published, String> {
    let schema = TableSchema::parse(json).map_err(|e| e.to_string())?;
    let object = if object.is_empty() { schema.table.to_string() } else { object.to_owned() };
    Ok(Published { object, schema: Arc::new(schema), json: json.to_owned() })
}

/// Reads a map of object name → schema. Several entries may be versions of one table.
fn read_map(text: &str) -> Asked {
    let map: HashMap<String, &RawValue> = match serde_json::from_str(text) {
        Ok(map) => map,
        Err(e) => return Asked::Unavailable(format!("not a JSON object of schemas: {e}")),
    };
    match map.iter().map(|(object, json)| read_one(object, json.get())).collect() {
        Ok(all) => Asked::SchemaAnswer(SchemaAnswer::Schemas(all)),
        Err(why) => Asked::Unavailable(why),
    }
}
