//! The Go program's place is taken: its documented commands, its requests.

mod commands;
mod consumer;
mod environment;
mod requests;
mod statements;
