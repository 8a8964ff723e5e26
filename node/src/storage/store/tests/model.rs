//! The store against a simple model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, count: u64, bytes: usize },
    Truncate { group: u64, back: u64 },
    Trim { group: u64, part: u64 },
    Vote { group: u64 },
    Committed { group: u64 },
    Remove { group: u64 },
    Reopen,
}

#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    entries: Vec<Entry>,
    vote: Option<HardVote>,
    purged: Option<LogId>,
    term: u64,
    next: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let group = 0_u64..3;
    let step = prop_oneof![
        10 => (group.clone(), 1_u64..6, prop_oneof![0_usize..300, 3_000_usize..9_000, Just(70_000)])
            .prop_map(|(group, count, bytes)| Step::Append { group, count, bytes }),
        2 => (group.clone(), 0_u64..12).prop_map(|(group, back)| Step::Truncate { group, back }),
        1 => (group.clone(), 0_u64..4).prop_map(|(group, part)| Step::Trim { group, part }),
        1 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.clone().prop_map(|group| Step::Committed { group }),
        1 => group.prop_map(|group| Step::Remove { group }),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn check_against_model(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
    let mut models = BTreeMap::<u64, Model>::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append { group, count, bytes } => {
                let model = models.entry(group).or_default();
                let log = store.log(GroupId(group));
                let mut entries = Vec::new();
                for i in 0..count {
                    model.term += u64::from(i == 2);
                    let body = vec![u8::try_from(number % 256).unwrap(); bytes];
                    entries.push(entry(GroupId(group), model.term, model.next, &body));
                    model.next += 1;
                }
                model.entries.extend(entries.clone());
                let done = append(&log, entries);
                if number % 3 == 0 {
                    done.await.unwrap().unwrap();
                }
            }
            Step::Truncate { group, back } => {
                let model = models.entry(group).or_default();
                let keep = model.entries.len().saturating_sub(usize::try_from(back).unwrap());
                let from = model.entries.get(keep).map_or(model.next, |entry| entry.head.index.0);
                model.entries.truncate(keep);
                model.next = from;
                model.term += 1;
                store.log(GroupId(group)).truncate_suffix(LogIndex(from)).await.unwrap();
            }
            Step::Trim { group, part } => {
                let model = models.entry(group).or_default();
                let gone = model.entries.len() * usize::try_from(part).unwrap() / 3;
                if let Some(last) = model.entries.drain(..gone.min(model.entries.len())).next_back() {
                    model.purged = Some(last.head.log_id());
                    trim(&store.log(GroupId(group)), last.head.log_id()).await;
                }
            }
            Step::Vote { group } => {
                let model = models.entry(group).or_default();
                model.term += 1;
                let vote = HardVote { term: Term(model.term), node: 1, committed: number % 2 == 0 };
                model.vote = Some(vote);
                store.log(GroupId(group)).save_vote(vote).await.unwrap();
            }
            Step::Committed { group } => {
                let model = models.entry(group).or_default();
                store.log(GroupId(group)).save_committed(model.entries.last().map(|e| e.head.log_id()));
            }
            Step::Remove { group } => {
                models.insert(group, Model::default());
                store.remove_group(GroupId(group)).await.unwrap();
            }
            Step::Reopen => {
                store.close().await;
                drop(store);
                store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
            }
        }
        for (group, model) in &models {
            let log = store.log(GroupId(*group));
            let state = log.state();
            assert_eq!(state.vote, model.vote);
            assert_eq!(state.purged, model.purged);
            assert_eq!(state.last, model.entries.last().map(|e| e.head.log_id()).or(model.purged));
            assert!(all(&log).await == model.entries, "group {group} after step {number}");
            let heads = model.entries.iter().map(|entry| entry.head).collect::<Vec<_>>();
            let found = log.heads(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).await.unwrap();
            assert_eq!(found, heads);
            let bodies = log.bodies(&heads).await.unwrap();
            for (entry, body) in model.entries.iter().zip(bodies) {
                assert!(entry.body == Body::Here(body));
            }
            let mut starts = Vec::<LogId>::new();
            for head in &heads {
                if starts.last().is_none_or(|start| start.term != head.term) {
                    starts.push(head.log_id());
                }
            }
            assert_eq!(log.term_starts(), starts);
        }
    }
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_the_model_does(steps in steps()) {
        block_on(check_against_model(steps));
    }
}
