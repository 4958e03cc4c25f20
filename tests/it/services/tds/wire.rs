//! The wire protocol, as MS-TDS describes it: packets, tokens, the types that EDS uses.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::engine::Refused;
use super::{Columns, TdsOutcome, TdsRow};

const COLLATION: [u8; 5] = [0x09, 0x04, 0xD0, 0x00, 0x34];
const PACKET_BYTES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TdsKind {
    Integer,
    Float,
    Bit,
    /// Characters at most; `None` for MAX.
    Wide(Option<u16>),
    Narrow(u16),
}

#[derive(Clone, PartialEq, Debug)]
pub enum TdsCell {
    Null,
    Integer(i64),
    Float(f64),
    Text(String),
}

pub enum TdsAnswer {
    Done(u64),
    Rows(Columns, Vec<TdsRow>),
    /// A transaction began or ended.
    Transaction(bool),
}

pub enum TdsMessage {
    PreLogin,
    Login { user: String, password: String, database: String },
    Batch(String),
    Call(String, Vec<(String, TdsCell)>),
    Bulk(Vec<TdsRow>),
    Other,
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Reads little-endian values out of a message.
struct TdsReader<'a>(&'a [u8]);

impl TdsReader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let (taken, rest) =
            self.0.split_at_checked(n).ok_or_else(|| broken("a message is too short"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }
    fn signed(&mut self, bytes: usize) -> Result<i64> {
        let shift = 64 - 8 * bytes as u32;
        Ok((self.number(bytes)? << shift) as i64 >> shift)
    }
    fn utf16(&mut self, bytes: usize) -> Result<String> {
        utf16(self.take(bytes)?)
    }
    fn short_text(&mut self) -> Result<String> {
        let characters = self.u8()?;
        self.utf16(usize::from(characters) * 2)
    }

    /// A value of which only length and bytes are told in pieces.
    fn pieces(&mut self) -> Result<Option<Vec<u8>>> {
        if self.number(8)? == u64::MAX {
            return Ok(None);
        }
        let mut all = Vec::new();
        loop {
            match self.number(4)? as usize {
                0 => return Ok(Some(all)),
                n => all.extend_from_slice(self.take(n)?),
            }
        }
    }

    fn kind(&mut self) -> Result<TdsKind> {
        match self.u8()? {
            0x26 => self.u8().map(|_| TdsKind::Integer),
            0x6D => self.u8().map(|_| TdsKind::Float),
            0x68 => self.u8().map(|_| TdsKind::Bit),
            0xE7 => {
                let bytes = self.number(2)? as u16;
                self.take(5)?;
                Ok(TdsKind::Wide((bytes != u16::MAX).then_some(bytes / 2)))
            }
            0xA7 => {
                let bytes = self.number(2)? as u16;
                self.take(5)?;
                Ok(TdsKind::Narrow(bytes))
            }
            other => Err(broken(&format!("type {other:#x} is not known"))),
        }
    }

    fn cell(&mut self, kind: TdsKind) -> Result<TdsCell> {
        match kind {
            TdsKind::Integer | TdsKind::Bit => match self.u8()? {
                0 => Ok(TdsCell::Null),
                n => self.signed(usize::from(n)).map(TdsCell::Integer),
            },
            TdsKind::Float => match self.u8()? {
                0 => Ok(TdsCell::Null),
                8 => self.number(8).map(|bits| TdsCell::Float(f64::from_bits(bits))),
                _ => Err(broken("a float of four bytes")),
            },
            TdsKind::Wide(None) => Ok(match self.pieces()? {
                None => TdsCell::Null,
                Some(bytes) => TdsCell::Text(utf16(&bytes)?),
            }),
            TdsKind::Wide(Some(_)) | TdsKind::Narrow(_) => match self.number(2)? as usize {
                0xFFFF => Ok(TdsCell::Null),
                n if kind == TdsKind::Narrow(0) || matches!(kind, TdsKind::Narrow(_)) => {
                    Ok(TdsCell::Text(String::from_utf8_lossy(self.take(n)?).into_owned()))
                }
                n => self.utf16(n).map(TdsCell::Text),
            },
        }
    }
}

fn utf16(bytes: &[u8]) -> Result<String> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).map_err(|_| broken("text is not UTF-16"))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    text.encode_utf16().for_each(|unit| out.extend_from_slice(&unit.to_le_bytes()));
}

fn put_short_text(out: &mut Vec<u8>, text: &str) {
    out.push(text.encode_utf16().count() as u8);
    put_text(out, text);
}

pub struct Channel {
    stream: TcpStream,
}

impl Channel {
    pub fn new(stream: TcpStream) -> Result<Channel> {
        stream.set_nodelay(true)?;
        Ok(Channel { stream })
    }

