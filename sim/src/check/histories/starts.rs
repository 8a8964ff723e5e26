//! Histories of logs that begin later: retention, deletions, and readers below the log start.

use super::broken;

macro_rules! histories {
    ($($name:ident, [$($promise:literal)?]: $($history:expr),+;)*) => {
        $(#[test] fn $name() {
            let promises: &[&str] = &[$($promise)?];
            assert_eq!(broken(&[$($history),+].join("\n")), promises);
        })*
    };
}

/// Three batches of one record each, of the times 10, 20 and 30, in epoch 1 of node 1.
const THREE: &str = "
    topics 1 2 1
    ask c1 n1 e1 p1 produce 7:0:0 r1
    tell p1 at 0 e1
    ask c1 n1 e1 p2 produce 7:0:1 r2
    tell p2 at 1 e1
    ask c1 n1 e1 p3 produce 7:0:2 r3
    tell p3 at 2 e1";

/// One of the time 5000, which goes, and behind it one of the time 20, which stays.
const LATER_GOES_FIRST: &str = "
    topics 1 2 1
    ask c1 n1 e1 p1 produce 7:0:0 r500
    tell p1 at 0 e1
    ask c1 n1 e1 p2 produce 8:0:0 s2
    tell p2 at 1 e1
    readable n1 0 2
    wall 12000
    @9000 readable n1 1 2";

const DELETED_BEFORE_2: &str = "
    ask c2 n1 e1 d1 delete-records 2
    tell d1 records-deleted 2";

const BYTES_250: &str = "
    ask c1 n1 e1 c1 create bytes=250
    tell c1 topic 1";

const MS_2000: &str = "
    ask c1 n1 e1 c1 create ms=2000
    tell c1 topic 1";

/// One batch of one record without a timestamp, which a leader has appended between the times 3000 and 5000.
const NO_TIMESTAMP: &str = "
    topics 1 2 1
    ask c1 n1 e1 p1 produce 7:0:0 u1
    wall 3000 4500
    tell p1 at 0 e1
    wall 4500 5000";

const NOTHING_KEPT: &str = "
    ask c1 n1 e1 c1 create ms=0
    tell c1 topic 1";

