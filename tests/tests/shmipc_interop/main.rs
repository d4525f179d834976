//! The protocol of shmipc between implementations of it, each in a process of its own: every mode that both sides have, with every scenario.
//!
//! What a program is told, and how, is described in `tests::interop`. To add an implementation, implement
//! `tests::interop::implementation::Implementation` for it, name it in [`pair::Who`], and its pairs below. What is known not to work between two
//! of them is listed in [`known`], with the reason.
//!
//! Tests with shmipc-go are skipped where `go` is not installed, unless `SHMIPC_GO` is set: to the `go` to use.

mod best;
mod known;
mod pair;
mod restart;
mod scenarios;
mod untold;

/// Makes one test of each scenario for each mode of each pair: of a client and a server.
macro_rules! run_all_scenarios_between {
    ($($name:ident: $client:ident => $server:ident { $($module:ident: $mode:ident,)* })*) => {
        $(mod $name {
            $(mod $module {
                crate::tests_of_scenarios! { crate::pair::Pair {
                    client: crate::pair::Who::$client,
                    server: crate::pair::Who::$server,
                    net: crate::pair::Net::Unix,
                    mode: tests::interop::setting::Mode::$mode,
                } }
            })*
        })*
    };
}

/// Makes a few tests for each mode of each pair.
macro_rules! run_a_choice_of_scenarios {
    ($scenarios:tt over $net:ident: $($name:ident: $client:ident => $server:ident { $($module:ident: $mode:ident,)* })*) => {
        $(mod $name {
            $(mod $module {
                crate::tests_of_scenarios! {
                    crate::pair::Pair {
                        client: crate::pair::Who::$client,
                        server: crate::pair::Who::$server,
                        net: crate::pair::Net::$net,
                        mode: tests::interop::setting::Mode::$mode,
                    };
                    $scenarios
                }
            })*
        })*
    };
}

/// Makes one test of each scenario for a pair.
macro_rules! tests_of_scenarios {
    ($pair:expr) => {
        crate::tests_of_scenarios! {
            $pair;
            messages_of_every_size_arrive,
            messages_over_many_slices_arrive,
            messages_written_and_read_in_pieces_arrive,
            many_streams_share_a_session,
            many_messages_are_under_way_at_once,
            a_full_queue_loses_nothing,
            one_message_is_answered_by_many,
            who_sleeps_is_woken,
            streams_are_reused,
            sessions_share_the_streams,
            the_client_closes,
            the_server_closes,
            messages_without_memory_go_over_the_socket,
            a_stream_is_closed_behind_what_went_over_the_socket,
            memory_that_runs_short_now_and_then_changes_nothing,
            two_clients_do_not_disturb_each_other,
            a_client_learns_that_its_server_left,
            a_client_learns_that_its_server_was_killed,
            a_server_learns_that_its_client_left,
            a_server_learns_that_its_client_was_killed,
            no_named_memory_is_left_behind,
            clients_follow_a_server_that_restarts,
        }
    };
    ($pair:expr; [$($scenario:ident,)*]) => {
        crate::tests_of_scenarios! { $pair; $($scenario,)* }
    };
    ($pair:expr; $($scenario:ident,)*) => {
        $(
            #[test]
            fn $scenario() {
                crate::pair::play(&$pair, stringify!($scenario), crate::scenarios::$scenario);
            }
        )*
    };
}
use tests_of_scenarios;

run_all_scenarios_between! {
    ours_to_ours: Ours => Ours {
        v2: V2,
        v3: V3,
        v3_file: V3File,
        v4: V4,
        v4_file: V4File,
        v4_eventfd: V4Eventfd,
        v4_polling: V4Polling,
    }
    ours_to_crate: Ours => Crate {
        v2: V2,
        v3: V3,
        v3_file: V3File,
        v4: V4,
        v4_file: V4File,
        v4_eventfd: V4Eventfd,
        v4_polling: V4Polling,
    }
    crate_to_ours: Crate => Ours {
        v2: V2,
        v3: V3,
        v4: V4,
        v4_file: V4File,
        v4_eventfd: V4Eventfd,
        v4_polling: V4Polling,
    }
    ours_to_go: Ours => Go {
        v2: V2,
        v3: V3,
        v3_file: V3File,
    }
    go_to_ours: Go => Ours {
        v2: V2,
        v3: V3,
    }
    // Among themselves: that the scenarios ask for nothing but the protocol.
    crate_to_crate: Crate => Crate {
        v3: V3,
        v4_eventfd: V4Eventfd,
    }
    go_to_go: Go => Go {
        v3: V3,
    }
}

run_a_choice_of_scenarios! {
    [
        a_bit_of_everything_works,
        messages_without_memory_go_over_the_socket,
    ]
    over Unix:
    crate_to_crate_in_other_modes: Crate => Crate {
        v2: V2,
        v4: V4,
        v4_file: V4File,
        v4_polling: V4Polling,
    }
    crate_to_go: Crate => Go {
        v2: V2,
        v3: V3,
    }
    go_to_crate: Go => Crate {
        v2: V2,
        v3: V3,
    }
    go_to_go_in_version_2: Go => Go {
        v2: V2,
    }
    threads_to_crate: Threads => Crate {
        v2: V2,
        v3: V3,
        v4: V4,
        v4_file: V4File,
        v4_eventfd: V4Eventfd,
        v4_polling: V4Polling,
    }
    crate_to_threads: Crate => Threads {
        v2: V2,
        v3: V3,
        v4: V4,
        v4_file: V4File,
        v4_eventfd: V4Eventfd,
        v4_polling: V4Polling,
    }
}

run_a_choice_of_scenarios! {
    [
        a_bit_of_everything_works,
        messages_without_memory_go_over_the_socket,
        a_client_learns_that_its_server_was_killed,
        a_server_learns_that_its_client_was_killed,
        clients_follow_a_server_that_restarts,
    ]
    over Unix:
    threads_to_go: Threads => Go {
        v2: V2,
        v3: V3,
    }
    go_to_threads: Go => Threads {
        v2: V2,
        v3: V3,
    }
}

run_a_choice_of_scenarios! {
    [
        a_bit_of_everything_works,
        messages_without_memory_go_over_the_socket,
    ]
    over Tcp:
    ours_to_crate_over_tcp: Ours => Crate {
        v2: V2,
        v3_file: V3File,
        v4_file: V4File,
        v4_polling: V4Polling,
    }
    // A client that is the crate has version 3 with memfds alone.
    crate_to_ours_over_tcp: Crate => Ours {
        v2: V2,
        v4_file: V4File,
        v4_polling: V4Polling,
    }
}

run_a_choice_of_scenarios! {
    [
        a_bit_of_everything_works,
        messages_without_memory_go_over_the_socket,
        a_client_learns_that_its_server_was_killed,
        a_server_learns_that_its_client_was_killed,
    ]
    over Tcp:
    ours_to_go_over_tcp: Ours => Go {
        v2: V2,
        v3_file: V3File,
    }
    go_to_ours_over_tcp: Go => Ours {
        v2: V2,
    }
    threads_to_go_over_tcp: Threads => Go {
        v3_file: V3File,
    }
    go_to_threads_over_tcp: Go => Threads {
        v2: V2,
    }
}
