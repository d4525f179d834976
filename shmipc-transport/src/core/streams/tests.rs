use proptest::prelude::*;

use super::*;

const WINDOW: Windows = Windows {
    streams_max: 2,
    messages: 4,
    bytes: 100,
};

#[test]
fn ids_are_opened_once_and_by_their_side() {
    let mut table: StreamTable<()> = StreamTable::new(false, 2, 2);
    assert_eq!(table.open_local(Arc::new(())), StreamId(2));
    assert!(matches!(
        table.look_up(StreamId(2), false),
        Ok(Lookup::Open(_))
    ));
    assert!(table.look_up(StreamId(4), true).is_err(), "ours to open");
    assert!(table.look_up(StreamId(0), true).is_err(), "nobody's");
    assert!(matches!(table.look_up(StreamId(1), true), Ok(Lookup::New)));
    assert!(
        table.look_up(StreamId(1), false).is_err(),
        "credit for a stream that does not exist"
    );
    table.open_remote(StreamId(5), Arc::new(())).unwrap();
    assert!(
        matches!(table.look_up(StreamId(3), true), Ok(Lookup::Over)),
        "ids count up"
    );
    table.open_remote(StreamId(7), Arc::new(())).unwrap();
    assert!(
        table.open_remote(StreamId(9), Arc::new(())).is_err(),
        "more than two"
    );
    table.close(StreamId(5));
    assert!(matches!(table.look_up(StreamId(5), true), Ok(Lookup::Over)));
    table.open_remote(StreamId(9), Arc::new(())).unwrap();
}

#[test]
fn the_last_id_of_all_lets_none_be_opened_again() {
    let mut table: StreamTable<()> = StreamTable::new(false, 2, 2);
    let last = StreamId(u64::MAX);
    assert!(matches!(table.look_up(last, true), Ok(Lookup::New)));
    table.open_remote(last, Arc::new(())).unwrap();
    for id in [1, 5, u64::MAX - 2] {
        assert!(matches!(
            table.look_up(StreamId(id), true),
            Ok(Lookup::Over)
        ));
    }
    table.close(last);
    assert!(matches!(table.look_up(last, true), Ok(Lookup::Over)));
}

#[test]
fn a_client_that_opens_all_may_be_heard_of_in_any_order() {
    let mut server: StreamTable<()> = StreamTable::opened_by_client(false, 2);
    assert!(server.is_exhausted(), "hazard H66: servers open none");
    for id in [3, 2] {
        assert!(matches!(
            server.look_up(StreamId(id), true),
            Ok(Lookup::New)
        ));
        server.open_remote(StreamId(id), Arc::new(())).unwrap();
    }
    assert!(server.open_remote(StreamId(4), Arc::new(())).is_err());
    assert!(server.look_up(StreamId(0), true).is_err());
    assert!(matches!(
        server.look_up(StreamId(9), false),
        Ok(Lookup::Over)
    ));
    let mut client: StreamTable<()> = StreamTable::opened_by_client(true, 2);
    let opened = [(); 3].map(|()| client.open_local(Arc::new(())).0);
    assert_eq!(opened, [2, 3, 4]);
    assert!(!client.unopen_local(StreamId(4)), "nobody has to wait");
    assert_eq!(client.open_local(Arc::new(())).0, 4);
    assert!(matches!(
        client.look_up(StreamId(7), true),
        Ok(Lookup::Over)
    ));
}

#[test]
fn a_stream_that_is_not_opened_after_all_leaves_its_place_to_others() {
    let mut client: StreamTable<()> = StreamTable::new(true, 2, 0);
    let first = client.open_local(Arc::new(()));
    assert!(client.may_open());
    let second = client.open_local(Arc::new(()));
    assert!(!client.may_open());
    assert!(client.unopen_local(second), "somebody may have to wait");
    assert!(client.may_open());
    assert!(!client.unopen_local(first), "nobody has to");
    assert_eq!((client.len(), client.opened()), (0, 0));
}

#[test]
fn where_ends_come_late_the_streams_that_follow_are_opened_all_the_same() {
    let mut server: StreamTable<()> = StreamTable::with_short_ids(false, 1, 2);
    let opened = [1, 3, 5, 7].map(|id| server.open_remote(StreamId(id), Arc::new(())));
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert!(server.open_remote(StreamId(9), Arc::new(())).is_err());
    assert!(!server.close(StreamId(1)), "it was none of ours");
    server.open_remote(StreamId(9), Arc::new(())).unwrap();
}

