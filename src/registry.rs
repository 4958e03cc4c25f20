//! The schemas of tables by model version. They are kept in memory and in the state file, and asked
//! for at their publisher when a version is new.

mod fixed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::change::TableSchema;
use crate::change::columns::{BadColumnRule, ColumnName, ColumnRules};
use crate::help::HelpCode;
use crate::state::State;
pub use fixed::FixedSchemas;

/// How long to ask for a version that the publisher does not know: it may be used before that.
pub const UNKNOWN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two requests for a version that is unknown, or while the publisher is unreachable.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// After so long an unknown version is asked for again, while its events go on as dead letters; the
/// wait doubles with each answer of the same kind.
const RECHECK_WAIT_MIN: Duration = Duration::from_secs(10 * 60);
/// The longest such wait.
const RECHECK_WAIT_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// A question for a schema: table, version, and the answer.
pub type Lookup = BoxFuture<'static, (String, String, SchemaAnswer)>;

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
    /// Schemas of the program itself: the demo's and the tests'.
    Fixed(Arc<std::sync::RwLock<FixedSchemas>>),
}

impl SchemaSource {
    /// HQ at this address.
    #[cfg(feature = "http")]
    pub fn of_hq(http: crate::http::Http, base: &str) -> SchemaSource {
        SchemaSource::Hq(http, base.trim_end_matches('/').to_owned())
    }

