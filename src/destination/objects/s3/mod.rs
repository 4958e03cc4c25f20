//! S3 and what speaks its protocol: one object per change, or of many changes, nothing overwritten
//! unseen.

mod bucket;
mod form;
mod keys;
mod pace;
mod place;
mod store;
mod trouble;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};

use super::format::Format;
use super::name::Name;
use super::parts::parts;
use crate::change::Batch;
use crate::destination::settings::server_url;
use crate::destination::{Destination, Driver, Failure, Target};
use crate::validator::Validator;
use store::ObjectClient;

/// S3.
pub const DRIVER: Driver = Driver {
    scheme: "s3",
    aliases: &[],
    title: "AWS S3",
    description: "Writes each change into an object of its own, in S3, Google Cloud Storage, MinIO \
                  and the like.",
    example: "s3://bucket/folder?region=us-west-2&access-key-id=…&secret-access-key=…",
    help: "Objects are named <folder>/<table>/<unix seconds>-<primary key>.json and hold the \
           event. Where two changes of a row fall\n\
           into one second, the older one is kept as <unix seconds>-<primary key>-<its \
           mvccTimestamp>.json.\n\
           Without keys in the URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN \
           count, then a file of keys\n\
           (AWS_SHARED_CREDENTIALS_FILE, ~/.aws/credentials), then the machine's role.\n\
           Another service is named by ?endpoint=https://host:port, or by its host in front: \
           s3://localhost:9000/bucket/folder,\n\
           s3://storage.googleapis.com/bucket/folder (with HMAC keys). The keys need s3:GetObject \
           and s3:PutObject.\n\
           After a crash a change may be written again, under the same name. Two processes must \
           not write to one folder.",
    fields: &form::BUCKET,
    url_of_form: form::url,
    parameters: &[
        ("region", "the bucket's region; else AWS_REGION, AWS_DEFAULT_REGION, us-west-2"),
        ("access-key-id", "the key's name"),
        ("secret-access-key", "the key"),
        ("session-token", "what belongs to keys that were lent for a while"),
        ("endpoint", "where the service answers, if it is not Amazon's"),
        ("max-retries", "how often a request is repeated before the batch is (5)"),
        ("uploadTasks", "objects on their way at the same time (16)"),
        (
            "format",
            "json: an object per change (default); ndjson, parquet: objects of many changes",
        ),
        (
            "names",
            "row: <seconds>-<key> (default); position: each change has a name of its own, for \
             services without If-None-Match",
        ),
        (
            "freshness",
            "how long changes are collected before they are written (ndjson, parquet: 60s)",
        ),
    ],
    accepted: &[("maxBatchSize", "a batch has up to 1000 changes")],
    secrets: &["secret-access-key", "session-token"],
    read_url: server_url,
    abilities: super::abilities,
    open: |target| Box::pin(open(target)),
};

/// Objects on their way at the same time, unless the URL says otherwise.
const UPLOADS: usize = 16;
const UPLOADS_MAX: usize = 64;

/// By what objects are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Naming {
    /// The second and the row: two changes may have the same name.
    Row,
    /// Also the place in the stream and the content: no two that differ have the same name.
    Position,
}

const NAMINGS: [(&str, Naming); 2] = [("row", Naming::Row), ("position", Naming::Position)];

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let format = Format::read(settings)?;
    let objects = S3Objects {
        consumer: target.consumer.clone(),
        format,
        client: ObjectClient::new(settings, format.content_type())?,
        names: settings.one_of("names", &NAMINGS)?.unwrap_or(Naming::Row),
        uploads: settings.number("uploadTasks", 1..=UPLOADS_MAX)?.unwrap_or(UPLOADS),
        rules: target.rules.clone(),
    };
    objects.client.probe(objects.names == Naming::Row).await?;
    Ok(Box::new(objects))
}

struct S3Objects {
    /// Tells the files of several servers apart.
    consumer: String,
    format: Format,
    client: ObjectClient,
    names: Naming,
    /// Objects on their way at the same time.
    uploads: usize,
    /// The user's rules may say where a change goes.
    rules: Option<Arc<Validator>>,
}

impl S3Objects {
    async fn apply_parts(&self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let (batch_of_parts, format, consumer) =
            (batch.clone(), self.format, self.consumer.clone());
        let packed = tokio::task::spawn_blocking(move || parts(&batch_of_parts, format, &consumer))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))??;
        let placed: Vec<_> = packed
            .into_iter()
            .map(|part| self.place_part(part, batch.unconfirmed_through.is_some()))
            .collect();
        futures::stream::iter(placed).buffer_unordered(self.uploads).try_collect::<()>().await
    }
}

#[async_trait]
impl Destination for S3Objects {
    fn identity(&self) -> Option<String> {
        let place = self.client.place().canonical();
        Some(format!("s3 {place} {}", self.format.content_type()))
    }

    /// Changes of one name go one after the other, all others at the same time.
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if self.format != Format::Json {
            return self.apply_parts(batch).await;
        }
        let mut queues: Vec<Vec<(Name, u32)>> = Vec::new();
        let mut queue_of: HashMap<(String, String), usize> = HashMap::new();
        for (index, change) in batch.ordered() {
            let name = Name::of(change, self.rules.as_deref());
            let queue = *queue_of.entry((name.folder.clone(), name.file())).or_insert(queues.len());
            if queue == queues.len() {
                queues.push(Vec::new());
            }
            queues[queue].push((name, index));
        }
        let placed: Vec<_> =
            queues.into_iter().map(|queue| self.place_in_order(batch, queue)).collect();
        let refused: Vec<_> =
            futures::stream::iter(placed).buffer_unordered(self.uploads).try_collect().await?;
        let mut culprits = refused.concat();
        culprits.sort_unstable_by_key(|(index, _)| *index);
        if culprits.is_empty() { Ok(()) } else { Err(Failure::rejected(culprits)) }
    }
}
