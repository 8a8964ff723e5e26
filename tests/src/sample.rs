//! Stored samples: a node's folder as a release left it, and what must come out of it for ever.
//!
//! `tests/samples/NAME/` holds each file of the folder, compressed with zstd, and `expected.json`. A sample is made once
//! and never anew: it stands for what is on people's disks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::content::Content;

/// What must come out of a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The program that made it, as it says of itself.
    pub made_by: String,
    /// Whose folder it is.
    pub node: u32,
    /// What partitions hold.
    pub partitions: Vec<Holds>,
    /// Topics that were deleted.
    pub deleted: Vec<String>,
    /// A batch that is recognised when it is sent again.
    pub retry: Retry,
}

/// What a partition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holds {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: u32,
    /// All of it.
    pub content: Content,
}

/// A batch of one producer, as [`crate::wire::batch`] makes it, with its records' times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Where it was written.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Who wrote it.
    pub producer: i64,
    /// With which sequence.
    pub sequence: i32,
    /// Its values.
    pub values: Vec<String>,
    /// The offset that it was given.
    pub base: i64,
}

/// Where the samples lie.
///
/// # Panics
/// If cargo does not say where the package lies.
pub fn folder() -> PathBuf {
    // Asked at run time: checkouts that share a target folder share this binary too.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
    Path::new(&here).join("samples")
}

/// Keeps a folder that no process uses, with what must come out of it.
///
/// # Errors
/// There is a sample of that name, or files cannot be read or written.
pub fn store(sample: &Path, data: &Path, expected: &Expected) -> Result<()> {
    ensure!(!sample.exists(), "{} is there: a sample is made once", sample.display());
    fs::create_dir_all(sample).with_context(|| format!("cannot make {}", sample.display()))?;
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("names are text")?;
        // The lock is no content.
        if name.starts_with('.') {
            continue;
        }
        let packed = zstd::encode_all(&fs::read(&path)?[..], 19)?;
        fs::write(sample.join(format!("{name}.zst")), packed)?;
    }
    let mut text = serde_json::to_string_pretty(expected)?;
    text.push('\n');
    fs::write(sample.join("expected.json"), text)?;
    Ok(())
}

/// Lays a sample out as a node's folder, and gives what must come out of it.
///
/// # Errors
/// It is not whole.
pub fn lay_out(sample: &Path, data: &Path) -> Result<Expected> {
    fs::create_dir_all(data)?;
    for entry in fs::read_dir(sample)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("names are text")?;
        if let Some(name) = name.strip_suffix(".zst") {
            fs::write(data.join(name), zstd::decode_all(&fs::read(&path)?[..])?)?;
        }
    }
    let text = fs::read_to_string(sample.join("expected.json"))
        .with_context(|| format!("{} has no expected.json", sample.display()))?;
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_back_as_it_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        let (data, sample, again) =
            (folder.path().join("data"), folder.path().join("sample"), folder.path().join("again"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("meta.redb"), [1, 2, 3]).unwrap();
        fs::write(data.join("volume-00000001.redb"), vec![0; 100_000]).unwrap();
        fs::write(data.join(".lock"), b"").unwrap();
        let retry = Retry {
            topic: "t".to_owned(),
            partition: 0,
            producer: 7,
            sequence: 0,
            values: vec!["a".to_owned()],
            base: 5,
        };
        let expected = Expected {
            made_by: "quorate 0".to_owned(),
            node: 1,
            partitions: vec![Holds { topic: "t".to_owned(), partition: 0, content: Content::default() }],
            deleted: vec!["gone".to_owned()],
            retry,
        };
        store(&sample, &data, &expected).unwrap();
        assert_eq!(lay_out(&sample, &again).unwrap(), expected);
        assert_eq!(fs::read(again.join("meta.redb")).unwrap(), [1, 2, 3]);
        assert_eq!(fs::read(again.join("volume-00000001.redb")).unwrap(), vec![0; 100_000]);
        assert!(!again.join(".lock").exists());
        assert!(store(&sample, &data, &expected).is_err(), "made once");
    }
}