#[test]
fn a_peer_that_has_no_more_to_open_gets_the_place_of_what_is_over() {
    let mut server: StreamTable<bool> = StreamTable::new(false, 1, 2);
    let ours = server.open_local(Arc::new(true));
    server.open_remote(StreamId(1), Arc::new(true)).unwrap();
    server.make_room(|is_over| *is_over);
    assert_eq!(server.len(), 2, "there is room");
    server.open_remote(StreamId(3), Arc::new(false)).unwrap();
    assert!(server.open_remote(StreamId(5), Arc::new(false)).is_err());
    server.make_room(|is_over| *is_over);
    server.open_remote(StreamId(5), Arc::new(false)).unwrap();
    assert!(server.open_remote(StreamId(7), Arc::new(false)).is_err());
    for (id, is_open) in [(ours, true), (StreamId(1), false), (StreamId(3), true)] {
        let found = server.look_up(id, false).unwrap();
        assert_eq!(matches!(found, Lookup::Open(_)), is_open, "{id:?}");
    }
}

#[test]
fn ids_that_were_passed_over_may_still_come_once() {
    let mut table: StreamTable<()> = StreamTable::with_short_ids(false, 8, 4);
    for id in [5, 1, 3] {
        assert!(matches!(table.look_up(StreamId(id), true), Ok(Lookup::New)));
        table.open_remote(StreamId(id), Arc::new(())).unwrap();
        table.close(StreamId(id));
        assert!(matches!(
            table.look_up(StreamId(id), true),
            Ok(Lookup::Over)
        ));
    }
    table.open_remote(StreamId(9), Arc::new(())).unwrap();
    assert!(matches!(
        table.look_up(StreamId(7), false),
        Ok(Lookup::Over)
    ));
    assert!(matches!(table.look_up(StreamId(7), true), Ok(Lookup::New)));
    assert!(
        table
            .open_remote(StreamId(11 + 2 * GAPS_MAX as u64), Arc::new(()))
            .is_err(),
        "more than anybody passes over"
    );
    assert!(table.open_remote(StreamId(u64::MAX), Arc::new(())).is_err());
}

#[test]
fn hazard_h47_c5_what_still_comes_for_a_closed_stream_opens_none() {
    let mut server: StreamTable<()> = StreamTable::opened_by_client(false, 2);
    server.open_remote(StreamId(2), Arc::new(())).unwrap();
    server.close(StreamId(2));
    assert!(matches!(
        server.look_up(StreamId(2), true),
        Ok(Lookup::Over)
    ));
    for id in 3..3 + CLOSED_MAX as u64 {
        server.remember(StreamId(id));
    }
    assert!(
        matches!(server.look_up(StreamId(2), true), Ok(Lookup::New)),
        "some time it is forgotten"
    );
}

#[test]
fn closing_says_when_a_waiting_stream_may_open() {
    let mut table: StreamTable<()> = StreamTable::new(true, 2, 2);
    table.open_local(Arc::new(()));
    assert!(!table.close(StreamId(1)), "nobody had to wait");
    table.open_local(Arc::new(()));
    table.open_local(Arc::new(()));
    assert!(!table.may_open());
    assert!(table.close(StreamId(3)));
    assert!(table.may_open());
}

#[test]
fn impossible_grants_are_refused() {
    let mut credit = SendCredit::new(WINDOW);
    assert!(!credit.grant(1, 0));
    assert!(!credit.grant(0, 1));
    credit.spend(30);
    assert!(!credit.grant(2, 30));
    assert!(!credit.grant(u32::MAX, u32::MAX));
    assert!(credit.grant(1, 30));
}

proptest! {
    /// Sender and receiver agree at every moment: the oracle is a count of what is under way or waits to be taken.
    #[test]
    fn both_sides_count_alike(ops: Vec<(bool, u16)>) {
        let (mut sender, mut receiver) = (SendCredit::new(WINDOW), RecvCredit::new(WINDOW));
        let mut waiting = std::collections::VecDeque::new();
        for (send, len) in ops {
            if send && sender.is_open() {
                sender.spend(u32::from(len));
                prop_assert!(receiver.arrive(usize::from(len)), "what the sender may send the receiver accepts");
                waiting.push_back(usize::from(len));
                prop_assert!(waiting.len() <= 4);
            } else if let Some(len) = waiting.pop_front()
                && let Some((messages, bytes)) = receiver.consume(len)
            {
                prop_assert!(sender.grant(messages, bytes));
            }
        }
        for len in waiting.drain(..) {
            if let Some((messages, bytes)) = receiver.consume(len) {
                prop_assert!(sender.grant(messages, bytes));
            }
        }
        prop_assert!(sender.is_open(), "with nothing under way, the sender is not stuck");
    }
}