    /// Whether no schema can ever be had from it.
    pub fn is_nothing(&self) -> bool {
        matches!(self, SchemaSource::Fixed(all) if all.read().is_ok_and(|all| all.texts.is_empty()))
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

/// What came of asking a publisher for a version.
pub enum SchemaAnswer {
    /// What was asked for, and maybe more.
    Schemas(SchemaMap),
    /// The publisher does not know the version, or answers with what cannot be used; why.
    Unknown(String),
}

/// Schemas of one answer.
#[derive(Default)]
pub struct SchemaMap {
    all: Vec<Published>,
    /// The entries that are no schema: why, with their names.
    unreadable: Vec<String>,
}

/// What came of one request to a publisher.
enum SchemaReply {
    /// Schemas.
    Schemas(SchemaMap),
    /// An answer that says nothing of use, and why. It will hardly be another one soon.
    Unusable(String),
    /// No answer, for now.
    Unavailable(String),
}

/// A version that the publisher did not know when it was last asked.
struct UnknownVersion {
    why: String,
    recheck_at: Instant,
    recheck_wait: Duration,
}

/// The schemas that are known, of what the user's rules leave of the tables, and where to get
/// others.
pub struct Registry {
    publisher: SchemaSource,
    state: State,
    known: HashMap<String, Vec<Arc<TableSchema>>>,
    objects: HashMap<String, String>,
    /// By table and version.
    unknown: HashMap<(String, String), UnknownVersion>,
    /// The unknown version whose events came last, if it is time to ask for it again.
    recheck: Option<(String, String)>,
    /// Entries that are no schema and were reported.
    reported: HashSet<String>,
    columns: Arc<ColumnRules>,
    /// The columns of the rules that no schema has had yet.
    unmatched: BTreeSet<ColumnName>,
    /// Why the rules do not go with a schema that is published.
    conflict: Option<BadColumnRule>,
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
            recheck: None,
            reported: HashSet::new(),
            columns: Arc::default(),
            unmatched: BTreeSet::new(),
            conflict: None,
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

    /// The same, for tables of which `columns` leave a part.
    pub fn with_columns(mut self, columns: Arc<ColumnRules>) -> Registry {
        self.unmatched = columns.columns();
        self.columns = columns;
        for schema in std::mem::take(&mut self.known).into_values().flatten() {
            // A version that is not used any more may not go with the rules.
            if let Ok(left) = self.left_of(&schema) {
                self.insert(left);
            }
        }
        self
    }

    /// The user's rules about columns.
    pub fn columns(&self) -> Arc<ColumnRules> {
        self.columns.clone()
    }

    /// Why nothing may be applied: the rules do not go with a schema.
    pub fn conflict(&self) -> Option<String> {
        let why = self.conflict.as_ref()?;
        Some(HelpCode::Arguments.tag(&why.to_string()))
    }

    /// What the rules leave of a table.
    fn left_of(&mut self, schema: &Arc<TableSchema>) -> Result<Arc<TableSchema>, BadColumnRule> {
        self.unmatched
            .retain(|name| *name.table != *schema.table || schema.column(&name.column).is_none());
        Ok(self.columns.schema(schema)?.map_or_else(|| schema.clone(), Arc::new))
    }

    fn insert(&mut self, schema: Arc<TableSchema>) {
        let versions = self.known.entry(schema.table.to_string()).or_default();
        versions.retain(|known| known.version != schema.version);
        versions.push(schema);
    }

    /// The schema of the version that became known last, whichever it is.
    pub fn latest(&self, table: &str) -> Option<Arc<TableSchema>> {
        self.known.get(table)?.last().cloned()
    }

    /// The schema, if it is known; asks nobody.
    pub fn cached(&self, table: &str, version: &str) -> Option<Arc<TableSchema>> {
        self.known.get(table)?.iter().find(|s| *s.version == *version).cloned()
    }

    /// Why the version is unknown, if the publisher did not know it when it was last asked. Takes
    /// note of a version that is worth asking for again.
    pub fn unknown(&mut self, table: &str, version: &str) -> Option<&str> {
        let name = (table.to_owned(), version.to_owned());
        let unknown = self.unknown.get(&name)?;
        if unknown.recheck_at <= Instant::now() {
            self.recheck = Some(name);
        }
        Some(&unknown.why)
    }

    /// An unknown version whose events still come, to be asked for again; nobody waits for the
    /// answer, which is for [`Registry::store`].
    pub fn recheck(&mut self) -> Option<Lookup> {
        let (table, version) = self.recheck.take()?;
        Some(self.lookup(table, version, Duration::ZERO))
    }

    /// A rule that no schema matches may be misspelt: what it was to hide would be seen.
    fn refuse_unmatched(&mut self) {
        if let (None, Some(name)) = (&self.conflict, self.unmatched.first()) {
            self.conflict = Some(BadColumnRule::Unknown(name.clone()));
        }
    }

    /// Asks the publisher once for the current schema of every table; called at the start. If the
    /// publisher is unreachable, schemas that were seen before do. An error says what to do.
    pub async fn current(&mut self) -> Result<Vec<Arc<TableSchema>>, String> {
        let name = self.publisher.name();
        let reply = match self.publisher.map().await {
            SchemaReply::Schemas(SchemaMap { all, unreadable }) if all.is_empty() => {
                match unreadable.first() {
                    None => SchemaReply::Schemas(SchemaMap { all, unreadable }),
                    Some(why) => {
                        let count = unreadable.len();
                        SchemaReply::Unusable(format!("none of its {count} entries is one: {why}"))
                    }
                }
            }
            reply => reply,
        };
        match reply {
            SchemaReply::Schemas(map) => {
                let current = self.keep(map);
                self.refuse_unmatched();
                self.conflict().map_or(Ok(current), Err)
            }
            // Schemas that were seen before do until a new version appears.
            SchemaReply::Unavailable(why) | SchemaReply::Unusable(why)
                if self.publisher.may_be_away() && !self.known.is_empty() =>
            {
                warn!(
                    "the table schemas cannot be fetched from {name}: {why}; using the stored ones"
                );
                let known = self.known.values().filter_map(|versions| versions.last());
                let mut known: Vec<Arc<TableSchema>> = known.cloned().collect();
                known.sort_by(|one, other| one.table.cmp(&other.table));
                self.refuse_unmatched();
                self.conflict().map_or(Ok(known), Err)
            }
            SchemaReply::Unusable(why) => Err(HelpCode::SchemasUnreadable.tag(&format!(
                "{name} has no table schemas ({why}); is it the URL of HQ's /v3/schema, or a file \
                 of that form?"
            ))),
            SchemaReply::Unavailable(why) => Err(HelpCode::SchemasUnreadable
                .tag(&format!("the table schemas cannot be fetched from {name}: {why}"))),
        }
    }

    /// Asks for one version: as long as it takes while the publisher is unreachable, and
    /// [`UNKNOWN_WAIT_MAX`] while it does not know the version; a file is asked once. The future
    /// holds no reference, so that changes of other tables go on meanwhile; its answer is for
    /// [`Registry::store`].
    pub fn ask(&self, table: &str, version: &str) -> Lookup {
        let patience = match self.publisher.may_be_away() {
            true => UNKNOWN_WAIT_MAX,
            false => Duration::ZERO,
        };
        self.lookup(table.to_owned(), version.to_owned(), patience)
    }

    fn lookup(&self, table: String, version: String, patience: Duration) -> Lookup {
        let publisher = self.publisher.clone();
        let object = self.objects.get(&table).cloned().unwrap_or_else(|| table.clone());
        Box::pin(async move {
            let answer = publisher.ask(&object, &table, &version, patience).await;
            (table, version, answer)
        })
    }

    /// Asks for one version once, whoever was asked before.
    pub fn ask_now(&self, table: &str, version: &str) -> Lookup {
        self.lookup(table.to_owned(), version.to_owned(), Duration::ZERO)
    }

    /// Keeps the answer of a [`Lookup`] for `table` and `version`, also in the state file. Returns
    /// whether a version is known now that was not before.
    pub fn store(&mut self, table: &str, version: &str, found: SchemaAnswer) -> bool {
        let name = (table.to_owned(), version.to_owned());
        match found {
            SchemaAnswer::Schemas(map) => {
                let was_known = self.cached(table, version).is_some();
                self.unknown.remove(&name);
                self.keep(map);
                !was_known && self.cached(table, version).is_some()
            }
            SchemaAnswer::Unknown(why) => {
                let recheck_wait = self
                    .unknown
                    .get(&name)
                    .map_or(RECHECK_WAIT_MIN, |u| (u.recheck_wait * 2).min(RECHECK_WAIT_MAX));
                let recheck_at = Instant::now() + recheck_wait;
                self.unknown.insert(name, UnknownVersion { why, recheck_at, recheck_wait });
                false
            }
        }
    }

    /// Returns what is left of the tables, in the order of the answer.
    fn keep(&mut self, map: SchemaMap) -> Vec<Arc<TableSchema>> {
        let mut all = Vec::with_capacity(map.all.len());
        for why in map.unreadable {
            if self.reported.insert(why.clone()) {
                warn!("a schema from {} is left out: {why}", self.publisher.name());
            }
        }
        for published in map.all {
            let schema = match self.left_of(&published.schema) {
                Ok(left) => left,
                Err(why) => {
                    self.conflict.get_or_insert(why);
                    continue;
                }
            };
            all.push(schema.clone());
            self.objects.insert(schema.table.to_string(), published.object);
            let known = self.cached(&schema.table, &schema.version);
            if known.is_some_and(|known| known == schema) {
                continue;
            }
            let saved = self.state.save_schema(&schema.table, &schema.version, &published.json);
            if let Err(e) = saved {
                warn!(
                    "{e}; the schema of {:?} will be asked for again after a restart",
                    schema.table
                );
            }
            self.insert(schema);
        }
        all
    }
}

impl SchemaSource {
    fn name(&self) -> String {
        match self {
            SchemaSource::File(path) => path.display().to_string(),
            #[cfg(feature = "http")]
            SchemaSource::Url(_, url) | SchemaSource::Hq(_, url) => {
                crate::secret::mask_url(url, |_| false)
            }
            SchemaSource::Fixed(_) => "the program".into(),
        }
    }

    /// Whether it is elsewhere and may be unreachable or behind for a while.
    fn may_be_away(&self) -> bool {
        match self {
            SchemaSource::File(_) => false,
            #[cfg(feature = "http")]
            SchemaSource::Url(..) | SchemaSource::Hq(..) => true,
            SchemaSource::Fixed(all) => all.read().is_ok_and(|all| all.is_away),
        }
    }

    /// Asks for a version until it is known, or was unknown for `patience`.
    async fn ask(
        &self,
        object: &str,
        table: &str,
        version: &str,
        patience: Duration,
    ) -> SchemaAnswer {
        let started = Instant::now();
        let is_wanted = |p: &Published| *p.schema.table == *table && *p.schema.version == *version;
        loop {
            let unknown = match self.version(object, version).await {
                SchemaReply::Schemas(map) if map.all.iter().any(is_wanted) => {
                    return SchemaAnswer::Schemas(map);
                }
                SchemaReply::Schemas(map) => Some(match map.unreadable.is_empty() {
                    true => "it is not among those that are published".to_owned(),
                    false => map.unreadable.join("; "),
                }),
                SchemaReply::Unusable(why) => Some(why),
                SchemaReply::Unavailable(why) => {
                    warn!(
                        "the schema of table {table:?}, version {version:?}, cannot be fetched \
                         from {}: {why}; retrying",
                        self.name()
                    );
                    None
                }
            };
            if let Some(why) = unknown.filter(|_| started.elapsed() >= patience) {
                return SchemaAnswer::Unknown(why);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn map(&self) -> SchemaReply {
        match self {
            SchemaSource::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => read_map(&text),
                Err(e) => SchemaReply::Unavailable(e.to_string()),
            },
            #[cfg(feature = "http")]
            SchemaSource::Url(http, url) => read_answer(http.get(url).await, read_map),
            #[cfg(feature = "http")]
            SchemaSource::Hq(http, base) => {
                read_answer(http.get(&format!("{base}/v3/schema")).await, read_map)
            }
            SchemaSource::Fixed(all) => {
                let all = all.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                match all.is_away {
                    true => SchemaReply::Unavailable("it gives none now".into()),
                    false => SchemaReply::Schemas(
                        all.texts.iter().map(|json| read_one("", json)).collect(),
                    ),
                }
            }
        }
    }

    async fn version(&self, object: &str, version: &str) -> SchemaReply {
        match self {
            #[cfg(feature = "http")]
            SchemaSource::Hq(http, base) => {
                let part = crate::http::path_part;
                let url = format!("{base}/v3/schema/{}/{}", part(object), part(version));
                let read = |text: &str| match read_one(object, text) {
                    Ok(one) => SchemaReply::Schemas([Ok(one)].into_iter().collect()),
                    Err(why) => SchemaReply::Unusable(why),
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
fn read_answer(answer: crate::http::HttpAnswer, read: impl Fn(&str) -> SchemaReply) -> SchemaReply {
    match answer {
        crate::http::HttpAnswer::Body(text) => read(&text),
        crate::http::HttpAnswer::NotFound => SchemaReply::Unusable("it answered 404".into()),
        crate::http::HttpAnswer::Refused(why) => SchemaReply::Unusable(why),
        crate::http::HttpAnswer::Unavailable(why) => SchemaReply::Unavailable(why),
    }
}

fn read_one(object: &str, json: &str) -> Result<Published, String> {
    let schema = TableSchema::parse(json).map_err(|e| match object {
        "" => e.to_string(),
        _ => format!("{object:?}: {e}"),
    })?;
    let object = if object.is_empty() { schema.table.to_string() } else { object.to_owned() };
    Ok(Published { object, schema: Arc::new(schema), json: json.to_owned() })
}

/// Reads a map of object name → schema. Several entries may be versions of one table. One that is
/// no schema says nothing about the others.
fn read_map(text: &str) -> SchemaReply {
    match serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
        Ok(map) => {
            SchemaReply::Schemas(map.iter().map(|(o, json)| read_one(o, json.get())).collect())
        }
        Err(e) => SchemaReply::Unusable(format!("it is not a JSON object of schemas: {e}")),
    }
}

impl FromIterator<Result<Published, String>> for SchemaMap {
    fn from_iter<I: IntoIterator<Item = Result<Published, String>>>(entries: I) -> SchemaMap {
        let mut map = SchemaMap::default();
        for entry in entries {
            match entry {
                Ok(published) => map.all.push(published),
                Err(why) => map.unreadable.push(why),
            }
        }
        map
    }
}

#[cfg(test)]
mod tests;
