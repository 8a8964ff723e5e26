//! What a file holds, in pages that copies share: oracles recover copies of whole disks many times a run.

use std::ops::Range;
use std::sync::Arc;

/// As large as the pages that redb writes.
const PAGE: usize = 4_096;

type Page = [u8; PAGE];

/// A file's bytes. A clone shares all pages until one of the two is written to.
#[derive(Clone, Default)]
pub(super) struct Image {
    length: usize,
    /// One for each page begun; `None` is all zeroes, as is what lies behind the length.
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Image {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Fills `out` with what stands at `offset`; `None` if that goes beyond the end.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(out.len()).filter(|end| *end <= self.length)?;
        for (at, within, piece) in pieces(offset..end) {
            let out = &mut out[piece];
            match &self.pages[at] {
                Some(page) => out.copy_from_slice(&page[within]),
                None => out.fill(0),
            }
        }
        Some(())
    }

    /// Writes, and grows where that goes beyond the end.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.length {
            self.resize(end);
        }
        let pages = Arc::make_mut(&mut self.pages);
        for (at, within, piece) in pieces(offset..end) {
            let page = &mut pages[at];
            // What is overwritten as a whole need not be copied before.
            if within.len() == PAGE && page.as_mut().is_none_or(|page| Arc::get_mut(page).is_none()) {
                *page = Some(bytes[piece].try_into().map(Arc::new).expect("as long as a page"));
            } else {
                let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within].copy_from_slice(&bytes[piece]);
            }
        }
    }

    /// Takes the pages of a range as `other` has them, and grows where that goes beyond the end.
    pub(super) fn take_from(&mut self, other: &Self, range: Range<usize>) {
        if range.end > self.length {
            self.resize(range.end);
        }
        let pages = Arc::make_mut(&mut self.pages);
        let first = range.start / PAGE;
        for (at, page) in pages.iter_mut().enumerate().take(range.end.div_ceil(PAGE)).skip(first) {
            *page = other.pages.get(at).cloned().flatten();
        }
    }

    /// Cuts the end off, or puts zeroes there.
    pub(super) fn resize(&mut self, length: usize) {
        if length == self.length {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        pages.resize(length.div_ceil(PAGE), None);
        let tail = length % PAGE;
        if length < self.length
            && tail > 0
            && let Some(Some(page)) = pages.last_mut()
        {
            Arc::make_mut(page)[tail..].fill(0);
        }
        self.length = length;
    }

    /// Bytes that it takes on a disk: what was never written takes none.
    pub(super) fn allocated(&self) -> u64 {
        let pages = self.pages.iter().flatten().count();
        u64::try_from(pages * PAGE).unwrap_or(u64::MAX)
    }

    /// How many of `length` bytes at `offset` can be written if only `free` bytes more may be taken.
    pub(super) fn fitting(&self, offset: usize, length: usize, free: u64) -> usize {
        let page_bytes = u64::try_from(PAGE).unwrap_or(u64::MAX);
        let mut left = free;
        for (at, _, piece) in pieces(offset..offset + length) {
            if self.pages.get(at).is_some_and(Option::is_some) {
                continue;
            }
            if left < page_bytes {
                return piece.start;
            }
            left -= page_bytes;
        }
        length
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.read(0, &mut bytes).expect("nothing beyond the end");
        bytes
    }
}

/// Splits a range at the borders of pages: which page, where in it, and where in the range.
fn pieces(range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        let (at, within) = (next / PAGE, next % PAGE);
        let length = (PAGE - within).min(range.end - next);
        let piece = next - range.start..next - range.start + length;
        next += length;
        (length > 0).then_some((at, within..within + length, piece))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = (usize, usize)> {
        // Around the borders of pages, where they matter.
        let near = prop_oneof![0..3 * PAGE, (0..4usize).prop_map(|page| page * PAGE)];
        (near, prop_oneof![0..2 * PAGE + 1, Just(PAGE)])
    }

    #[test]
    fn only_what_is_written_takes_space() {
        let mut image = Image::default();
        image.resize(10 * PAGE);
        assert_eq!(image.allocated(), 0);
        image.write(PAGE - 1, &[1; 2]);
        assert_eq!(image.allocated(), 2 * 4_096);
        assert_eq!(image.fitting(0, 2 * PAGE, 0), 2 * PAGE, "both are there");
        assert_eq!(image.fitting(PAGE + 10, 3 * PAGE, 4_096), 2 * PAGE - 10, "one more, and no third");
        assert_eq!(image.fitting(20 * PAGE, 1, 4_095), 0);
        image.resize(PAGE);
        assert_eq!(image.allocated(), 4_096);
    }

    proptest! {
        #[test]
        fn an_image_is_what_a_row_of_bytes_would_be(steps in prop::collection::vec((range(), 0u8..4), 1..40)) {
            let (mut image, mut bytes) = (Image::default(), Vec::new());
            let mut kept = (image.clone(), bytes.clone());
            for (number, ((offset, length), what)) in steps.into_iter().enumerate() {
                let filled = u8::try_from(number + 1).unwrap();
                match what {
                    0 => {
                        image.resize(offset);
                        bytes.resize(offset, 0);
                    }
                    1 => kept = (image.clone(), bytes.clone()),
                    _ => {
                        image.write(offset, &vec![filled; length]);
                        bytes.resize(bytes.len().max(offset + length), 0);
                        bytes[offset..offset + length].fill(filled);
                    }
                }
                prop_assert_eq!(image.len(), bytes.len());
                prop_assert!(image.to_vec() == bytes, "step {}", number);
                let mut out = vec![7; length];
                let there = bytes.get(offset..offset + length);
                prop_assert_eq!(image.read(offset, &mut out).is_some(), there.is_some());
                prop_assert!(there.is_none_or(|there| there == out));
            }
            prop_assert!(kept.0.to_vec() == kept.1, "a copy is its own");
        }
    }
}
