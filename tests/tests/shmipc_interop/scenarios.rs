//! The scenarios. Each begins with programs of its own.

use std::time::Duration;

use tests::interop::{
    peer::Peer,
    region,
    setting::{Closing, Plan, Setting},
};

use crate::pair::Stage;
pub(crate) use crate::restart::clients_follow_a_server_that_restarts;

/// Small ones, those around the classes of slices that are the default, and large ones.
const SIZES: [u32; 19] = [
    0,
    1,
    7,
    8,
    64,
    100,
    1000,
    4096,
    8132,
    8133,
    8172,
    8173,
    32_748,
    65_536,
    131_052,
    131_053,
    262_144,
    1 << 20,
    8 << 20,
];

/// Carries out a plan between programs of this setting, and looks whether every slice has come back and every stream was told of its end.
fn exchange(stage: &Stage, setting: &Setting, plan: &Plan) -> u64 {
    let mut server = stage.server(setting);
    let mut client = stage.client(setting);
    let fallbacks = client.run(plan);
    all_is_over(stage, &mut server, &client, plan);
    fallbacks
}

fn all_is_over(stage: &Stage, server: &mut Peer, client: &Peer, plan: &Plan) {
    let (streams, messages) = (plan.streams as u64, (plan.streams * plan.messages) as u64);
    server.until("every stream has ended", |stats| {
        stats == [streams, streams, 0, messages]
    });
    region::is_whole_again(client.pid(), stage.keepers());
}

/// One after the other what scenarios of their own do: long messages over many slices, streams that the server closes, sleep.
pub(crate) fn a_bit_of_everything_works(stage: &Stage) {
    let setting = Setting {
        cap: 8 << 20,
        slices: vec![(128, 50), (1024, 50)],
        ..stage.setting()
    };
    let many_slices = Plan {
        streams: 4,
        messages: 12,
        window: 2,
        sizes: vec![0, 1, 128, 1000, 20_000, 100_000],
        ..Plan::default()
    };
    let closed_by_server = Plan {
        streams: 16,
        messages: 3,
        sizes: vec![64, 40_000],
        close: Closing::Server,
        ..Plan::default()
    };
    let sleepy = Plan {
        messages: 5,
        pause: Duration::from_millis(10),
        ..Plan::default()
    };
    let (mut server, mut client) = (stage.server(&setting), stage.client(&setting));
    let plans = [many_slices, closed_by_server, sleepy];
    for plan in &plans {
        assert_eq!(client.run(plan), 0, "there was memory for all");
    }
    let streams = plans.iter().map(|plan| plan.streams as u64).sum();
    let messages = plans.iter().map(|plan| plan.streams * plan.messages);
    let messages = messages.sum::<usize>() as u64;
    server.until("every stream has ended", |stats| {
        stats == [streams, streams, 0, messages]
    });
    region::is_whole_again(client.pid(), stage.keepers());
    client.quit();
    server.quit();
    let mut names = stage.place.names();
    names.retain(|name| *name != setting.socket);
    assert!(names.is_empty(), "left behind: {names:?}");
}

pub(crate) fn messages_of_every_size_arrive(stage: &Stage) {
    let plan = Plan {
        messages: 2 * SIZES.len(),
        sizes: SIZES.to_vec(),
        ..Plan::default()
    };
    let fallbacks = exchange(stage, &stage.setting(), &plan);
    assert_eq!(fallbacks, 0, "there was memory for all");
}

pub(crate) fn messages_over_many_slices_arrive(stage: &Stage) {
    let setting = Setting {
        cap: 8 << 20,
        slices: vec![(128, 50), (1024, 50)],
        ..stage.setting()
    };
    let plan = Plan {
        streams: 4,
        messages: 40,
        sizes: vec![1000, 20_000, 128, 100_000, 1024, 300_000],
        ..Plan::default()
    };
    assert_eq!(
        exchange(stage, &setting, &plan),
        0,
        "there was memory for all"
    );
}

