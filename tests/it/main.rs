//! All integration tests in one binary. They start the servers that they need, which `cargo x
//! services` installs.

mod bad_input;
mod chaos;
mod cli;
mod conformance;
mod dlq;
mod eventhubs;
mod feeds;
mod fence;
mod fuzz;
mod golden_sql;
mod health;
mod import;
mod journal;
mod kafka;
mod mysql;
mod parquet;
mod parts;
mod postgres;
mod registry;
mod s3;
mod server;
mod services;
mod sessions;
mod simulation;
mod snowflake;
mod sqlserver;
mod stream;
mod takeover;
mod tidy;
mod tls;
mod trouble;
