//! All benchmarks in one program, so that EDS is linked once: `cargo x bench NAME [ARGS]`.

mod changes;
mod cost;
mod decode;
mod distance;
mod figure;
mod import;
mod latency;
mod mysql_paths;
mod postgres_paths;
// The tests have more of them than the benchmarks need.
#[path = "../tests/it/services/mod.rs"]
#[allow(dead_code)]
mod services;
mod sqlite_paths;
mod stream;
mod verify;

#[tokio::main]
async fn main() {
    // Cargo adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (name, args) = words.split_first().unwrap_or_else(|| panic!("no name of a benchmark"));
    match name.as_str() {
        "stream" => stream::bench(args).await,
        "changes" => changes::bench(args).await,
        "import" => import::bench(args).await,
        "verify" => verify::bench(args).await,
        "latency" => latency::bench().await,
        "distance" => distance::bench(args).await,
        "decode" => decode::bench(),
        "postgres_paths" => postgres_paths::bench().await,
        "mysql_paths" => mysql_paths::bench().await,
        "sqlite_paths" => sqlite_paths::bench(),
        _ => panic!("no benchmark {name}"),
    }
}
