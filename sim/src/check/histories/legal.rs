//! Odd but legal histories: nobody may complain.

use super::broken;

macro_rules! legal {
    ($($name:ident: $history:literal;)*) => {
        $(#[test] fn $name() { assert_eq!(broken($history), [""; 0]); })*
    };
}

legal! {
    nothing_happens: "";
    a_record_is_sent_acked_read_and_there: "
        topics 1 2 1
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        learnt r1 acked 0
        assign k3 beginning 0
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        read k3 0 r1
        log r1";
    an_unknown_one_is_not_there: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        learnt r1 unknown
        log";
    an_unknown_one_commits_late: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        learnt r1 unknown
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 0 e2
        @5000 ask c3 n2 e2 f2 fetch 0
        tell f2 hw 1 e2 | 0 e2 7:0:0 r1
        log r1";
    an_unknown_one_comes_late_behind_what_was_sent_after_it_was_given_up: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        learnt r1 unknown
        sent r2
        ask c1 n1 e1 p2 produce 8:0:0 r2
        tell p2 at 0 e1
        learnt r2 acked 0
        ask c3 n1 e1 f1 fetch 1
        tell f1 hw 2 e1 | 1 e1 7:0:0 r1
        log r2 r1";
    a_call_without_an_answer_is_written: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        log r1";
    it_is_fetched_before_it_is_acked: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        tell p1 at 0 e1
        learnt r1 acked 0
        log r1";
    a_retry_after_a_time_out_gets_the_first_offset: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        ask c1 n2 e2 p2 produce 7:0:0 r1
        tell p2 at 0 e2
        learnt r1 acked 0
        log r1";
    a_retry_is_answered_before_the_first_try: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 7:0:0 r1
        tell p2 at 0 e1
        tell p1 at 0 e1
        log r1";
    refused_and_refused_and_then_acked: "
        sent r1
        ask c1 n2 e1 p1 produce 7:0:0 r1
        tell p1 refused
        ask c1 n3 e1 p2 produce 7:0:0 r1
        tell p2 unreached
        ask c1 n1 e1 p3 produce 7:0:0 r1
        tell p3 at 0 e1
        learnt r1 acked 0
        log r1";
    a_retry_comes_too_late_behind_five_others_of_which_one_may_stand: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        ask c1 n1 e1 p3 produce 7:0:2 r3
        ask c1 n1 e1 p4 produce 7:0:3 r4
        ask c1 n1 e1 p5 produce 7:0:4 r5
        ask c1 n1 e1 p6 produce 7:0:5 r6
        tell p2 at 1 e1
        ask c1 n1 e1 p7 produce 7:0:0 r1
        tell p7 too-late
        log r1 r2";
    a_retry_is_refused_for_the_first_try_was_written: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        ask c1 n2 e2 p2 produce 7:0:0 r1
        tell p2 refused
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 1 e2 | 0 e1 7:0:0 r1
        log r1";
    what_surely_failed_is_sent_anew_under_another_id: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:4 r1
        tell p1 refused
        ask c1 n1 e1 p2 produce 8:0:0 r1
        tell p2 at 0 e1
        learnt r1 acked 0
        log r1";
    an_unknown_producer_begins_with_any_sequence: "
        ask c1 n1 e1 p1 produce 7:0:2147483647 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:0 r2
        tell p2 at 1 e1
        log r1 r2";
    a_producer_begins_a_new_epoch: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:1:0 r2
        tell p2 at 1 e1
        log r1 r2";
    the_same_sequence_stands_in_two_epochs_of_a_producer: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:1:0 r2
        tell p2 at 1 e1
        ask c1 n1 e1 p3 produce 7:0:0 r1
        tell p3 refused
        log r1 r2";
    between_two_known_batches_others_may_stand: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:9 r9
        tell p2 at 5 e1";
    without_a_producer_id_sequences_mean_nothing: "
        ask c1 n1 e1 p1 produce -1:-1:-1 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce -1:-1:-1 r2
        tell p2 at 1 e1
        log r1 r2";
    a_loose_producer_has_no_order: "
        sent r1 loosely
        sent r2 loosely
        ask c9 n1 e1 p1 produce 7:0:0 r2
        ask c9 n1 e1 p2 produce 8:0:0 r1
        tell p1 at 0 e1
        tell p2 at 1 e1
        log r2 r1";
    two_producers_are_not_ordered_with_each_other: "
        sent r5
        sent s1
        ask c1 n1 e1 p1 produce 7:0:0 r5
        ask c2 n1 e1 p2 produce 8:0:0 s1
        tell p2 at 0 e1
        tell p1 at 1 e1
        log s1 r5";
    a_failed_one_is_nowhere: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 refused
        learnt r1 failed
        log";
    the_append_is_stamped: "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1 stamp 90
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1 90
        ask c3 n1 e1 l1 time 85
        tell l1 found 0 time 90 e1
        log r1";
    a_fetch_begins_within_a_batch: "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2,r3
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 2
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1,r2,r3
        log r1 r2 r3";
    a_fetch_at_the_watermark_finds_nothing: "
        ask c3 n1 e1 f1 fetch 5
        tell f1 hw 5 e1";
    a_fetch_above_the_watermark_is_refused: "
        ask c3 n1 e1 f1 fetch 6
        tell f1 out-of-range 0 5";
    what_lies_ahead_is_denied_while_it_is_written: "
        ask c7 n2 e1 f1 fetch 1
        ask c1 n1 e2 p1 produce 7:0:0 r1
        tell p1 at 0 e2
        tell f1 out-of-range 0 0
        log r1";
    fetches_overtake_each_other: "
        ask c3 n1 e1 f1 fetch 4
        ask c4 n1 e1 f2 fetch 5
        tell f2 hw 5 e1
        tell f1 hw 4 e1";
    a_deposed_leader_still_says_its_old_watermark: "
        ask c3 n2 e2 f1 fetch 9
        tell f1 hw 9 e2
        ask c9 n1 e1 f2 fetch 5
        tell f2 hw 5 e1";
    a_new_leader_says_more_than_the_old_one_ever_did: "
        ask c3 n1 e1 f1 fetch 5
        tell f1 hw 5 e1
        ask c3 n2 e2 f2 fetch 9
        tell f2 hw 9 e2";
    another_node_of_the_epoch_learns_later_of_an_ack: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e2
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 0 e2
        @500 ask c3 n2 e2 f2 fetch 0
        tell f2 hw 1 e2 | 0 e1 7:0:0 r1
        log r1";
    the_latest_offset_may_be_behind_what_was_acked_meanwhile: "
        ask c3 n1 e1 l1 latest
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        tell l1 found 0 e1
        log r1";
    a_consumer_seeks_back_and_forth: "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2,r3
        tell p1 at 0 e1
        assign k3 beginning 0
        read k3 0 r1
        read k3 1 r2
        assign k3 offset 0 0
        read k3 0 r1
        assign k3 offset 2 2
        read k3 2 r3
        ask c3 n1 e1 l1 latest
        tell l1 found 3 e1
        assign k3 end 3
        log r1 r2 r3";
    two_consumers_read_at_their_own_pace: "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 at 0 e1
        assign k3 beginning 0
        assign k4 beginning 0
        read k3 0 r1
        read k3 1 r2
        read k4 0 r1
        log r1 r2";
    a_consumer_begins_above_the_watermark: "
        assign k3 offset 9 9";
    a_topic_is_created_again_under_its_name: "
        ask c1 n1 e1 c1 create
        tell c1 topic 1
        topics 1 2 1
        ask c1 n1 e1 d1 delete
        tell d1 deleted
        ask c1 n1 e1 c2 create
        tell c2 topic 2
        topics 2 3 1
        topics 1 2 1";
    a_node_that_lags_behind_tells_of_fewer_partitions: "
        topics 1 2 1
        ask c1 n1 e1 g1 grow 4
        topics 1 4 1
        topics 1 2 1
        tell g1 unknown
        ask c2 n2 e1 g2 grow 5
        tell g2 grown
        topics 1 5 1
        topics 1 2 1
        topics 1 4 1
        holds 7 5
        holds 5 2";
    a_topic_has_grown_before_anybody_heard_of_it: "
        ask c1 n1 e1 g1 grow 4
        tell g1 grown
        topics 1 4 1
        topics 1 2 1";
    an_addition_that_is_refused_changes_nothing: "
        topics 1 4 1
        ask c1 n1 e1 g1 grow 3
        tell g1 refused
        ask c1 n1 e1 g2 grow 4
        tell g2 refused
        topics 1 4 1
        holds 7 4";
    a_topic_that_grew_is_deleted: "
        ask c1 n1 e1 g1 grow 4
        ask c2 n1 e1 d1 delete
        tell g1 grown
        tell d1 deleted
        holds 7 2";
    a_topic_that_grew_is_deleted_before_that_is_told: "
        ask c1 n1 e1 g1 grow 4
        ask c2 n1 e1 d1 delete
        tell d1 deleted
        tell g1 grown
        holds 7 2";
    a_deletion_without_an_answer_may_come_later: "
        ask c1 n1 e1 c1 create
        tell c1 topic 1
        ask c1 n1 e1 d1 delete
        tell d1 unknown
        ask c1 n1 e1 c2 create
        tell c2 topic 2
        ask c1 n1 e1 c3 create
        tell c3 topic 3";
    a_creation_that_waited_for_a_deletion: "
        ask c1 n1 e1 c1 create
        tell c1 topic 1
        ask c2 n2 e1 c2 create
        ask c1 n1 e1 d1 delete
        tell d1 deleted
        tell c2 topic 2";
    the_records_of_a_deleted_topic_are_owed_to_nobody: "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 d1 delete
        tell d1 deleted";
    an_epoch_without_batches: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n3 e4 p2 produce 7:0:1 r2
        tell p2 at 1 e4
        ask c3 n3 e4 f1 fetch 0
        tell f1 hw 2 e4 | 0 e1 7:0:0 r1 | 1 e4 7:0:1 r2
        ask c3 n3 e4 e1 end-of 2
        tell e1 ended 2 1 e4
        ask c3 n3 e4 e2 end-of 3
        tell e2 ended 2 1 e4
        ask c3 n3 e4 e3 end-of 1
        tell e3 ended 1 1 e4
        ask c3 n3 e4 e4 end-of 9
        tell e4 ended 4 2 e4
        log r1 r2";
    what_was_before_the_first_epoch: "
        ask c3 n3 e4 e1 end-of 0
        tell e1 ended none e4";
    the_current_epoch_goes_on_after_its_end_was_told: "
        ask c3 n3 e4 e1 end-of 4
        tell e1 ended 4 0 e4
        ask c1 n3 e4 p1 produce 7:0:0 r1
        tell p1 at 0 e4
        ask c3 n3 e4 f1 fetch 0
        tell f1 hw 1 e4 | 0 e4 7:0:0 r1
        log r1";
    an_epoch_that_came_after_the_answer: "
        ask c9 n1 e1 e1 end-of 3
        tell e1 ended 1 0 e1
        ask c1 n2 e2 p1 produce 7:0:0 r1
        tell p1 at 0 e2
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 1 e2 | 0 e2 7:0:0 r1
        log r1";
    a_node_leads_again_in_a_newer_epoch: "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 0 e1
        ask c3 n2 e2 f2 fetch 0
        tell f2 hw 0 e2
        ask c3 n1 e3 f3 fetch 0
        tell f3 hw 0 e3";
    an_answer_of_an_old_leader_comes_late: "
        ask c9 n1 e1 f1 fetch 0
        ask c3 n1 e3 f2 fetch 0
        tell f2 hw 0 e3
        tell f1 hw 0 e1";
    without_an_epoch_any_leader_answers: "
        ask c9 n1 e-1 f1 fetch 0
        tell f1 hw 0 e3";
    a_lookup_by_time_that_overtook_the_record: "
        ask c3 n1 e1 l1 time 40
        ask c1 n1 e1 p1 produce 7:0:0 r4
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r4
        tell l1 found none e1
        log r4";
    times_that_go_back: "
        ask c1 n1 e1 p1 produce 7:0:0 r9,r4,r7
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1 | 0 e1 7:0:0 r9,r4,r7
        ask c3 n1 e1 l1 time 50
        tell l1 found 0 time 90 e1
        ask c3 n1 e1 l2 time 95
        tell l2 found none e1
        log r9 r4 r7";
    the_first_ack_after_the_mending_comes_in_time: "
        topics 1 2 1
        sent r1
        healed 1 2 3
        @3000 ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        @6000 ask c1 n2 e2 p2 produce 7:0:0 r1
        @7900 tell p2 at 0 e2
        learnt r1 acked 0
        @40000 over";
    a_batch_that_is_too_large_by_now_is_owed_no_ack: "
        topics 1 2 1
        healed 1 2 3
        @2000 ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 too-large
        @9000 over";
    a_part_of_the_nodes_is_whole: "
        topics 1 2 1
        ask c1 n3 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        healed 1 2
        @3000 ask c1 n3 e1 p2 produce 7:0:0 r1
        tell p2 unknown
        @9000 over";
    what_was_sent_after_the_mending_has_its_own_time: "
        topics 1 2 1
        healed 1 2 3
        @30000 sent r1
        @40000 over";
    a_consumer_has_read_more_than_the_scan: "
        log r1
        follows k3 1
        follows k4 2";
    a_fetch_waits_while_nothing_comes_or_at_another_node: "
        healed 1 2 3
        ask c3 n1 e1 f1 fetch 1
        ask c4 n2 e1 f2 fetch 0
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        @4000 tell f1 hw 1 e1
        tell f2 refused
        log r1";
    a_fetch_that_was_given_up_is_answered_by_nobody: "
        healed 1 2 3
        ask c3 n1 e1 f1 fetch 0
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        @4000 ask c3 n1 e1 f2 fetch 0
        tell f2 hw 1 e1 | 0 e1 7:0:0 r1
        log r1";
    a_fetch_of_before_the_mending_takes_its_time: "
        ask c3 n1 e1 f1 fetch 0
        healed 1 2 3
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        @4000 tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        log r1";
}