    /// The next message, of as many packets as it has.
    pub async fn receive(&mut self) -> Result<TdsMessage> {
        let (mut kind, mut data) = (0, Vec::new());
        loop {
            let mut header = [0u8; 8];
            self.stream.read_exact(&mut header).await?;
            kind = if kind == 0 { header[0] } else { kind };
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]))
                .checked_sub(8)
                .ok_or_else(|| broken("a packet is too short"))?;
            let start = data.len();
            data.resize(start + length, 0);
            self.stream.read_exact(&mut data[start..]).await?;
            if header[1] & 1 == 1 {
                break;
            }
        }
        match kind {
            0x12 => Ok(TdsMessage::PreLogin),
            0x10 => login(&data),
            0x01 => {
                let mut reader = TdsReader(&data);
                headers(&mut reader)?;
                utf16(reader.0).map(TdsMessage::Batch)
            }
            0x03 => call(&data),
            0x07 => bulk(&data),
            _ => Ok(TdsMessage::Other),
        }
    }

    async fn send(&mut self, data: &[u8]) -> Result<()> {
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut rest = data;
        let mut id = 0u8;
        loop {
            let (now, later) = rest.split_at(rest.len().min(PACKET_BYTES - 8));
            id = id.wrapping_add(1);
            out.extend_from_slice(&[0x04, u8::from(later.is_empty())]);
            out.extend_from_slice(&((now.len() + 8) as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, id, 0]);
            out.extend_from_slice(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        self.stream.write_all(&out).await
    }

    /// Version and encryption: none.
    pub async fn answer_prelogin(&mut self) -> Result<()> {
        let options = [0x00, 0, 11, 0, 6, 0x01, 0, 17, 0, 1, 0xFF];
        let values = [15, 0, 0, 0, 0, 0, 2];
        self.send(&[&options[..], &values].concat()).await
    }

    pub async fn answer_login(&mut self, database: &str) -> Result<()> {
        let mut out = Vec::new();
        for (kind, new, old) in [(1u8, database, "master"), (4, "32767", "4096")] {
            let mut body = vec![kind];
            put_short_text(&mut body, new);
            put_short_text(&mut body, old);
            put_token(&mut out, 0xE3, &body);
        }
        let mut body = vec![1, 0x74, 0, 0, 4];
        put_short_text(&mut body, "stand-in");
        body.extend_from_slice(&[15, 0, 0, 0]);
        put_token(&mut out, 0xAD, &body);
        put_done(&mut out, 0xFD, 0, None);
        self.send(&out).await
    }

    pub async fn refuse(&mut self, refused: &Refused) -> Result<()> {
        let mut out = Vec::new();
        put_error(&mut out, refused);
        put_done(&mut out, 0xFD, 2, None);
        self.send(&out).await
    }

    /// One answer for each statement of a batch or call; the first error ends it.
    pub async fn answer(&mut self, answers: &[TdsOutcome], is_call: bool) -> Result<()> {
        let mut out = Vec::new();
        let mut failed = false;
        for (n, answer) in answers.iter().enumerate() {
            let more = u16::from(is_call || n + 1 < answers.len());
            let done = if is_call { 0xFF } else { 0xFD };
            match answer {
                Ok(TdsAnswer::Done(rows)) => put_done(&mut out, done, more, Some(*rows)),
                Ok(TdsAnswer::Rows(columns, rows)) => {
                    put_rows(&mut out, columns, rows);
                    put_done(&mut out, done, more, Some(rows.len() as u64));
                }
                Ok(TdsAnswer::Transaction(began)) => {
                    let descriptor = [8, 1, 0, 0, 0, 0, 0, 0, 0];
                    let body = if *began {
                        [&[8][..], &descriptor, &[0]].concat()
                    } else {
                        [&[9, 0][..], &descriptor].concat()
                    };
                    put_token(&mut out, 0xE3, &body);
                    put_done(&mut out, done, more, None);
                }
                Err(refused) => {
                    put_error(&mut out, refused);
                    put_done(&mut out, done, more | 2, None);
                    failed = true;
                }
            }
        }
        if is_call {
            out.extend_from_slice(&[0x79, 0, 0, 0, 0]);
            put_done(&mut out, 0xFE, if failed { 2 } else { 0 }, None);
        }
        self.send(&out).await
    }
}

fn put_token(out: &mut Vec<u8>, token: u8, body: &[u8]) {
    out.push(token);
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(body);
}

fn put_done(out: &mut Vec<u8>, token: u8, status: u16, rows: Option<u64>) {
    out.push(token);
    out.extend_from_slice(&(status | if rows.is_some() { 0x10 } else { 0 }).to_le_bytes());
    out.extend_from_slice(&[0xC1, 0]);
    out.extend_from_slice(&rows.unwrap_or(0).to_le_bytes());
}

fn put_error(out: &mut Vec<u8>, refused: &Refused) {
    let mut body = Vec::new();
    body.extend_from_slice(&refused.code.to_le_bytes());
    body.extend_from_slice(&[1, 16]);
    body.extend_from_slice(&(refused.message.encode_utf16().count() as u16).to_le_bytes());
    put_text(&mut body, &refused.message);
    put_short_text(&mut body, "stand-in");
    put_short_text(&mut body, "");
    body.extend_from_slice(&1u32.to_le_bytes());
    put_token(out, 0xAA, &body);
}

fn put_rows(out: &mut Vec<u8>, columns: &Columns, rows: &[TdsRow]) {
    out.push(0x81);
    out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
    for (name, kind) in columns {
        // User type; nullable and updatable.
        out.extend_from_slice(&[0, 0, 0, 0, 0x09, 0]);
        match kind {
            TdsKind::Integer => out.extend_from_slice(&[0x26, 8]),
            TdsKind::Float => out.extend_from_slice(&[0x6D, 8]),
            TdsKind::Bit => out.extend_from_slice(&[0x68, 1]),
            TdsKind::Wide(limit) => {
                out.push(0xE7);
                out.extend_from_slice(&limit.map_or(u16::MAX, |n| n * 2).to_le_bytes());
                out.extend_from_slice(&COLLATION);
            }
            TdsKind::Narrow(limit) => {
                out.push(0xA7);
                out.extend_from_slice(&limit.to_le_bytes());
                out.extend_from_slice(&COLLATION);
            }
        }
        put_short_text(out, name);
    }
    for row in rows {
        out.push(0xD1);
        row.iter().zip(columns).for_each(|(cell, (_, kind))| put_cell(out, cell, *kind));
    }
}

/// Results of queries have integers and text only; text without limit comes as one piece.
fn put_cell(out: &mut Vec<u8>, cell: &TdsCell, kind: TdsKind) {
    match (cell, kind) {
        (TdsCell::Integer(n), _) => {
            out.push(8);
            out.extend_from_slice(&n.to_le_bytes());
        }
        (TdsCell::Text(text), TdsKind::Wide(None)) => {
            let bytes = (text.encode_utf16().count() * 2) as u32;
            out.extend_from_slice(&u64::from(bytes).to_le_bytes());
            if bytes > 0 {
                out.extend_from_slice(&bytes.to_le_bytes());
                put_text(out, text);
            }
            out.extend_from_slice(&0_u32.to_le_bytes());
        }
        (TdsCell::Text(text), _) => {
            out.extend_from_slice(&((text.encode_utf16().count() * 2) as u16).to_le_bytes());
            put_text(out, text);
        }
        (_, TdsKind::Wide(None)) => out.extend_from_slice(&[0xFF; 8]),
        (_, TdsKind::Wide(Some(_)) | TdsKind::Narrow(_)) => {
            out.extend_from_slice(&[0xFF, 0xFF]);
        }
        _ => out.push(0),
    }
}

/// What precedes a request: its own length is all that matters here.
fn headers(reader: &mut TdsReader<'_>) -> Result<()> {
    let length = reader.number(4)? as usize;
    reader.take(length.checked_sub(4).ok_or_else(|| broken("headers are too short"))?).map(drop)
}

fn login(data: &[u8]) -> Result<TdsMessage> {
    let field = |n: usize| -> Result<&[u8]> {
        let mut at =
            TdsReader(data.get(36 + n * 4..).ok_or_else(|| broken("the login is too short"))?);
        let (offset, characters) = (at.number(2)? as usize, at.number(2)? as usize);
        data.get(offset..offset + characters * 2).ok_or_else(|| broken("the login is too short"))
    };
    // Host, user, password, application, server, extension, library, language, database.
    let hidden: Vec<u8> = field(2)?.iter().map(|b| (b ^ 0xA5).rotate_left(4)).collect();
    Ok(TdsMessage::Login {
        user: utf16(field(1)?)?,
        password: utf16(&hidden)?,
        database: utf16(field(8)?)?,
    })
}

/// sp_executesql: the statement, the declaration of its parameters, then these.
fn call(data: &[u8]) -> Result<TdsMessage> {
    let mut reader = TdsReader(data);
    headers(&mut reader)?;
    if (reader.number(2)?, reader.number(2)?) != (0xFFFF, 10) {
        return Err(broken("only sp_executesql can be called"));
    }
    reader.number(2)?;
    let mut values = Vec::new();
    while !reader.0.is_empty() {
        let name = reader.short_text()?;
        reader.u8()?;
        let kind = reader.kind()?;
        values.push((name, reader.cell(kind)?));
    }
    let Some((_, TdsCell::Text(sql))) = values.first().cloned() else {
        return Err(broken("a call without a statement"));
    };
    Ok(TdsMessage::Call(sql, values.split_off(2.min(values.len()))))
}

fn bulk(data: &[u8]) -> Result<TdsMessage> {
    let mut reader = TdsReader(data);
    if reader.u8()? != 0x81 {
        return Err(broken("a bulk load without columns"));
    }
    let mut kinds = Vec::new();
    for _ in 0..reader.number(2)? {
        reader.take(6)?;
        kinds.push(reader.kind()?);
        reader.short_text()?;
    }
    let mut rows = Vec::new();
    loop {
        match reader.u8()? {
            0xD1 => {
                rows.push(kinds.iter().map(|kind| reader.cell(*kind)).collect::<Result<TdsRow>>()?);
            }
            0xFD => return Ok(TdsMessage::Bulk(rows)),
            other => return Err(broken(&format!("token {other:#x} within a bulk load"))),
        }
    }
}
