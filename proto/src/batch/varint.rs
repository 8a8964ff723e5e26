//! Zigzag numbers of variable length, as protobuf and Kafka write them.

/// A view of bytes that are read from the front; nothing is read past their end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How far it has read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Steps over `count` bytes and says where they begin.
    pub(super) fn skip(&mut self, count: usize) -> Option<usize> {
        if count > self.remaining() {
            return None;
        }
        let start = self.at;
        self.at += count;
        Some(start)
    }

    /// At most ten bytes; `None` at the end of the bytes and for a number above 64 bits.
    #[inline]
    pub(super) fn varlong(&mut self) -> Option<i64> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let half = i64::try_from(raw >> 1).expect("63 bits fit an i64");
                return Some(if raw & 1 == 0 { half } else { !half });
            }
        }
        None
    }

    /// `None` at the end of the bytes and for a number above 32 bits.
    #[inline]
    pub(super) fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Bytes that [`put`] writes.
#[inline]
pub(super) fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("at most ten")
}

/// Writes a number.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.push(raw.to_le_bytes()[0] | 0x80);
        raw >>= 7;
    }
    out.push(raw.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_kafkas_bytes_and_reads_them_back() {
        let known: [(i64, &[u8]); 7] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
        ];
        for (value, bytes) in known {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
        for shift in 0..64 {
            for value in [1_i64 << shift, (1_i64 << shift).wrapping_neg(), (1_i64 << shift).wrapping_sub(1)] {
                let mut out = Vec::new();
                put(&mut out, value);
                assert_eq!(out.len(), size(value), "{value}");
                assert_eq!(Reader::new(&out).varlong(), Some(value));
                assert_eq!(Reader::new(&out).varint(), i32::try_from(value).ok());
                assert_eq!(Reader::new(&out[..out.len() - 1]).varlong(), None);
            }
        }
        assert_eq!(Reader::new(&[0xff; 20]).varlong(), None);
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varlong(), None);
    }
}
