//! What a link between two machines is like, one way: how quick, how lossy, how narrow; cut or clogged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::dice::Dice;
use crate::env::clock;
use crate::env::tasks::Host;

/// What a lost packet costs the first time; twice as much each further time.
const RETRANSMISSION: Duration = Duration::from_millis(200);
const RETRANSMISSIONS_MAX: u32 = 6;

/// How quick and how true a wire is.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Every frame takes at least this long.
    pub delay_min: Duration,
    /// And at most this long, but for the slow ones.
    pub delay_max: Duration,
    /// How many of a thousand are slow.
    pub slow_per_mille: u64,
    /// How long a slow one takes at most.
    pub slow_max: Duration,
    /// How many of a thousand are lost and sent again after a while, as TCP does it.
    pub loss_per_mille: u64,
    /// How many of a thousand requests between nodes come a second time, later, whatever has become of both ends.
    pub again_per_mille: u64,
    /// How much later at most.
    pub again_max: Duration,
    /// How many of a thousand messages with entries arrive with a bit flipped in one of these.
    pub flip_per_mille: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(500),
            slow_per_mille: 0,
            slow_max: Duration::ZERO,
            loss_per_mille: 0,
            again_per_mille: 0,
            again_max: Duration::from_secs(1),
            flip_per_mille: 0,
        }
    }
}

impl Profile {
    /// As quick as it usually is, and nothing lost.
    #[must_use]
    pub fn calm(self) -> Self {
        let Self { delay_min, delay_max, .. } = self;
        Self { delay_min, delay_max: delay_max.min(Duration::from_millis(10)), ..Self::default() }
    }
}

/// How little a link carries.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Frames on their way at a time; the next one leaves when one of them has arrived.
    pub frames_max: usize,
    /// Bytes a second.
    pub bytes_per_second: u64,
}

type Link = (Host, Host);

/// All links.
pub(super) struct Links {
    pub(super) profile: Profile,
    pub(super) different: BTreeMap<Link, Profile>,
    cut: BTreeSet<Link>,
    clogged: BTreeMap<Link, Duration>,
    narrow: BTreeMap<Link, Strait>,
    /// Links on which a fault by rate has struck.
    pub(super) touched: BTreeMap<&'static str, BTreeSet<Link>>,
}

struct Strait {
    narrow: Narrow,
    /// When the frames on their way arrive.
    arrivals: VecDeque<Duration>,
    free_at: Duration,
}

impl Links {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile,
            different: BTreeMap::new(),
            cut: BTreeSet::new(),
            clogged: BTreeMap::new(),
            narrow: BTreeMap::new(),
            touched: BTreeMap::new(),
        }
    }

    pub(super) fn profile(&self, from: Host, to: Host) -> Profile {
        if self.different.is_empty() {
            return self.profile;
        }
        self.different.get(&(from, to)).copied().unwrap_or(self.profile)
    }

    pub(super) fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    pub(super) fn mend(&mut self, from: Host, to: Host) {
        self.cut.remove(&(from, to));
    }

    pub(super) fn is_cut(&self, from: Host, to: Host) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(from, to))
    }

    pub(super) fn all_cut(&self) -> Vec<Link> {
        self.cut.iter().copied().collect()
    }

    pub(super) fn narrow(&mut self, from: Host, to: Host, narrow: Narrow) {
        let strait = Strait { narrow, arrivals: VecDeque::new(), free_at: Duration::ZERO };
        self.narrow.insert((from, to), strait);
    }

    pub(super) fn clog(&mut self, from: Host, to: Host, time: Duration) {
        let until = self.clogged.entry((from, to)).or_default();
        *until = (*until).max(clock::now() + time);
    }

    /// Until when nothing passes, if that is ahead.
    pub(super) fn clogged_until(&self, from: Host, to: Host) -> Option<Duration> {
        if self.clogged.is_empty() {
            return None;
        }
        self.clogged.get(&(from, to)).copied().filter(|until| *until > clock::now())
    }

    /// Ends all that makes links different, slow, lossy, narrow or clogged.
    pub(super) fn calm(&mut self) {
        self.profile = self.profile.calm();
        self.different.clear();
        self.clogged.clear();
        self.narrow.clear();
    }

    pub(super) fn touch(&mut self, kind: &'static str, from: Host, to: Host) {
        self.touched.entry(kind).or_default().insert((from, to));
    }

    /// When a frame of `bytes` that is sent now arrives.
    pub(super) fn arrival(&mut self, from: Host, to: Host, bytes: usize, dice: &mut Dice) -> Duration {
        let profile = self.profile(from, to);
        let slow = profile.slow_per_mille > 0 && dice.chance(profile.slow_per_mille);
        let mut delay = if slow {
            self.touch("delay", from, to);
            dice.time(profile.delay_max, profile.slow_max)
        } else {
            dice.time(profile.delay_min, profile.delay_max)
        };
        if profile.loss_per_mille > 0 {
            let mut times = 0;
            while times < RETRANSMISSIONS_MAX && dice.chance(profile.loss_per_mille) {
                delay += RETRANSMISSION * (1 << times);
                times += 1;
            }
            if times > 0 {
                self.touch("loss", from, to);
            }
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        // A gigabit a second.
        let mut arrival = clock::now() + delay + Duration::from_nanos(bytes.saturating_mul(8));
        if let Some(strait) = self.narrow.get_mut(&(from, to)) {
            arrival = arrival.max(strait.pass(bytes, delay));
        }
        arrival
    }
}

impl Strait {
    fn pass(&mut self, bytes: u64, delay: Duration) -> Duration {
        let now = clock::now();
        while self.arrivals.front().is_some_and(|arrival| *arrival <= now) {
            self.arrivals.pop_front();
        }
        let mut leaves = self.free_at.max(now);
        if self.arrivals.len() >= self.narrow.frames_max {
            leaves = leaves.max(self.arrivals[self.arrivals.len() - self.narrow.frames_max]);
        }
        let micros = bytes.saturating_mul(1_000_000) / self.narrow.bytes_per_second.max(1);
        self.free_at = leaves + Duration::from_micros(micros);
        let arrival = self.free_at + delay;
        self.arrivals.push_back(arrival);
        arrival
    }
}
