//! How configuration is read, and the knobs that belong to the node as a whole.
//!
//! Each module has a section of its own (`[storage]`, `[raft]`, `[partition]`), a struct that stands in that module;
//! `wiring` joins them. Must not know: what the modules do with theirs.

use std::collections::BTreeMap;

use quorate_proto::ids::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A key that nothing reads.
    #[error("line {line}: unknown key {key:?}{}", nearest.as_ref().map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// Where it stands, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The known key that is most like it, if any is.
        nearest: Option<String>,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where it stands, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Each value could be, but not together.
    #[error("{0}")]
    Invalid(String),
}

/// Reads a TOML text into a struct that denies unknown fields.
///
/// # Errors
/// [`ConfigError::UnknownKey`] or [`ConfigError::Syntax`].
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let message = error.message();
        match message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            Some((key, expected)) => ConfigError::UnknownKey {
                line,
                key: key.to_owned(),
                nearest: nearest(key, expected.split('`').skip(1).step_by(2)).map(str::to_owned),
            },
            None => {
                let quoted = text.lines().nth(line - 1).and_then(unquoted);
                let message = match quoted.filter(|quoted| mends::<T>(text, line, quoted)) {
                    Some(quoted) => format!("strings need quotes: {quoted}"),
                    None => message.to_owned(),
                };
                ConfigError::Syntax { line, message }
            }
        }
    })
}

/// A line whose value is none, with quotes around that; `None` if they would not mend it.
fn unquoted(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let is_a_word = !value.is_empty() && !value.contains(['"', '\'', '{', ',']);
    let is_none = toml::from_str::<toml::Table>(&format!("x = {value}")).is_err();
    (is_a_word && is_none).then(|| format!("{} = \"{value}\"", key.trim()))
}

/// Whether nothing is wrong with that line once it is replaced. Where it wants a number, quotes are no help.
fn mends<T: DeserializeOwned>(text: &str, line: usize, by: &str) -> bool {
    let lines = text.lines().enumerate().map(|(at, old)| if at + 1 == line { by } else { old });
    let mended = lines.collect::<Vec<_>>().join("\n");
    match toml::from_str::<T>(&mended) {
        Ok(_) => true,
        Err(error) => {
            let before = error.span().and_then(|span| mended.get(..span.start));
            before.is_some_and(|before| before.matches('\n').count() + 1 != line)
        }
    }
}

/// The line, from 1, in which a key such as `listen_grpc` or `api.stream_bytes_max` is given its value.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let (section, key) = key.split_once('.').unwrap_or(("", key));
    let mut inside = "";
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            inside = header.trim();
        } else if inside == section && line.split_once('=').is_some_and(|(name, _)| name.trim() == key) {
            return Some(at + 1);
        }
    }
    None
}

/// The one of `known` that is most like `word`; `None` if none is much like it.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other: &&str| strsim::jaro_winkler(&word.to_lowercase(), &other.to_lowercase());
    let scored = known.into_iter().map(|other| (likeness(&other), other)).filter(|(score, _)| *score > 0.75);
    scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, other)| other)
}

/// Bounds of what clients may ask of a node at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Requests of one stream that are being answered, but for fetches; more wait in the connection. Too few, and a
    /// fast producer waits for round trips; each one that waits costs some kilobytes.
    pub stream_requests_max: usize,
    /// Fetches of one stream that are being answered, most of them waiting for records; more wait in the connection. A
    /// client keeps up to 12,000 waiting: with room for fewer, those that would find records wait behind those that
    /// wait for some. Each one costs some kilobytes.
    pub stream_fetches_max: usize,
    /// Bytes of one stream's requests that are being answered; more wait in the connection.
    pub stream_bytes_max: usize,
    /// Bytes of records that are read ahead for one stream's reader; its other fetches wait. Too few, and a fast
    /// reader of many partitions waits for the disk; a reader that takes nothing holds as much memory. An answer
    /// that is larger goes alone.
    pub stream_answer_bytes_max: u32,
    /// Longest time until a change of topics is answered, in ms, when the request asks for none. Shorter than a
    /// failover takes, and creating a topic fails whenever a node dies.
    pub admin_timeout_ms: u32,
    /// Longest time until a change of topics is answered, in ms, whatever the request asks for.
    pub admin_timeout_ms_max: u32,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            stream_requests_max: 1_024,
            stream_fetches_max: 16_384,
            stream_bytes_max: 32 << 20,
            stream_answer_bytes_max: 32 << 20,
            admin_timeout_ms: 10_000,
            admin_timeout_ms_max: 60_000,
        }
    }
}

