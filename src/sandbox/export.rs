//! The shop as a full export: files as HQ's export jobs write them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::shop::Shop;
use crate::export::name::digits;

/// A file of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The table's name.
    pub table: String,
    /// The file's name, without its directory.
    pub name: String,
    /// How many rows it holds.
    pub rows: usize,
}

/// What is exported; an empty list means all.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Names of tables.
    pub tables: Vec<String>,
    /// Ids of companies.
    pub companies: Vec<String>,
}

/// Writes the rows that the shop has now into `dir`, sorted by key as the source's ranges are. A
/// table without rows has no file.
pub fn write(
    shop: &Shop,
    dir: &Path,
    choice: &Choice,
    rows_per_file: usize,
) -> std::io::Result<Vec<Written>> {
    std::fs::create_dir_all(dir)?;
    let time = digits(shop.version());
    let mut files = Vec::new();
    for (index, table) in shop.tables.iter().enumerate().filter(|(_, t)| {
        choice.tables.is_empty() || choice.tables.iter().any(|name| name == t.name)
    }) {
        let takes =
            |n: u64| choice.companies.is_empty() || choice.companies.contains(&shop.company(n));
        let mut rows: Vec<(String, u64, u32)> = shop
            .alive(index)
            .filter(|(n, _)| takes(*n))
            .map(|(n, revision)| (shop.id(index, n), n, revision))
            .collect();
        rows.sort_unstable();
        for (number, part) in rows.chunks(rows_per_file.max(1)).enumerate() {
            let name = format!(
                "{time}-{:016x}-1-{}-{number:08x}-{}-{index}.ndjson.gz",
                0xe0_0000 + index,
                index + 1,
                table.name
            );
            let mut out =
                GzEncoder::new(BufWriter::new(File::create(dir.join(&name))?), Compression::fast());
            for (_, n, revision) in part {
                out.write_all(shop.row(index, *n, *revision).as_bytes())?;
                out.write_all(b"\n")?;
            }
            out.finish()?.flush()?;
            files.push(Written { table: table.name.to_owned(), name, rows: part.len() });
        }
    }
    Ok(files)
}
