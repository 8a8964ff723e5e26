//! Stands in for the crate `base2histogram`, which openraft needs unconditionally for statistics that we never ask for.
//!
//! The real one fills 26 MB of tables at its first use, for every bucket width there could be, and 2 KB for each of a
//! group's fifteen histograms. This one has the part of its interface that openraft calls, counts samples, and knows
//! no percentiles. Our own histograms are hdrhistogram's.

use std::fmt;
use std::marker::PhantomData;

/// How many values were recorded; the values themselves are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { samples: 0, slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.samples = self.samples.saturating_add(count);
    }

    /// The count; every percentile is 0.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.samples, ..PercentileStats::default() }
    }
}

/// Percentiles, none of which is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after its percentile")]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// A chart without a picture: the names and counts of what was added.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    series: Vec<(String, u64)>,
}

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a histogram under a name.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.series.push((name.into(), histogram.samples));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, samples) in &self.series {
            writeln!(f, "{name}: {samples}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(7);
        histogram.record_n(1_000, 4);
        assert_eq!(histogram.percentile_stats().samples, 5);
        assert_eq!(AsciiChart::new().add("batches", histogram).to_string(), "batches: 5\n");
    }
}
