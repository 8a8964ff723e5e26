//! Batches as clients write them, as Kafka wrote them, and as they come out of a damaged wire.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};

const STAMP: ProducerStamp =
    ProducerStamp { id: ProducerId(4711), epoch: ProducerEpoch(3), sequence: Sequence(42) };

fn header(key: &'static [u8], value: Option<&'static [u8]>) -> RecordHeader {
    RecordHeader { key: Bytes::from_static(key), value: value.map(Bytes::from_static) }
}

fn record(
    offset: u64,
    timestamp: i64,
    key: Option<&str>,
    value: Option<&str>,
    headers: Vec<RecordHeader>,
) -> Record {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Record {
        offset: Offset(offset),
        timestamp: Timestamp(timestamp),
        key: key.map(bytes),
        value: value.map(bytes),
        headers,
    }
}

fn sample() -> Vec<Record> {
    vec![
        record(0, 1_700_000_000_000, Some("k1"), Some("first value"), vec![]),
        record(1, 1_700_000_000_007, None, Some(""), vec![header(b"h", Some(b"1")), header(b"h", None)]),
        record(2, 1_699_999_999_990, Some(""), None, vec![]),
        record(
            3,
            1_700_000_000_001,
            Some("k2"),
            Some(&"quorate ".repeat(40)),
            vec![header(b"trace", Some(b"\x00\xff"))],
        ),
    ]
}

fn build(records: &[Record], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let before = builder.bytes();
        builder.push(record.timestamp, key, value, &record.headers);
        let most = BatchBuilder::bytes_of_record(key, value, &record.headers);
        assert!(builder.bytes() - before <= most);
        let mut alone = BatchBuilder::new(0);
        alone.push(record.timestamp, key, value, &record.headers);
        let bytes = BatchBuilder::bytes_of_record_alone(key, value, &record.headers);
        assert!(alone.bytes() == HEADER_BYTES + bytes && bytes <= most);
    }
    builder.finish(compression, STAMP)
}

fn read(batch: &Bytes) -> Result<Vec<Record>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    Records::new(&header, batch, DECOMPRESSED_BYTES_MAX)?.collect()
}

fn unhex(hex: &str) -> Bytes {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d.to_be_bytes()[3]).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Recomputes the CRC, so that a change behind it is judged by what comes after.
fn with_crc(batch: &Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut changed = BytesMut::from(&batch[..]);
    change(&mut changed);
    super::header::write_crc(&mut changed);
    changed.freeze()
}

