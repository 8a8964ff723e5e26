//! The four codecs, as Kafka's Java client frames them, with a cap on what comes out.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::BatchError;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip (RFC 1952).
    Gzip,
    /// Snappy, in the blocks of xerial's Java library; raw Snappy is read too.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Not the name of a compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no compression: none, gzip, snappy, lz4 and zstd are")]
pub struct UnknownCompression(String);

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub(super) fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub(super) fn from_code(code: u16) -> Result<Self, BatchError> {
        Self::ALL.into_iter().find(|known| known.code() == code).ok_or(BatchError::Compression(code))
    }

    /// Its name, as configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

/// Xerial's block header: magic, version 1, compatible since 1.
const XERIAL: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_MAGIC: usize = 8;
const XERIAL_BLOCK: usize = 32 * 1024;

/// A copy of 64 bytes takes 3: Snappy cannot expand by more than this.
const SNAPPY_RATIO_MAX: usize = 32;

/// Log of the largest Zstandard window: what its highest level uses. The decoder reserves that much address space
/// and touches what is written.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Appends the compressed form of `plain` to `out`.
pub(super) fn compress(compression: Compression, plain: &[u8], out: &mut Vec<u8>) {
    const MEMORY: &str = "writing to memory does not fail";
    match compression {
        Compression::None => out.extend_from_slice(plain),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(plain).expect(MEMORY);
            encoder.finish().expect(MEMORY);
        }
        Compression::Snappy => {
            out.extend_from_slice(&XERIAL);
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(XERIAL_BLOCK) {
                let packed = encoder.compress_vec(block).expect("a block is far below Snappy's limit");
                let length = i32::try_from(packed.len()).expect("a packed block is about as small");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&packed);
            }
        }
        Compression::Lz4 => {
            // As Kafka's Java client: independent blocks of 64 KB, no checksums.
            let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(plain).expect(MEMORY);
            encoder.finish().expect(MEMORY);
        }
        Compression::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(out, 0).expect("the default level is a level");
            encoder.write_all(plain).expect(MEMORY);
            encoder.finish().expect(MEMORY);
        }
    }
}

/// Decompresses to at most `limit` bytes, whatever the compressed bytes claim.
pub(super) fn decompress(
    compression: Compression,
    packed: &[u8],
    limit: usize,
) -> Result<Vec<u8>, BatchError> {
    let failed = |error: std::io::Error| BatchError::Decompress { compression, reason: error.to_string() };
    match compression {
        Compression::None if packed.len() > limit => Err(BatchError::Bomb { limit }),
        Compression::None => Ok(packed.to_vec()),
        Compression::Gzip => drain(MultiGzDecoder::new(packed), limit, failed),
        Compression::Snappy => unsnap(packed, limit),
        Compression::Lz4 => drain(FrameDecoder::new(packed), limit, failed),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
            drain(decoder, limit, failed)
        }
    }
}

fn drain(
    reader: impl Read,
    limit: usize,
    failed: impl FnOnce(std::io::Error) -> BatchError,
) -> Result<Vec<u8>, BatchError> {
    let mut plain = Vec::new();
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(one_more).read_to_end(&mut plain).map_err(failed)?;
    if plain.len() > limit {
        return Err(BatchError::Bomb { limit });
    }
    Ok(plain)
}

fn unsnap(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut plain = Vec::new();
    let framed = packed.len() >= XERIAL.len() && packed[..XERIAL_MAGIC] == XERIAL[..XERIAL_MAGIC];
    if !framed {
        unsnap_block(packed, limit, &mut plain)?;
        return Ok(plain);
    }
    let mut rest = &packed[XERIAL.len()..];
    while !rest.is_empty() {
        let cut = || snappy_error("a block is cut off");
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut())?;
        let (block, after) = after.split_at_checked(length).ok_or_else(cut)?;
        unsnap_block(block, limit, &mut plain)?;
        rest = after;
    }
    Ok(plain)
}

fn snappy_error(reason: &str) -> BatchError {
    BatchError::Decompress { compression: Compression::Snappy, reason: reason.to_owned() }
}

/// Appends one raw Snappy block to `plain`.
fn unsnap_block(block: &[u8], limit: usize, plain: &mut Vec<u8>) -> Result<(), BatchError> {
    let failed = |error: snap::Error| snappy_error(&error.to_string());
    let claimed = snap::raw::decompress_len(block).map_err(failed)?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(snappy_error("it claims to become larger than Snappy can make it"));
    }
    if claimed > limit - plain.len() {
        return Err(BatchError::Bomb { limit });
    }
    let start = plain.len();
    plain.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut plain[start..]).map_err(failed)?;
    plain.truncate(start + written);
    Ok(())
}