pub(crate) fn messages_written_and_read_in_pieces_arrive(stage: &Stage) {
    let setting = Setting {
        piece: 777,
        ..stage.setting()
    };
    let plan = Plan {
        streams: 2,
        messages: 30,
        sizes: vec![0, 776, 777, 778, 50_000, 400_000],
        ..Plan::default()
    };
    assert_eq!(
        exchange(stage, &setting, &plan),
        0,
        "there was memory for all"
    );
}

pub(crate) fn many_streams_share_a_session(stage: &Stage) {
    let plan = Plan {
        streams: 256,
        messages: 16,
        sizes: vec![64, 1000, 5000],
        ..Plan::default()
    };
    exchange(stage, &stage.setting(), &plan);
}

pub(crate) fn many_messages_are_under_way_at_once(stage: &Stage) {
    let plan = Plan {
        streams: 8,
        messages: 320,
        window: 32,
        sizes: vec![64, 200, 3000],
        ..Plan::default()
    };
    let fallbacks = exchange(stage, &stage.setting(), &plan);
    assert_eq!(fallbacks, 0, "there was memory for all");
}

/// More streams send at once, in either direction, than a queue has elements.
pub(crate) fn a_full_queue_loses_nothing(stage: &Stage) {
    let setting = Setting {
        queue: 16,
        ..stage.setting()
    };
    let plan = Plan {
        streams: 64,
        messages: 20,
        window: 2,
        sizes: vec![64, 1000, 0],
        ..Plan::default()
    };
    let fallbacks = exchange(stage, &setting, &plan);
    assert_eq!(fallbacks, 0, "there was memory for all");
}

pub(crate) fn one_message_is_answered_by_many(stage: &Stage) {
    let plan = Plan {
        streams: 2,
        messages: 5,
        replies: 500,
        sizes: vec![100],
        ..Plan::default()
    };
    exchange(stage, &stage.setting(), &plan);
}

pub(crate) fn who_sleeps_is_woken(stage: &Stage) {
    let plan = Plan {
        messages: 30,
        pause: Duration::from_millis(10),
        ..Plan::default()
    };
    exchange(stage, &stage.setting(), &plan);
}

pub(crate) fn streams_are_reused(stage: &Stage) {
    let plan = Plan {
        streams: 16,
        messages: 100,
        sizes: vec![64, 20_000],
        reuse: true,
        ..Plan::default()
    };
    let mut server = stage.server(&stage.setting());
    let mut client = stage.client(&stage.setting());
    client.run(&plan);
    client.run(&plan);
    let [accepted, ended, lost, served] = server.stats();
    assert!(accepted <= 16, "{accepted} streams for 16 at a time");
    assert_eq!([ended, lost, served], [0, 0, 3200]);
}

pub(crate) fn sessions_share_the_streams(stage: &Stage) {
    let setting = Setting {
        sessions: 3,
        ..stage.setting()
    };
    let plan = Plan {
        streams: 100,
        messages: 10,
        ..Plan::default()
    };
    exchange(stage, &setting, &plan);
}

pub(crate) fn the_client_closes(stage: &Stage) {
    closes(stage, Closing::Client);
}

pub(crate) fn the_server_closes(stage: &Stage) {
    closes(stage, Closing::Server);
}

fn closes(stage: &Stage, close: Closing) {
    let plan = Plan {
        streams: 64,
        messages: 3,
        sizes: vec![64, 40_000],
        close,
        ..Plan::default()
    };
    exchange(stage, &stage.setting(), &plan);
}

/// The smallest region there may be, of one class.
fn short_of_memory(stage: &Stage) -> Setting {
    Setting {
        cap: 1 << 20,
        slices: vec![(4096, 100)],
        ..stage.setting()
    }
}

pub(crate) fn messages_without_memory_go_over_the_socket(stage: &Stage) {
    goes_over_the_socket(stage, Closing::Client);
}

