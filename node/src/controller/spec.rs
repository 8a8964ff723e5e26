//! A topic as somebody asks for it, checked. Pure.

use quorate_proto::ErrorCode;
use quorate_proto::ids::{TopicId, TopicName};

use super::command::Command;
use super::settings::config;
use super::types::CreateTopicError;

/// Most partitions of one topic: each is a Raft group.
pub const PARTITIONS_MAX: u32 = 10_000;

/// Without a word on replicas there are this many, or as many as there are nodes.
pub(super) const REPLICAS_DEFAULT_MAX: usize = 3;

/// Partitions that are named where many are meant.
const NAMED_MAX: usize = 5;

/// A topic that somebody asks for, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// 0: the default, 1.
    pub partitions: i32,
    /// 0: the default, as many as there are nodes, at most 3.
    pub replicas: i32,
    /// Keys and values by Kafka's names.
    pub configs: Vec<(String, String)>,
    /// Lets names through that begin with `__`; never for a client.
    pub internal: bool,
}

impl NewTopic {
    /// The command that makes this topic under `id`.
    pub(super) fn command(&self, id: TopicId) -> Result<Command, CreateTopicError> {
        let invalid = |code, message: String| CreateTopicError::Invalid { code, message };
        let name: TopicName =
            self.name.parse().map_err(|error| invalid(ErrorCode::InvalidTopicName, format!("{error}")))?;
        if name.is_internal() && !self.internal {
            let message = format!("{:?} is not possible: names that begin with __ are reserved", self.name);
            return Err(invalid(ErrorCode::InvalidTopicName, message));
        }
        let partitions = match self.partitions {
            0 => Some(1),
            asked => u32::try_from(asked).ok().filter(|asked| *asked <= PARTITIONS_MAX),
        };
        let partitions = partitions.ok_or_else(|| {
            let message =
                format!("{} partitions asked for, 1 to {PARTITIONS_MAX} are possible", self.partitions);
            invalid(ErrorCode::InvalidPartitions, message)
        })?;
        let replicas = u32::try_from(self.replicas).map_err(|_| {
            let message = format!("{} replicas asked for, at least 1 is needed", self.replicas);
            invalid(ErrorCode::InvalidReplicas, message)
        })?;
        let config = config(&self.configs).map_err(|message| invalid(ErrorCode::InvalidConfig, message))?;
        Ok(Command::CreateTopic { id, name, partitions, replicas: Some(replicas).filter(|n| *n > 0), config })
    }
}

/// What the user should know of a topic, or a partition, with so many replicas.
pub fn warnings(replicas: usize) -> Vec<String> {
    let survives = match replicas.saturating_sub(1) / 2 {
        0 => "none".to_owned(),
        lost => lost.to_string(),
    };
    if replicas.is_multiple_of(2) {
        vec![format!(
            "{replicas} replicas survive the loss of {survives}, as {} would: an odd number is better",
            replicas - 1
        )]
    } else {
        Vec::new()
    }
}

/// What the user should know of a topic whose partitions of these numbers have no leader though the time is up.
pub(super) fn without_leader(numbers: &[usize]) -> Option<String> {
    let named = numbers.iter().take(NAMED_MAX).map(usize::to_string).collect::<Vec<_>>().join(", ");
    let more = if numbers.len() > NAMED_MAX { ", ..." } else { "" };
    let (partitions, they) = match numbers.len() {
        0 => return None,
        1 => ("1 partition has".to_owned(), "it takes"),
        many => (format!("{many} partitions have"), "they take"),
    };
    Some(format!(
        "{partitions} no leader yet ({named}{more}): {they} no records until a majority of their nodes runs; \
         `quorate cluster status` says which are down"
    ))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::settings::describe;
    use super::*;

    /// `name partitions replicas [key=value]...`
    fn check(line: &str, expected: Expect) {
        let words: Vec<&str> = line.split(' ').collect();
        let topic = NewTopic {
            name: words[0].to_owned(),
            partitions: words[1].parse().unwrap(),
            replicas: words[2].parse().unwrap(),
            configs: words[3..]
                .iter()
                .map(|entry| entry.split_once('=').unwrap())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            internal: false,
        };
        let seen = match topic.command(TopicId::default()) {
            Ok(Command::CreateTopic { name, partitions, replicas, config, .. }) => {
                format!("{name} {partitions} {replicas:?} {:?}", describe(config))
            }
            Ok(other) => panic!("another command: {other:?}"),
            Err(CreateTopicError::Invalid { code, message }) => format!("{code:?}: {message}"),
            Err(CreateTopicError::Controller(error)) => panic!("nobody was asked: {error}"),
        };
        expected.assert_eq(&seen);
    }

    #[test]
    fn partitions_without_a_leader_are_told_of() {
        let said = |count| without_leader(&(0..count).collect::<Vec<_>>()).unwrap_or_default();
        assert_eq!(said(0), "");
        assert!(said(1).starts_with("1 partition has no leader yet (0): it takes no records"));
        assert!(said(7).starts_with("7 partitions have no leader yet (0, 1, 2, 3, 4, ...): they take"));
    }

    #[test]
    fn takes_what_is_possible_and_names_what_is_not() {
        check(
            "a 0 0",
            expect![[
                r#"a 1 None [("max.message.bytes", "1048588"), ("message.timestamp.type", "CreateTime"), ("retention.bytes", "-1"), ("retention.ms", "604800000")]"#
            ]],
        );
        check(
            "a 5 3 max.message.bytes=1000 message.timestamp.type=LogAppendTime retention.ms=-1 retention.bytes=0",
            expect![[
                r#"a 5 Some(3) [("max.message.bytes", "1000"), ("message.timestamp.type", "LogAppendTime"), ("retention.bytes", "0"), ("retention.ms", "-1")]"#
            ]],
        );
        check(" 1 1", expect![[r#"InvalidTopicName: a topic name must have at least one character"#]]);
        check(
            "a/b 1 1",
            expect![[
                r#"InvalidTopicName: a topic name holds only letters, digits, '.', '_' and '-', not '/' as in "a/b""#
            ]],
        );
        check(
            "__x 1 1",
            expect![[r#"InvalidTopicName: "__x" is not possible: names that begin with __ are reserved"#]],
        );
        check("a -1 1", expect!["InvalidPartitions: -1 partitions asked for, 1 to 10000 are possible"]);
        check("a 10001 1", expect!["InvalidPartitions: 10001 partitions asked for, 1 to 10000 are possible"]);
        check("a 1 -3", expect!["InvalidReplicas: -3 replicas asked for, at least 1 is needed"]);
        // The table of settings has tests of its own.
        check(
            "a 1 1 max.message.bytes=60",
            expect![[r#"InvalidConfig: max.message.bytes must be a number from 61 to 67108864, not "60""#]],
        );
        check(
            "a 1 1 max.message.bytes=99 max.message.bytes=100",
            expect![[r#"InvalidConfig: config key "max.message.bytes" is given twice"#]],
        );
    }

    #[test]
    fn an_even_number_of_replicas_is_warned_of() {
        assert_eq!(warnings(1), Vec::<String>::new());
        assert_eq!(warnings(2), ["2 replicas survive the loss of none, as 1 would: an odd number is better"]);
        assert_eq!(warnings(3), Vec::<String>::new());
        assert_eq!(warnings(4), ["4 replicas survive the loss of 1, as 3 would: an odd number is better"]);
    }
}
