//! Bad histories, each with the promise that it breaks.

use super::broken;

macro_rules! bad {
    ($($name:ident, $promise:literal: $history:literal;)*) => {
        $(#[test] fn $name() { assert_eq!(broken($history), [$promise]); })*
    };
}

bad! {
    an_acked_record_is_gone, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        log";
    an_acked_record_is_replaced, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        log s1";
    an_acked_record_stands_elsewhere, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 at 0 e1
        log r2 r1";
    two_records_are_acked_at_one_offset, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c2 n2 e2 p2 produce 8:0:0 s1
        tell p1 at 0 e1
        tell p2 at 0 e2";
    an_ack_lies_within_another_batch, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2,r3
        ask c2 n2 e2 p2 produce 8:0:0 s1
        tell p1 at 0 e1
        tell p2 at 2 e2";
    a_fetch_shows_something_else_than_was_acked, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c2 n1 e1 p2 produce 8:0:0 s1
        tell p1 at 0 e1
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 1 e2 | 0 e2 8:0:0 s1";
    something_is_acked_where_a_fetch_showed_another, "O-11": "
        ask c2 n1 e1 p2 produce 8:0:0 s1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 8:0:0 s1
        ask c1 n2 e2 p1 produce 7:0:0 r1
        tell p1 at 0 e2";
    the_sdk_makes_up_an_offset, "O-11": "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        learnt r1 acked 3";
    the_sdk_makes_up_an_ack, "O-11": "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        learnt r1 acked 0";
    the_time_of_the_append_changes, "O-11": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1 stamp 90
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1 95";

    nobody_sent_it, "O-12": "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 8:0:0 s1";
    a_foreign_record, "O-12": "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 8:0:0 foreign";
    its_bytes_have_changed, "O-12": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1!";
    each_try_was_refused_and_it_appears, "O-12": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 refused
        ask c1 n2 e1 p2 produce 7:0:0 r1
        tell p2 unreached
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1";
    it_appears_and_then_it_is_refused, "O-12": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        tell p1 refused";
    its_producer_says_that_it_failed, "O-12": "
        sent r1
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        learnt r1 failed
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1";
    a_producers_records_are_swapped, "O-12": "
        sent r1
        sent r2
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 8:0:0 r2
        tell p1 at 1 e1
        tell p2 at 0 e1";
    an_unknown_one_comes_late_behind_one_that_did_not_wait_for_it, "O-12": "
        sent r1
        sent r2
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 8:0:0 r2
        tell p2 at 0 e1
        tell p1 unknown
        learnt r1 unknown
        ask c3 n1 e1 f1 fetch 1
        tell f1 hw 2 e1 | 1 e1 7:0:0 r1";

    a_retry_is_acked_at_another_offset, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n2 e2 p2 produce 7:0:0 r1
        tell p2 at 1 e2";
    a_batch_is_fetched_twice, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 2 e1 | 0 e1 7:0:0 r1 | 1 e1 7:0:0 r1";
    a_record_stands_twice_under_two_producer_ids, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 8:0:0 r1
        tell p2 at 1 e1";
    a_sequence_is_skipped, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:5 r2
        tell p2 at 1 e1";
    sequences_are_swapped, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        tell p1 at 1 e1
        tell p2 at 0 e1";
    a_retry_of_a_recent_batch_comes_too_late, "O-13": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        tell p2 at 1 e1
        ask c1 n1 e1 p3 produce 7:0:0 r1
        tell p3 too-late";
    a_zombie_writes_behind_its_successor, "O-13": "
        ask c1 n1 e1 p1 produce 7:1:0 r1
        tell p1 at 0 e1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        tell p2 at 1 e1";
    a_producer_id_is_given_twice, "O-13": "
        ask c1 n1 e1 i1 producer
        tell i1 id 7
        ask c2 n1 e1 i2 producer
        tell i2 id 7";

    a_fetch_has_a_gap, "O-14": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1 | 2 e1 7:0:1 r2";
    a_fetch_begins_behind_what_was_asked_for, "O-14": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1 | 1 e1 7:0:0 r1";
    a_fetch_ends_before_what_was_asked_for, "O-14": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 1
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1";
    nothing_is_returned_below_the_watermark, "O-14": "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1";
    the_log_has_a_gap, "O-14": "
        log-at 0 r1
        log-at 2 r2";
    the_log_starts_late, "O-14": "
        ask c3 n1 e1 l1 earliest
        tell l1 found 3 e1";

    a_deposed_leader_denies_what_lies_ahead, "O-15": "
        ask c1 n1 e2 p1 produce 7:0:0 r1
        tell p1 at 0 e2
        ask c7 n2 e1 f1 fetch 1
        tell f1 out-of-range 0 0";
    the_watermark_falls_within_an_epoch, "O-15": "
        ask c3 n1 e1 f1 fetch 5
        tell f1 hw 5 e1
        ask c4 n1 e1 f2 fetch 4
        tell f2 hw 4 e1";
    a_later_epoch_begins_below_an_earlier_one, "O-15": "
        ask c3 n1 e1 f1 fetch 5
        ask c4 n2 e2 f2 fetch 4
        tell f1 hw 5 e1
        tell f2 hw 4 e2";
    an_earlier_epoch_says_more_than_a_later_one_did, "O-15": "
        ask c4 n2 e2 f2 fetch 4
        tell f2 hw 4 e2
        ask c3 n1 e1 f1 fetch 5
        tell f1 hw 5 e1";
    the_latest_offset_is_behind_an_ack, "O-15": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c3 n1 e1 l1 latest
        tell l1 found 0 e1";
    a_deposed_leader_tells_the_latest_offset, "O-15": "
        ask c3 n2 e2 f1 fetch 9
        tell f1 hw 9 e2
        ask c4 n1 e1 l1 latest
        tell l1 found 5 e1";
    what_an_epoch_ended_with_falls, "O-15": "
        ask c3 n1 e2 e1 end-of 2
        tell e1 ended 2 9 e2
        ask c3 n1 e2 f1 fetch 5
        tell f1 hw 5 e2";
    the_log_ends_below_the_watermark, "O-15": "
        ask c3 n1 e1 f1 fetch 5
        tell f1 hw 5 e1
        log r1 r2 r3";
    a_node_forgets_what_it_acked, "O-15": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 0 e1";
    a_consumer_goes_back_to_an_older_leader, "O-15": "
        ask c3 n2 e2 f1 fetch 0
        tell f1 hw 0 e2
        ask c3 n1 e1 f2 fetch 0
        tell f2 refused";

    a_consumer_skips_a_record, "O-16": "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 at 0 e1
        assign k3 beginning 0
        read k3 1 r2";
    a_consumer_reads_a_record_twice, "O-16": "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 at 0 e1
        assign k3 beginning 0
        read k3 0 r1
        read k3 0 r1";
    a_consumer_reads_something_else, "O-16": "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 at 0 e1
        assign k3 beginning 0
        read k3 0 s1";
    a_consumer_begins_behind_the_beginning, "O-16": "
        assign k3 beginning 1";
    a_consumer_begins_elsewhere_than_it_was_told_to, "O-16": "
        assign k3 offset 5 6";
    a_consumer_makes_up_where_the_end_is, "O-16": "
        ask c3 n1 e1 l1 latest
        tell l1 found 5 e1
        assign k3 end 6";
    a_consumer_reads_what_it_was_not_given, "O-16": "
        topics 1 2 1
        read k3 0 r1";

    a_fetch_goes_past_the_watermark, "O-17": "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1,r2";
    what_was_fetched_changes, "O-17": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c2 n2 e2 p2 produce 8:0:0 s1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        ask c3 n2 e2 f2 fetch 0
        tell f2 hw 1 e2 | 0 e2 8:0:0 s1";
    what_was_fetched_is_replaced_at_the_end, "O-17": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        log s1";

    an_old_epoch_is_served, "O-18": "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 0 e2";
    an_epoch_that_is_not_yet_is_served, "O-18": "
        ask c3 n1 e3 l1 latest
        tell l1 found 0 e2";
    an_epoch_has_two_leaders, "O-18": "
        ask c3 n1 e2 f1 fetch 0
        tell f1 hw 0 e2
        ask c3 n2 e2 f2 fetch 0
        tell f2 hw 0 e2";
    a_node_leads_in_an_older_epoch_again, "O-18": "
        ask c3 n1 e2 f1 fetch 0
        tell f1 hw 0 e2
        ask c9 n1 e1 f2 fetch 0
        tell f2 hw 0 e1";
    epochs_fall_along_the_log, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        ask c3 n1 e3 f1 fetch 0
        tell f1 hw 2 e3 | 0 e3 7:0:0 r1 | 1 e2 7:0:1 r2";
    a_batch_changes_its_epoch, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e3 f1 fetch 0
        tell f1 hw 1 e3 | 0 e2 7:0:0 r1
        ask c3 n1 e3 f2 fetch 0
        tell f2 hw 1 e3 | 0 e3 7:0:0 r1";
    a_batch_is_of_an_epoch_to_come, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e2 f1 fetch 0
        tell f1 hw 1 e2 | 0 e3 7:0:0 r1";
    an_epoch_ended_earlier_than_is_said, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c1 n1 e1 p2 produce 7:0:1 r2
        ask c3 n1 e3 f1 fetch 0
        tell f1 hw 2 e3 | 0 e2 7:0:0 r1 | 1 e3 7:0:1 r2
        ask c3 n1 e3 e1 end-of 2
        tell e1 ended 2 2 e3";
    an_epoch_ended_later_than_is_said, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e3 e1 end-of 2
        tell e1 ended 2 0 e3
        ask c3 n1 e3 f1 fetch 0
        tell f1 hw 1 e3 | 0 e2 7:0:0 r1";
    a_later_epoch_than_asked_for_is_told, "O-18": "
        ask c3 n1 e3 e1 end-of 1
        tell e1 ended 2 0 e3";
    an_epoch_with_batches_is_said_not_to_be, "O-18": "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        ask c3 n1 e3 f1 fetch 0
        tell f1 hw 1 e3 | 0 e2 7:0:0 r1
        ask c3 n1 e3 e1 end-of 2
        tell e1 ended none e3";

    an_id_gets_another_name, "metadata": "
        topics 1 2 1
        topics 1 2 2";
    a_topic_loses_a_partition, "metadata": "
        topics 1 2 1
        topics 1 1 1";
    a_topic_grows_though_nobody_asked, "metadata": "
        topics 1 2 1
        topics 1 3 1";
    a_topic_grows_to_another_number_than_was_asked_for, "metadata": "
        topics 1 2 1
        ask c1 n1 e1 g1 grow 4
        tell g1 grown
        topics 1 3 1";
    a_topic_shrinks_to_a_number_that_was_asked_for, "metadata": "
        topics 1 4 1
        ask c1 n1 e1 g1 grow 3
        tell g1 refused
        topics 1 3 1";
    partitions_that_were_added_are_nowhere, "metadata": "
        ask c1 n1 e1 g1 grow 4
        tell g1 grown
        holds 9 2";
    partitions_are_lost_though_nobody_was_told_of_them, "metadata": "
        ask c1 n1 e1 g1 grow 4
        tell g1 unknown
        holds 7 4
        holds 9 2";
    a_name_is_given_twice, "metadata": "
        ask c1 n1 e1 c1 create
        tell c1 topic 1
        ask c1 n1 e1 c2 create
        tell c2 topic 2";
    an_id_is_created_twice, "metadata": "
        ask c1 n1 e1 c1 create
        tell c1 topic 1
        ask c1 n1 e1 d1 delete
        tell d1 deleted
        ask c1 n1 e1 c2 create
        tell c2 topic 1";

    a_lookup_by_time_misses_a_record, "lookup": "
        ask c1 n1 e1 p1 produce 7:0:0 r4,r5
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 2 e1 | 0 e1 7:0:0 r4,r5
        ask c3 n1 e1 l1 time 40
        tell l1 found 1 time 50 e1";
    a_lookup_by_time_finds_nothing_where_there_was_something, "lookup": "
        ask c1 n1 e1 p1 produce 7:0:0 r4,r5
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 2 e1 | 0 e1 7:0:0 r4,r5
        ask c3 n1 e1 l1 time 45
        tell l1 found none e1";
    a_lookup_by_time_tells_another_time, "lookup": "
        ask c1 n1 e1 p1 produce 7:0:0 r4,r5
        tell p1 at 0 e1
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 2 e1 | 0 e1 7:0:0 r4,r5
        ask c3 n1 e1 l1 time 30
        tell l1 found 0 time 50 e1";

    an_answer_is_garbled, "O-22": "
        ask c3 n1 e1 f1 fetch 0
        tell f1 garbled";

    nothing_is_acked_after_the_mending, "O-27": "
        topics 1 2 1
        healed 1 2 3
        @2000 ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 unknown
        @9000 over";
    nothing_is_acked_after_one_that_was_too_large, "O-27": "
        topics 1 2 1
        healed 1 2 3
        @2000 ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 too-large
        @3000 ask c1 n1 e1 p2 produce 7:0:0 r2
        tell p2 unknown
        @9000 over";
    the_first_ack_after_the_mending_is_late, "O-27": "
        topics 1 2 1
        healed 1 2 3
        @2000 ask c1 n1 e1 p1 produce 7:0:0 r1
        @9000 tell p1 at 0 e1";
    an_outcome_never_comes, "O-27": "
        sent r1
        healed 1 2 3
        @40000 over";
    an_outcome_comes_too_late, "O-27": "
        sent r1
        healed 1 2 3
        @40000 learnt r1 unknown";
    a_consumer_never_comes_to_the_end, "O-27": "
        log r1 r2
        follows k3 1";
    a_consumer_is_not_told_that_its_topic_is_gone, "O-27": "
        follows k3 0";
    a_waiting_fetch_is_not_woken, "O-27": "
        healed 1 2 3
        ask c3 n1 e1 f1 fetch 0
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        @4000 tell f1 hw 1 e1 | 0 e1 7:0:0 r1
        log r1";
}