pub(crate) fn a_stream_is_closed_behind_what_went_over_the_socket(stage: &Stage) {
    goes_over_the_socket(stage, Closing::Server);
}

fn goes_over_the_socket(stage: &Stage, close: Closing) {
    let plan = Plan {
        messages: 8,
        sizes: vec![2 << 20, 64, 8 << 20, 0],
        close,
        ..Plan::default()
    };
    let fallbacks = exchange(stage, &short_of_memory(stage), &plan);
    // And what comes behind them, where it is that side's way.
    assert!(
        8 <= fallbacks,
        "there was no memory for the 4 long ones, both ways"
    );
}

pub(crate) fn memory_that_runs_short_now_and_then_changes_nothing(stage: &Stage) {
    let plan = Plan {
        streams: 8,
        messages: 40,
        sizes: vec![100, 3000, 60_000, 200_000],
        ..Plan::default()
    };
    exchange(stage, &short_of_memory(stage), &plan);
}

pub(crate) fn two_clients_do_not_disturb_each_other(stage: &Stage) {
    let plan = Plan {
        streams: 8,
        messages: 50,
        sizes: vec![64, 10_000],
        ..Plan::default()
    };
    let mut server = stage.server(&stage.setting());
    let mut clients = [(); 2].map(|()| stage.client(&stage.setting()));
    for client in &mut clients {
        client.tell(format_args!("run {plan}"));
    }
    for client in &clients {
        client.hear("done");
    }
    server.until("every stream has ended", |stats| stats == [16, 16, 0, 800]);
    for client in &clients {
        region::is_whole_again(client.pid(), stage.keepers());
    }
    let [one, mut other] = clients;
    one.quit();
    other.run(&plan);
}

/// Streams that are in use while one of the sides leaves.
const LOSERS: u64 = 5;

fn using_streams(stage: &Stage) -> (Peer, Peer) {
    let mut server = stage.server(&stage.setting());
    let mut client = stage.client(&stage.setting());
    client.tell(format_args!("lose streams={LOSERS}"));
    client.hear("waiting");
    server.until("every stream is there", |[accepted, ended, lost, _]| {
        [accepted, ended, lost] == [LOSERS, 0, 0]
    });
    (client, server)
}

pub(crate) fn a_client_learns_that_its_server_left(stage: &Stage) {
    let (client, server) = using_streams(stage);
    server.quit();
    client.hear("done");
}

pub(crate) fn a_client_learns_that_its_server_was_killed(stage: &Stage) {
    let (client, server) = using_streams(stage);
    drop(server);
    client.hear("done");
}

pub(crate) fn a_server_learns_that_its_client_left(stage: &Stage) {
    let mut server = stage.server(&stage.setting());
    let mut client = stage.client(&stage.setting());
    client.run(&Plan {
        streams: 16,
        messages: 4,
        reuse: true,
        ..Plan::default()
    });
    let [accepted, ..] = server.stats();
    client.quit();
    server.until("every stream has ended", |[_, ended, lost, _]| {
        ended + lost == accepted
    });
}

pub(crate) fn a_server_learns_that_its_client_was_killed(stage: &Stage) {
    let (client, mut server) = using_streams(stage);
    drop(client);
    server.until("every stream has ended", |[_, ended, lost, _]| {
        ended + lost == LOSERS
    });
    // And it goes on.
    let mut client = stage.client(&stage.setting());
    client.run(&Plan::default());
}

pub(crate) fn no_named_memory_is_left_behind(stage: &Stage) {
    let server = stage.server(&stage.setting());
    let mut client = stage.client(&stage.setting());
    client.run(&Plan::default());
    client.quit();
    server.quit();
    // A socket is another matter: the crate leaves it where it is.
    let mut names = stage.place.names();
    names.retain(|name| *name != stage.setting().socket);
    assert!(names.is_empty(), "left behind: {names:?}");
}
