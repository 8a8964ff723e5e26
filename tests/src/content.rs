//! What a topic holds, as a reader finds it, and what a folder takes of a disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use quorate_client::{Client, ConsumerConfig, PartitionId, Partitions, Start};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

/// Bytes that a folder takes of its disk, all that is in it included; files that go meanwhile count for nothing.
pub fn disk_used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_used(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map_while(Result::ok).map(of).sum()
}

/// A partition's readable offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readable {
    /// The first.
    pub start: u64,
    /// Exclusive end.
    pub end: u64,
}

/// All that stands in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Where it begins and ends.
    pub readable: Readable,
    /// Records read.
    pub records: u64,
    /// A hash of all offsets, keys and values, in order. It stands in stored samples.
    pub hash: u64,
}

/// Reads a cluster through the client library. Calls block.
pub struct Reader {
    runtime: Runtime,
    client: Client,
}

impl Reader {
    /// One that knows these servers (`host:port,..`).
    ///
    /// # Panics
    /// If no runtime can be had.
    pub fn new(servers: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be had");
        let servers: Vec<_> = servers.split(',').map(str::to_owned).collect();
        let client = {
            let _inside = runtime.enter();
            Client::grpc(servers)
        };
        Self { runtime, client }
    }

    /// What can be read of each partition of a topic now.
    ///
    /// # Errors
    /// A leader did not answer.
    pub fn readable(&self, topic: &str) -> Result<Vec<Readable>> {
        let described = self.runtime.block_on(self.client.admin().describe_topic(topic))?;
        let partitions = described.partitions.into_iter().map(|partition| {
            let start = partition.log_start_offset.context("a partition's leader did not answer")?;
            let end = partition.high_watermark.context("a partition's leader did not answer")?;
            Ok(Readable { start: start.0, end: end.0 })
        });
        partitions.collect()
    }

    /// Reads all of a partition, from the log start to the high watermark of now.
    ///
    /// # Errors
    /// It cannot be read, or what is read goes meanwhile.
    pub fn read(&self, topic: &str, partition: u32) -> Result<Content> {
        self.runtime.block_on(async {
            let partition = PartitionId(i32::try_from(partition)?);
            let mut consumer = self.client.consumer(ConsumerConfig::default());
            consumer.assign(topic, Partitions::Only(vec![partition]), Start::End).await?;
            let end = consumer.position(topic, partition).context("it is assigned")?.0;
            consumer.seek(topic, partition, Start::Beginning).await?;
            let start = consumer.position(topic, partition).context("it is assigned")?.0;
            let mut content =
                Content { readable: Readable { start, end }, records: 0, hash: HASH_OF_NOTHING };
            while consumer.position(topic, partition).is_some_and(|position| position.0 < end) {
                let record = consumer.next().await?;
                content.records += 1;
                content.take(&record.offset.0.to_le_bytes());
                content.take(record.key.as_deref().unwrap_or_default());
                content.take(record.value.as_deref().unwrap_or_default());
            }
            Ok(content)
        })
    }
}

/// FNV-1a's.
const HASH_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

impl Content {
    /// FNV-1a, word by word: it tells copies apart, and no adversary.
    fn take(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.hash = (self.hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_what_its_files_take() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(disk_used(folder.path()), 0);
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), vec![7; 100_000]).unwrap();
        let used = disk_used(folder.path());
        assert!((100_000..300_000).contains(&used), "{used}");
        assert_eq!(disk_used(&folder.path().join("none")), 0);
    }

    #[test]
    fn contents_that_differ_have_other_hashes() {
        let hash = |parts: &[&[u8]]| {
            let mut content = Content { hash: HASH_OF_NOTHING, ..Content::default() };
            parts.iter().for_each(|part| content.take(part));
            content.hash
        };
        assert_eq!(hash(&[b"one", b"two"]), hash(&[b"one", b"two"]));
        assert_ne!(hash(&[b"one", b"two"]), hash(&[b"two", b"one"]));
        assert_ne!(hash(&[b"one"]), hash(&[b"onf"]));
    }
}