impl ApiConfig {
    /// Checks the fields against each other.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.stream_requests_max == 0 || self.stream_bytes_max == 0 {
            return Err("api.stream_requests_max and api.stream_bytes_max must be at least 1".to_owned());
        }
        if self.stream_fetches_max == 0 {
            return Err("api.stream_fetches_max must be at least 1".to_owned());
        }
        if self.stream_answer_bytes_max == 0 {
            return Err("api.stream_answer_bytes_max must be at least 1".to_owned());
        }
        if self.admin_timeout_ms == 0 || self.admin_timeout_ms > self.admin_timeout_ms_max {
            return Err("api.admin_timeout_ms must be 1 to api.admin_timeout_ms_max".to_owned());
        }
        Ok(())
    }
}

/// Reads `1=host:7101,2=host:7101,...`.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn parse_bootstrap(list: &str) -> Result<BTreeMap<NodeId, String>, String> {
    let mut nodes = BTreeMap::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, address) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not id=host:port, as in 1=10.0.0.1:7101"))?;
        let id = parse_node_id(id)?;
        check_address(address)?;
        if let Some((other, _)) = nodes.iter().find(|(other, at)| **other != id && *at == address) {
            return Err(format!("nodes {other} and {id} have the same address {address}"));
        }
        if nodes.insert(id, address.to_owned()).is_some() {
            return Err(format!("node {id} is named twice"));
        }
    }
    Ok(nodes)
}

/// Reads a node id.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn parse_node_id(id: &str) -> Result<NodeId, String> {
    let parsed = id.trim().parse().ok().map(NodeId).filter(|id| id.is_valid());
    parsed.ok_or_else(|| format!("{id:?} is no node id: they are 1 to {}", NodeId::MAX))
}

/// Checks that `address` is `host:port`.
///
/// # Errors
/// A sentence that names what is wrong.
pub fn check_address(address: &str) -> Result<(), String> {
    let fine = address.rsplit_once(':').is_some_and(|(host, port)| {
        let host_fine =
            !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
        host_fine && port.parse::<u16>().is_ok()
    });
    if fine { Ok(()) } else { Err(format!("{address:?} is not host:port, as in 127.0.0.1:7001")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        listen_grpc: Option<String>,
        api: ApiConfig,
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse::<Sample>(text).unwrap_err().to_string(), expected);
        };
        check("\nlisten_gprc = '1'", "line 2: unknown key \"listen_gprc\", did you mean \"listen_grpc\"?");
        check("[ap]\nx = 1", "line 1: unknown key \"ap\", did you mean \"api\"?");
        check("[api]\nzzz = 1", "line 2: unknown key \"zzz\"");
        check(
            "[api]\nstream_request_max = 1",
            "line 2: unknown key \"stream_request_max\", did you mean \"stream_requests_max\"?",
        );
        check("listen_grpc = 7", "line 1: invalid type: integer `7`, expected a string");
        check("\nlisten_grpc = n1 # here", "line 2: strings need quotes: listen_grpc = \"n1\"");
        let said = parse::<Sample>("[api]\nstream_requests_max = 1x").unwrap_err().to_string();
        assert!(said.starts_with("line 2: ") && !said.contains("quotes"), "{said}");
        check("listen_grpc = 127.0.0.1:1", "line 1: strings need quotes: listen_grpc = \"127.0.0.1:1\"");
        assert!(parse::<Sample>("listen_grpc = 'a").unwrap_err().to_string().starts_with("line 1: "));
        assert!(parse::<Sample>("listen_grpc = ").unwrap_err().to_string().starts_with("line 1: "));
        assert!(ApiConfig::default().validate().is_ok());
        let none = ApiConfig { stream_fetches_max: 0, ..ApiConfig::default() };
        assert_eq!(none.validate(), Err("api.stream_fetches_max must be at least 1".to_owned()));
    }

    #[test]
    fn a_key_is_found_in_its_section() {
        let text = "\nlisten_grpc = 'a' # api.x = 1\n[api]\n x=1\n[storage] # more\nx = 2";
        let found =
            ["listen_grpc", "api.x", "storage.x", "x", "api.listen_grpc"].map(|key| line_of(text, key));
        assert_eq!(found, [Some(2), Some(4), Some(6), None, None]);
    }

    #[test]
    fn bootstrap_lists_are_checked() {
        let nodes = parse_bootstrap("1=a:7101, 2=[::1]:7102").unwrap();
        assert_eq!(
            nodes.into_iter().map(|(id, at)| format!("{id} {at}")).collect::<Vec<_>>(),
            ["1 a:7101", "2 [::1]:7102"]
        );
        for bad in [
            "1",
            "0=a:1",
            "x=a:1",
            "1=a",
            "1=a:70000",
            "1=::1:7",
            "1=a:1,1=b:1",
            "1=a:1,2=a:1",
            "2147483648=a:1",
        ] {
            assert!(parse_bootstrap(bad).is_err(), "{bad}");
        }
    }
}