histories! {
    so_many_bytes_are_behind_a_batch_that_it_may_go, []: BYTES_250, THREE, "
        ask c1 n1 e1 p4 produce 7:0:3 r4
        tell p4 at 3 e1
        readable n1 1 4
        log-from 1 r2 r3 r4";
    what_has_no_answer_may_be_behind_it, []: BYTES_250, THREE, "
        ask c1 n1 e1 p4 produce 7:0:3 r4
        readable n1 1 4";
    a_batch_goes_that_still_counts, ["O-14"]: BYTES_250, THREE, "
        readable n1 1 3";
    a_batch_is_old_enough_to_go, []: MS_2000, THREE, "
        wall 2011
        readable n1 1 3";
    a_batch_goes_before_its_time, ["O-14"]: MS_2000, THREE, "
        wall 2010
        readable n1 1 3";
    the_next_one_goes_before_its_time, ["O-14"]: MS_2000, THREE, "
        wall 2011
        readable n1 2 3";
    a_setting_is_tightened_and_loosened, []: MS_2000, THREE, "
        ask c2 n1 e1 g1 configure ms=500
        tell g1 configured
        ask c2 n1 e1 g2 configure ms=-1
        tell g2 configured
        readable n1 1 3";
    a_setting_is_loosened_and_not_heard_of, []: MS_2000, THREE, "
        ask c2 n1 e1 g1 configure ms=-1
        tell g1 configured
        wall 2011
        readable n1 1 3";
    without_a_bound_nothing_goes, ["O-14"]: "
        ask c1 n1 e1 c1 create ms=-1
        tell c1 topic 1", THREE, "
        wall 9000000000000
        readable n1 1 3";
    a_week_is_the_default, ["O-14"]: THREE, "
        wall 604800010
        readable n1 1 3";
    after_a_week_it_may_go, []: THREE, "
        wall 604800011
        readable n1 1 3";
    a_batch_without_a_timestamp_goes_at_once, ["O-14"]: NO_TIMESTAMP, "
        readable n1 1 1";
    a_batch_without_a_timestamp_goes_before_its_time, ["O-14"]: MS_2000, NO_TIMESTAMP, "
        wall 5000
        readable n1 1 1";
    a_batch_without_a_timestamp_was_appended_long_enough_ago, []: MS_2000, NO_TIMESTAMP, "
        wall 5001
        readable n1 1 1";
    a_clock_went_back_when_it_had_long_been_appended, ["O-14"]: MS_2000, NO_TIMESTAMP, "
        wall 10 5000
        readable n1 1 1";
    a_clock_had_gone_back_before_it_was_sent, ["O-14"]: MS_2000, "
        wall 10 1000", NO_TIMESTAMP, "
        wall 5000
        readable n1 1 1";
    a_clock_went_back_while_it_was_appended, []: MS_2000, "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 u1
        wall 10 5000
        tell p1 at 0 e1
        readable n1 1 1";
    a_batch_without_a_timestamp_goes_and_its_answer_comes_later, ["O-14"]: MS_2000, "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 u1
        wall 4000 5000
        readable n1 1 1
        wall 9000
        tell p1 at 0 e1";
    a_batch_without_a_timestamp_is_kept_for_a_week, ["O-14"]: NO_TIMESTAMP, "
        wall 604803000
        readable n1 1 1";
    a_batch_without_a_timestamp_is_kept_for_no_more_than_a_week, []: NO_TIMESTAMP, "
        wall 604803001
        readable n1 1 1";
    one_without_a_timestamp_keeps_what_is_behind_it, ["O-14"]: MS_2000, NO_TIMESTAMP, "
        ask c1 n1 e1 p2 produce 7:0:1 r2
        tell p2 at 1 e1
        readable n1 2 2";
    one_without_a_timestamp_among_others_changes_nothing, []: MS_2000, "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 u1,r2,u3
        tell p1 at 0 e1
        wall 2021
        readable n1 3 3";
    a_batch_without_a_timestamp_is_deleted_as_asked, []: NO_TIMESTAMP, "
        ask c2 n1 e1 d1 delete-records 1
        tell d1 records-deleted 1
        readable n1 1 1";
    nothing_is_kept, []: NOTHING_KEPT, THREE, "
        readable n1 3 3
        log-from 3";
    a_part_of_a_batch_is_kept, ["O-14"]: NOTHING_KEPT, "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2,r3
        tell p1 at 0 e1
        readable n1 2 3";
    a_part_of_a_batch_is_deleted, []: "
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2,r3
        tell p1 at 0 e1
        ask c2 n1 e1 d1 delete-records 2
        tell d1 records-deleted 2
        readable n1 2 3
        ask c3 n1 e1 f1 fetch 2
        tell f1 hw 3 e1 from 2 | 0 e1 7:0:0 r1,r2,r3
        log-from 2 r3";
    more_is_deleted_than_was_asked_for, ["O-14"]: THREE, DELETED_BEFORE_2, "
        readable n1 3 3";
    a_deletion_without_an_answer_comes_later, []: THREE, "
        ask c2 n1 e1 d1 delete-records 2
        tell d1 unknown
        readable n1 2 3";
    all_is_deleted, []: THREE, "
        ask c2 n1 e1 d1 delete-records all
        readable n1 3 3
        tell d1 records-deleted 3
        log-from 3";
    all_was_to_be_deleted_and_that_was_refused, ["O-14"]: THREE, "
        ask c2 n1 e1 d1 delete-records all
        tell d1 refused
        readable n1 3 3";
    what_came_after_it_is_deleted_with_it, ["O-14"]: THREE, "
        ask c2 n1 e1 d1 delete-records all
        readable n1 3 3
        tell d1 records-deleted 3
        ask c1 n1 e1 p4 produce 7:0:3 r4
        tell p4 at 3 e1
        readable n1 4 4";
    less_is_deleted_than_is_said, ["O-14"]: THREE, "
        ask c2 n1 e1 d1 delete-records 2
        tell d1 records-deleted 1";
    a_log_starts_behind_its_end, ["O-14"]: "
        readable n1 7 5";
    it_is_said_to_start_behind_its_end, ["O-14"]: "
        ask c3 n1 e1 f1 fetch 9
        tell f1 out-of-range 7 5";
    records_go_that_nobody_has_sent, ["O-14"]: "
        readable n1 3 3";
    a_record_without_an_answer_goes, []: NOTHING_KEPT, "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        readable n1 1 1
        tell p1 at 0 e1";
    a_record_goes_whose_answer_comes_later, ["O-14"]: BYTES_250, "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        readable n1 1 1
        tell p1 at 0 e1";
    nobody_holds_what_is_said, ["O-14"]: THREE, DELETED_BEFORE_2, "
        readable n1 0 3";
    the_last_reader_begins_too_late, ["O-14"]: THREE, "
        log-from 1 r2 r3";

    a_log_start_falls_within_an_epoch, ["O-14"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 f1 fetch 2
        tell f1 hw 3 e1 from 2 | 2 e1 7:0:2 r3
        ask c3 n1 e1 f2 fetch 2
        tell f2 hw 3 e1 from 1 | 2 e1 7:0:2 r3";
    a_log_start_falls_with_the_leader, ["O-14"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 f1 fetch 2
        tell f1 hw 3 e1 from 2 | 2 e1 7:0:2 r3
        ask c3 n2 e2 f2 fetch 2
        tell f2 hw 3 e2 from 0 | 2 e1 7:0:2 r3";
    an_earlier_leader_had_a_later_start, ["O-14"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 f1 fetch 2
        ask c4 n2 e2 f2 fetch 2
        tell f2 hw 3 e2 from 0 | 2 e1 7:0:2 r3
        tell f1 hw 3 e1 from 2 | 2 e1 7:0:2 r3";
    what_was_deleted_is_back_on_that_node, ["O-14"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 f1 fetch 2
        tell f1 hw 3 e1 from 1 | 2 e1 7:0:2 r3";
    a_deposed_leader_knows_an_older_start, []: THREE, "
        ask c2 n2 e2 d1 delete-records 2
        tell d1 records-deleted 2
        ask c3 n2 e2 f1 fetch 2
        tell f1 hw 3 e2 from 2 | 2 e1 7:0:2 r3
        ask c9 n1 e1 f2 fetch 1
        tell f2 hw 3 e1 | 1 e1 7:0:1 r2 | 2 e1 7:0:2 r3";
    fetches_that_overtake_a_deletion, []: THREE, "
        ask c3 n1 e1 f1 fetch 0
        ask c2 n1 e1 d1 delete-records 2
        tell d1 records-deleted 2
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1 | 1 e1 7:0:1 r2 | 2 e1 7:0:2 r3";
    a_replicas_start_falls, ["O-14"]: THREE, DELETED_BEFORE_2, "
        readable n1 2 3
        readable n1 0 3";
    a_replica_that_is_started_again_applies_once_more, []: THREE, DELETED_BEFORE_2, "
        readable n1 2 3 at 6
        restarted n1 emptied
        readable n1 0 3 at 5
        readable n1 2 3 at 6";
    a_start_falls_after_it_was_started_again, ["O-14"]: THREE, DELETED_BEFORE_2, "
        restarted n1
        readable n1 2 3 at 6
        readable n1 0 3 at 5";
    replicas_apply_at_their_own_pace, []: THREE, DELETED_BEFORE_2, "
        readable n1 2 3 at 6
        readable n2 0 3 at 5
        readable n2 2 3 at 6
        readable n3 2 3 at 9";
    a_start_rises_on_one_replica_alone, ["O-14"]: THREE, DELETED_BEFORE_2, "
        readable n1 2 3 at 6
        readable n2 0 3 at 7";
    a_start_rose_on_one_replica_alone, ["O-14"]: THREE, DELETED_BEFORE_2, "
        readable n2 0 3 at 7
        readable n1 2 3 at 6";
    what_lies_below_the_start_is_served, ["O-14"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 f1 fetch 1
        tell f1 hw 3 e1 from 2 | 1 e1 7:0:1 r2 | 2 e1 7:0:2 r3";

    what_has_expired_stays, ["O-29"]: MS_2000, THREE, "
        readable n1 0 3
        @9000 settled 7010";
    it_may_stay_for_a_moment, []: MS_2000, THREE, "
        readable n1 0 3
        @9000 settled 7009";
    it_may_stay_where_a_clock_is_behind, []: MS_2000, THREE, "
        wall 9000
        readable n1 0 3
        @9000 settled 20";
    an_older_batch_held_it_until_just_now, []: MS_2000, LATER_GOES_FIRST, "
        settled 11999";
    it_stays_long_after_the_older_one_went, ["O-29"]: MS_2000, LATER_GOES_FIRST, "
        @14000 settled 11999";
    it_stays_and_the_older_one_had_expired_long_ago, ["O-29"]: MS_2000, LATER_GOES_FIRST, "
        settled 12000";
    what_has_no_timestamp_stays_too_long, ["O-29"]: MS_2000, NO_TIMESTAMP, "
        readable n1 0 1
        @9000 settled 12000";
    what_has_no_timestamp_may_stay_for_a_moment, []: MS_2000, NO_TIMESTAMP, "
        readable n1 0 1
        @9000 settled 11999";
    its_leaders_clock_may_have_been_ahead, []: MS_2000, "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 u1
        tell p1 at 0 e1
        wall 3000 20000
        readable n1 0 1
        @9000 settled 26999";
    a_clock_that_went_ahead_later_has_not_stamped_it, ["O-29"]: MS_2000, NO_TIMESTAMP, "
        wall 20000
        readable n1 0 1
        @9000 settled 12000";
    nobody_has_seen_when_it_was_appended, []: MS_2000, "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 u1
        tell p1 at 0 e1
        readable n1 0 1
        @9000 settled 900000";
    a_leader_hears_of_a_setting_in_a_moment, []: THREE, "
        ask c2 n1 e1 g1 configure ms=2000
        @8000 tell g1 configured
        readable n1 0 3
        @9000 settled 9000";
    a_leader_has_long_heard_of_a_setting, ["O-29"]: THREE, "
        ask c2 n1 e1 g1 configure ms=2000
        tell g1 configured
        readable n1 0 3
        @9000 settled 9000";
    nobody_knows_what_is_in_force, []: THREE, "
        ask c2 n1 e1 g1 configure ms=2000
        tell g1 unknown
        readable n1 0 3
        @9000 settled 9000";

    a_reader_below_the_start_is_told_and_goes_on_there, []: THREE, DELETED_BEFORE_2, "
        assign k3 beginning 0
        read k3 0 r1
        ask c3 n1 e1 f1 fetch 1
        tell f1 out-of-range 2 3
        ask c3 n1 e1 l1 earliest
        tell l1 found 2 e1
        assign k3 beginning 2
        read k3 2 r3
        log-from 2 r3";
    a_reader_goes_on_there_by_itself, []: THREE, DELETED_BEFORE_2, "
        assign k3 resetting 0
        read k3 0 r1
        ask c3 n1 e1 f1 fetch 1
        tell f1 out-of-range 2 3
        read k3 2 r3";
    a_reader_skips_what_was_deleted_and_says_nothing, ["O-16"]: THREE, DELETED_BEFORE_2, "
        assign k3 beginning 0
        read k3 0 r1
        ask c3 n1 e1 f1 fetch 1
        tell f1 out-of-range 2 3
        read k3 2 r3";
    a_reader_skips_what_nobody_told_it_was_deleted, ["O-16"]: THREE, "
        assign k3 resetting 0
        read k3 0 r1
        read k3 2 r3";
    a_reader_begins_behind_the_log_start, ["O-16"]: THREE, DELETED_BEFORE_2, "
        ask c3 n1 e1 l1 earliest
        tell l1 found 2 e1
        assign k3 beginning 3";
    a_reader_takes_the_end_for_the_beginning, ["O-16"]: THREE, "
        ask c3 n1 e1 l1 latest
        tell l1 found 3 e1
        assign k3 beginning 3";

    an_acked_record_above_the_start_is_gone, ["O-11"]: THREE, DELETED_BEFORE_2, "
        log-from 2";
    an_acked_record_above_the_start_is_replaced, ["O-11"]: THREE, DELETED_BEFORE_2, "
        log-from 2 s1";
    a_record_that_was_read_is_replaced_above_the_start, ["O-17"]: "
        topics 1 2 1
        ask c1 n1 e1 p1 produce 7:0:0 r1,r2
        tell p1 unknown
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 2 e1 | 0 e1 7:0:0 r1,r2
        ask c2 n1 e1 d1 delete-records 1
        tell d1 records-deleted 1
        log-from 1 s1";
    the_scan_has_a_gap_behind_the_start, ["O-14"]: "
        ask c2 n1 e1 d1 delete-records 4
        tell d1 records-deleted 4
        log-from 4
        log-at 5 r5";
    a_batch_is_known_again_though_its_first_copy_is_deleted, []: THREE, "
        ask c2 n1 e1 d1 delete-records 3
        tell d1 records-deleted 3
        ask c1 n2 e2 p4 produce 7:0:2 r3
        tell p4 at 2 e2
        log-from 3";
    a_batch_stands_again_for_its_first_copy_was_deleted, ["O-13"]: THREE, "
        ask c2 n1 e1 d1 delete-records 3
        tell d1 records-deleted 3
        ask c1 n2 e2 p4 produce 7:0:0 r1
        tell p4 at 3 e2";

    an_epoch_below_the_start_is_forgotten, []: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n3 e3 p2 produce 7:0:1 r2
        tell p2 at 1 e3
        ask c3 n3 e3 f1 fetch 0
        tell f1 hw 2 e3 | 0 e1 7:0:0 r1 | 1 e3 7:0:1 r2
        ask c2 n3 e3 d1 delete-records 1
        tell d1 records-deleted 1
        ask c3 n3 e3 e1 end-of 2
        tell e1 ended none e3";
    an_epoch_below_the_start_ended_where_the_oldest_begins, []: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n2 e2 p2 produce 7:0:1 r2
        tell p2 at 1 e2
        ask c1 n3 e3 p3 produce 7:0:2 r3
        tell p3 at 2 e3
        ask c3 n3 e3 f1 fetch 0
        tell f1 hw 3 e3 | 0 e1 7:0:0 r1 | 1 e2 7:0:1 r2 | 2 e3 7:0:2 r3
        ask c2 n3 e3 d1 delete-records 2
        tell d1 records-deleted 2
        ask c3 n3 e3 e1 end-of 1
        tell e1 ended 1 2 e3";
    an_epoch_above_the_start_is_forgotten, ["O-18"]: "
        ask c1 n1 e1 p1 produce 7:0:0 r1
        tell p1 at 0 e1
        ask c1 n2 e2 p2 produce 7:0:1 r2
        tell p2 at 1 e2
        ask c1 n3 e3 p3 produce 7:0:2 r3
        tell p3 at 2 e3
        ask c3 n3 e3 f1 fetch 0
        tell f1 hw 3 e3 | 0 e1 7:0:0 r1 | 1 e2 7:0:1 r2 | 2 e3 7:0:2 r3
        ask c2 n3 e3 d1 delete-records 1
        tell d1 records-deleted 1
        ask c3 n3 e3 e1 end-of 2
        tell e1 ended none e3";
    a_lookup_by_time_finds_the_first_that_is_left, []: THREE, "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1 | 1 e1 7:0:1 r2 | 2 e1 7:0:2 r3", DELETED_BEFORE_2, "
        ask c3 n1 e1 l1 time 5
        tell l1 found 2 time 30 e1";
    a_lookup_by_time_misses_one_above_the_start, ["lookup"]: THREE, "
        ask c3 n1 e1 f1 fetch 0
        tell f1 hw 3 e1 | 0 e1 7:0:0 r1 | 1 e1 7:0:1 r2 | 2 e1 7:0:2 r3
        ask c2 n1 e1 d1 delete-records 1
        tell d1 records-deleted 1
        ask c3 n1 e1 l1 time 5
        tell l1 found 2 time 30 e1";
}