/// Written by kafka-python 3.0.12 with its `DefaultRecordBatchBuilder(magic=2, producer_id=4711, producer_epoch=3,
/// base_sequence=42)` and the records of [`sample`], without compression and with each of its four.
#[test]
fn reads_what_another_client_wrote() {
    let fixtures = include_str!("fixtures.txt");
    let mut seen = Vec::new();
    for line in fixtures.lines() {
        let (name, hex) = line.split_once(' ').expect("a name and hexadecimal digits");
        let compression: Compression = name.parse().expect("the name of a compression");
        let batch = unhex(hex);
        let header = validate(&batch, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(header.attributes.compression(), Ok(compression));
        assert_eq!(header.records, 4);
        assert_eq!((header.producer_id, header.producer_epoch), (STAMP.id, STAMP.epoch));
        assert_eq!(header.base_sequence, STAMP.sequence);
        assert_eq!(header.max_timestamp, Timestamp(1_700_000_000_007));
        assert_eq!(read(&batch).as_ref(), Ok(&sample()), "{name}");
        if compression == Compression::None {
            let mut ours = BytesMut::from(&build(&sample(), compression)[..]);
            patch_leader_epoch(&mut ours, header.leader_epoch);
            assert_eq!(ours, batch, "byte for byte");
        }
        seen.push(compression);
    }
    assert_eq!(seen, Compression::ALL);
}

#[test]
fn patches_what_lies_outside_the_checksum() {
    for compression in Compression::ALL {
        let mut batch = BytesMut::from(&build(&sample(), compression)[..]);
        patch_base_offset(&mut batch, Offset(1_000));
        patch_leader_epoch(&mut batch, LeaderEpoch(9));
        let batch = batch.freeze();
        let header = validate(&batch, &Limits::default()).unwrap();
        assert_eq!((header.base_offset, header.last_offset()), (Offset(1_000), Offset(1_003)));
        assert_eq!(header.leader_epoch, LeaderEpoch(9));
        let offsets: Vec<u64> = read(&batch).unwrap().iter().map(|record| record.offset.0).collect();
        assert_eq!(offsets, [1_000, 1_001, 1_002, 1_003]);
    }
}

#[test]
fn the_time_of_the_append_replaces_each_records_own() {
    for compression in Compression::ALL {
        let mut batch = BytesMut::from(&build(&sample(), compression)[..]);
        stamp_log_append_time(&mut batch, Timestamp(77));
        let batch = batch.freeze();
        let header = validate(&batch, &Limits::default()).unwrap();
        assert!(header.attributes.is_log_append_time());
        assert_eq!(header.attributes.compression(), Ok(compression));
        assert!(read(&batch).unwrap().iter().all(|record| record.timestamp == Timestamp(77)));
    }
}

#[test]
fn refuses_what_a_producer_must_not_send() {
    let batch = build(&sample(), Compression::None);
    let check = |batch: &Bytes| validate(batch, &Limits::default()).unwrap_err();

    let tiny = Limits { batch_bytes_max: 100, ..Limits::default() };
    assert_eq!(validate(&batch, &tiny), Err(BatchError::TooLarge { found: batch.len(), limit: 100 }));
    assert_eq!(check(&batch.slice(..60)), BatchError::Short { expected: 61, found: 60 });
    let cut = batch.len() - 1;
    assert_eq!(check(&batch.slice(..cut)), BatchError::Short { expected: batch.len(), found: cut });
    let twice: Bytes = [&batch[..], &batch[..]].concat().into();
    assert_eq!(check(&twice), BatchError::Trailing { extra: batch.len() });

    assert_eq!(check(&with_crc(&batch, |b| b[16] = 1)), BatchError::Magic(1));
    assert!(matches!(check(&with_crc(&batch, |b| b[9] = 1)), BatchError::Short { .. }));
    assert!(matches!(check(&with_crc(&batch, |b| b[11] -= 1)), BatchError::Trailing { extra: 1 }));
    assert!(matches!(check(&with_crc(&batch, |b| b[8] = 0x80)), BatchError::Length(_)));
    let mut flipped = BytesMut::from(&batch[..]);
    flipped[70] ^= 1;
    assert!(matches!(check(&flipped.freeze()), BatchError::Crc { .. }));
    for (at, value) in [(26, 9), (26, 4), (60, 0), (57, 0x80), (57, 1)] {
        assert!(matches!(check(&with_crc(&batch, |b| b[at] = value)), BatchError::Count { .. }));
    }
    let many = with_crc(&batch, |b| {
        b[23..27].copy_from_slice(&99_i32.to_be_bytes());
        b[57..61].copy_from_slice(&100_i32.to_be_bytes());
    });
    assert!(matches!(check(&many), BatchError::Count { count: 100, .. }));
    assert_eq!(check(&with_crc(&batch, |b| b[22] |= 1 << 5)), BatchError::Kind("a control batch"));
    assert_eq!(check(&with_crc(&batch, |b| b[22] |= 1 << 4)), BatchError::Kind("transactional"));
    assert_eq!(check(&with_crc(&batch, |b| b[22] |= 7)), BatchError::Compression(7));
    assert_eq!(check(&with_crc(&batch, |b| b[53] = 0xff)).code(), ErrorCode::CorruptBatch);
    let past = with_crc(&batch, |b| patch_base_offset(b, Offset(i64::MAX.unsigned_abs() - 3)));
    assert_eq!(check(&past), BatchError::Offsets);
    let negative = with_crc(&batch, |b| b[0] = 0xff);
    assert!(validate(&negative, &Limits::default()).is_ok(), "a producer's base offset means nothing");

    // The second record's offset delta, then the first one's value length.
    assert!(matches!(check(&with_crc(&batch, |b| b[61] = 40)), BatchError::Record { index: 0, .. }));
    assert!(matches!(check(&with_crc(&batch, |b| b[64] = 2)), BatchError::Record { index: 0, .. }));
}

#[test]
fn bombs_and_lies_stay_small() {
    let zeros = vec![record(0, 0, None, Some(&"\0".repeat(900_000)), vec![])];
    for compression in Compression::ALL {
        let batch = build(&zeros, compression);
        let limits = Limits { decompressed_bytes_max: 100_000, ..Limits::default() };
        if compression != Compression::None {
            assert_eq!(validate(&batch, &limits), Err(BatchError::Bomb { limit: 100_000 }), "{compression}");
        }
        let lax = Limits { verify_compressed: false, ..limits };
        assert!(validate(&batch, &lax).is_ok());
        assert!(validate(&batch, &Limits::default()).is_ok());
    }
    let many = with_crc(&build(&sample(), Compression::Zstd), |b| {
        b[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        b[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    });
    let lax = Limits { verify_compressed: false, ..Limits::default() };
    assert!(matches!(validate(&many, &lax), Err(BatchError::Count { .. })));
    assert!(matches!(validate(&many, &Limits::default()), Err(BatchError::Record { .. })));

    // A raw Snappy block that claims 2^32-1 bytes, as a whole and inside xerial's frame.
    let raw = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    for body in [raw.to_vec(), [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x07", &raw[..]].concat()] {
        let mut batch = BytesMut::from(&build(&sample(), Compression::Snappy)[..HEADER_BYTES]);
        batch.put_slice(&body);
        let length = i32::try_from(batch.len() - 12).unwrap();
        let batch = with_crc(&batch.freeze(), |b| b[8..12].copy_from_slice(&length.to_be_bytes()));
        assert!(matches!(validate(&batch, &Limits::default()), Err(BatchError::Decompress { .. })));
    }
}

#[test]
fn raw_snappy_is_read_too() {
    let plain = build(&sample(), Compression::None);
    let packed = snap::raw::Encoder::new().compress_vec(&plain[HEADER_BYTES..]).unwrap();
    let mut batch = BytesMut::from(&plain[..HEADER_BYTES]);
    batch.put_slice(&packed);
    let length = i32::try_from(batch.len() - 12).unwrap();
    let batch = with_crc(&batch.freeze(), |b| {
        b[8..12].copy_from_slice(&length.to_be_bytes());
        b[22] = 2;
    });
    assert!(validate(&batch, &Limits::default()).is_ok());
    assert_eq!(read(&batch), Ok(sample()));
}

#[test]
fn splits_what_a_fetch_returns() {
    let (first, second) = (build(&sample(), Compression::None), build(&sample()[..1], Compression::Lz4));
    let both: Bytes = [&first[..], &second[..]].concat().into();
    let batches: Vec<Bytes> = split(both.clone()).map(|batch| batch.unwrap().1).collect();
    assert_eq!(batches, [first.clone(), second]);
    let cut = split(both.slice(..both.len() - 1)).collect::<Vec<_>>();
    assert!(cut[0].is_ok() && matches!(cut[1], Err(BatchError::Short { .. })) && cut.len() == 2);
    let mut damaged = BytesMut::from(&both[..]);
    damaged[65] ^= 1;
    let damaged = split(damaged.freeze()).collect::<Vec<_>>();
    assert!(matches!(damaged[..], [Err(BatchError::Crc { .. })]), "what follows damage is not trusted");
}

#[test]
fn another_producer_stamp_changes_nothing_else() {
    let batch = build(&sample(), Compression::Gzip);
    let other = ProducerStamp { id: ProducerId(5), epoch: ProducerEpoch(0), sequence: Sequence(0) };
    let mut restamped = BytesMut::from(&batch[..]);
    stamp_producer(&mut restamped, other);
    let restamped = restamped.freeze();
    let header = validate(&restamped, &Limits::default()).unwrap();
    assert_eq!((header.producer_id, header.base_sequence), (ProducerId(5), Sequence(0)));
    assert_eq!(read(&restamped), Ok(sample()));
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_record() -> impl Strategy<Value = Record> {
    let header = (any_bytes(), option::of(any_bytes())).prop_map(|(key, value)| RecordHeader { key, value });
    (any::<i64>(), option::of(any_bytes()), option::of(any_bytes()), vec(header, 0..4)).prop_map(
        |(timestamp, key, value, headers)| Record {
            offset: Offset(0),
            timestamp: Timestamp(timestamp),
            key,
            value,
            headers,
        },
    )
}

fn any_compression() -> impl Strategy<Value = Compression> {
    (0..Compression::ALL.len()).prop_map(|at| Compression::ALL[at])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read(records in vec(any_record(), 1..20), compression in any_compression()) {
        let batch = build(&records, compression);
        let header = validate(&batch, &Limits::default()).unwrap();
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|record| record.timestamp).max());
        let expected: Vec<Record> = (0..)
            .zip(&records)
            .map(|(at, record)| Record { offset: Offset(at), ..record.clone() })
            .collect();
        prop_assert_eq!(read(&batch), Ok(expected));
    }

    /// The CRC is repaired, or every change would end there.
    #[test]
    fn damage_is_an_error_or_a_batch_and_never_a_panic(
        records in vec(any_record(), 1..6),
        compression in any_compression(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let batch = build(&records, compression);
        let mut damaged = BytesMut::from(&batch[..]);
        for (at, byte) in changes {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        if cuts {
            damaged.truncate(HEADER_BYTES + cut.index(damaged.len() - HEADER_BYTES));
            let length = i32::try_from(damaged.len() - 12).unwrap();
            damaged[8..12].copy_from_slice(&length.to_be_bytes());
        }
        super::header::write_crc(&mut damaged);
        let damaged = damaged.freeze();
        let limits = Limits { decompressed_bytes_max: 1 << 20, ..Limits::default() };
        if let Ok(header) = validate(&damaged, &limits) {
            let read: Result<Vec<Record>, BatchError> =
                Records::new(&header, &damaged, 1 << 20).unwrap().collect();
            prop_assert_eq!(read.map(|records| records.len()), Ok(usize::try_from(header.records).unwrap()));
        }
        for batch in split(damaged) {
            if let Ok((header, batch)) = batch
                && let Ok(records) = Records::new(&header, &batch, 1 << 20)
            {
                let _count = records.count();
            }
        }
    }

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        prop_assert!(validate(&bytes, &Limits::default()).is_err());
        prop_assert!(split(bytes).all(|batch| batch.is_err()));
    }
}

#[test]
fn places_are_those_of_the_records() {
    let batch = build(&sample(), Compression::Zstd);
    let header = BatchHeader::parse(&batch).unwrap();
    let records = || Records::new(&header, &batch, DECOMPRESSED_BYTES_MAX).unwrap();
    let expected = records().map(|record| record.map(|record| (record.offset, record.timestamp)));
    assert_eq!(records().places().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(records().places().count(), sample().len());
}
