//! Classes of faults, by which a run can be narrowed: `--only network,crash`.

use std::fmt;
use std::str::FromStr;

use quorate_node::config::nearest;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Frames that are late, lost, doubled or held back; links that are cut.
    Network,
    /// Clocks that are off, drift, jump or freeze.
    Clock,
    /// Processes that pause, are slow, or come back in another form.
    Process,
    /// Kills and power cuts.
    Crash,
    /// Disks that are slow, or fail to sync.
    Disk,
    /// What clients do wrong, and what the nodes' answers make them believe.
    Client,
    /// Disks that are lost for good, nodes that leave and come, partitions that move.
    Membership,
    /// Disks that do not hold what was written.
    Damage,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Network,
        Self::Clock,
        Self::Process,
        Self::Crash,
        Self::Disk,
        Self::Client,
        Self::Membership,
        Self::Damage,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Clock => "clock",
            Self::Process => "process",
            Self::Crash => "crash",
            Self::Disk => "disk",
            Self::Client => "client",
            Self::Membership => "membership",
            Self::Damage => "damage",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        Self::ALL
            .into_iter()
            .find(|class| class.name() == word)
            .ok_or_else(|| no_such("class of faults", word, &names))
    }
}

/// What to say of a word that is none of `known`.
pub fn no_such(kind: &str, word: &str, known: &[&str]) -> String {
    let meant = nearest(word, known.iter().copied());
    let meant = meant.map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    format!("no such {kind}; {meant}there are {}", known.join(", "))
}

/// Some of the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    /// Whether faults of this class may strike.
    pub fn contains(self, class: Class) -> bool {
        self.0 & bit(class) != 0
    }

    /// Whether they are all of them.
    pub fn is_all(self) -> bool {
        self == Self::default()
    }
}

impl Default for Classes {
    /// All of them.
    fn default() -> Self {
        Class::ALL.into_iter().collect()
    }
}

impl FromIterator<Class> for Classes {
    fn from_iter<T: IntoIterator<Item = Class>>(classes: T) -> Self {
        Self(classes.into_iter().fold(0, |all, class| all | bit(class)))
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Class::ALL.into_iter().filter(|class| self.contains(*class)).map(Class::name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

fn bit(class: Class) -> u8 {
    1 << (class as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_and_a_wrong_name_is_answered_with_the_nearest() {
        let some = ["network", "crash"].into_iter().map(|name| name.parse::<Class>().unwrap());
        let some = some.collect::<Classes>();
        assert!(some.contains(Class::Crash) && !some.contains(Class::Disk) && !some.is_all());
        assert_eq!(some.to_string(), "network,crash");
        assert!(Classes::default().is_all());
        let said = "netwrk".parse::<Class>().unwrap_err();
        assert!(said.contains("did you mean network?") && said.contains("process, crash"), "{said}");
    }
}
