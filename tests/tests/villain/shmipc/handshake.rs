//! Lies before there is a session.

use std::path::Path;

use shmipc_transport::{
    ConnectError,
    ConnectError::PeerMisbehaved as Misbehaved,
    InvalidMessage::{Length, Magic, OutOfTurn},
    PeerMisbehaved::Socket,
    Shmipc,
};
use tests::{
    alone, process,
    villain::{
        Memory, Message, Role, SEALS,
        shmipc::{Dialect, ShmipcEnding, ShmipcScript, frame, kind, list, names},
    },
};

use super::{session, stage, stage_with};
use crate::stage::Stage;

/// A lie told by a client, which learns nothing but that it was hung up on.
type ClientsLie = (&'static str, fn(&mut ShmipcScript));

/// Passes another region of queues.
fn queues(script: &mut ShmipcScript, memory: Memory) {
    script.messages[2].fds[1] = memory.fd();
    script.queues = memory;
}

/// Changes a word of the head of a list.
fn in_list(script: &ShmipcScript, number: usize, field: u32, value: u32) {
    let at = script.buffers.lists[number].at;
    script.buffers.memory.store(at + field, value);
}

/// Has all counters say the same: a word that is their lower and their upper half.
fn counted(script: &ShmipcScript, half: u32) {
    for queue in script.both_queues() {
        for counter in [queue.head, queue.tail] {
            script.queues.store(counter, half);
            script.queues.store(counter + 4, half);
        }
    }
}

#[test]
fn hazard_h20_queues_that_cannot_be() {
    alone(told_by_clients(&[
        ("no elements", |s| s.queues.store(0, 0)),
        ("one element too many", |s| s.queues.store(0, 17)),
        ("a length that wraps", |s| s.queues.store(0, 0x1555_5556)),
        ("all elements there are", |s| s.queues.store(0, u32::MAX)),
        ("hazard V2: counters that overflow next", |s| {
            counted(s, u32::MAX)
        }),
        ("hazard V2: negative counters", |s| counted(s, 1 << 31)),
        ("hazard V1: a region of nothing", |s| s.bring_queues(0)),
        ("hazard V1: less than two heads", |s| s.bring_queues(40)),
        ("halves that are not aligned", |s| s.bring_queues(404)),
        ("no head at all", |s| s.bring_queues(432)),
    ]));
}

#[test]
fn hazard_h23_lists_that_cannot_be() {
    alone(told_by_clients(&[
        ("no lists", |s| s.buffers.memory.store(0, 0)),
        ("more lists than there are", |s| {
            s.buffers.memory.store(0, 3)
        }),
        ("all lists there are", |s| s.buffers.memory.store(0, 0xffff)),
        ("more than the region", |s| {
            s.buffers.memory.store(4, u32::MAX)
        }),
        ("less than its lists", |s| s.buffers.memory.store(4, 100)),
        ("no slices", |s| in_list(s, 0, list::COUNT, 0)),
        ("one slice too many", |s| in_list(s, 1, list::COUNT, 16)),
        ("hazard V3: a number that wraps", |s| {
            in_list(s, 1, list::COUNT, u32::MAX)
        }),
        ("slices of nothing", |s| in_list(s, 0, list::CAPACITY, 0)),
        ("slices beyond the region", |s| {
            in_list(s, 0, list::CAPACITY, u32::MAX - 20)
        }),
        ("hazard H8: slices that misalign what follows", |s| {
            in_list(s, 0, list::CAPACITY, 1022)
        }),
        ("a region of nothing", |s| s.bring_buffers(0)),
        ("a region of less than a head", |s| s.bring_buffers(4)),
        ("no head at all", |s| s.bring_buffers(64 << 10)),
    ]));
}

/// Whether regions are passed as memory files.
fn passes(dialect: Dialect) -> bool {
    !dialect.has_files()
}

#[test]
fn hazard_h46_regions_that_are_too_long() {
    // That of slices lies in between.
    const MAX: u32 = 64 << 10;
    alone(async {
        for dialect in Dialect::ALL {
            for (region_max, is_taken) in [(MAX, false), (2 * MAX, true)] {
                let limits = |shmipc: Shmipc| shmipc.region_max(region_max);
                let mut stage = stage_with(dialect, limits, |config| config).await;
                if is_taken {
                    let _taken = session(&mut stage, Role::Client, dialect).await;
                    stage.bystander_is_well("a region").await;
                } else {
                    told_by_clients_on(stage, dialect, &[("a long region", |_| {})]).await;
                }
            }
        }
    });
}

#[test]
fn hazard_v11_descriptors_that_are_no_regions() {
    let lies: &[ClientsLie] = &[
        ("none", |s| s.messages[2].fds.clear()),
        ("one", |s| drop(s.messages[2].fds.pop())),
        ("more than anybody passes", |s| {
            s.messages[2].fds = (0..200).map(|_| s.queues.fd()).collect();
        }),
        ("hazard H32: a pipe", |s| {
            s.messages[2].fds[0] = std::io::pipe().unwrap().1.into();
        }),
        ("hazard H32: a file of another file system", |s| {
            let directory = tempfile::tempdir_in(".").unwrap();
            let file = std::fs::File::create_new(directory.path().join("file")).unwrap();
            file.set_len(4096).unwrap();
            s.messages[2].fds[1] = file.into();
        }),
        ("memory that may not be written", |s| {
            queues(s, Memory::create(432, SEALS))
        }),
        ("the queues instead of the slices", |s| {
            let queues = s.queues.fd();
            s.messages[2].fds[0] = queues;
        }),
    ];
    alone(async {
        for dialect in Dialect::those(passes) {
            told_by_clients_in(dialect, lies).await;
        }
        let eventfds: &[ClientsLie] = &[
            ("two descriptors too few", |s| {
                s.messages[2].fds.truncate(2);
            }),
            ("a pipe for an eventfd", |s| {
                s.messages[2].fds[2] = std::io::pipe().unwrap().1.into();
            }),
            ("memory for an eventfd", |s| {
                let queues = s.queues.fd();
                s.messages[2].fds[3] = queues;
            }),
        ];
        for dialect in Dialect::those(Dialect::has_eventfds) {
            told_by_clients_in(dialect, eventfds).await;
        }
    });
}

#[test]
fn hazard_h25_messages_of_clients_that_lie() {
    let lies: &[ClientsLie] = &[
        ("nothing", |s| s.messages.clear()),
        ("half of a head", |s| {
            s.messages.truncate(1);
            s.messages[0].bytes.truncate(5);
        }),
        ("no names", |s| s.messages.truncate(1)),
        ("no descriptors", |s| s.messages.truncate(2)),
        ("names of nothing", |s| {
            s.messages[1] = names(s.dialect, b"", b"")
        }),
        ("names with an end in the middle", |s| {
            s.messages[1] = names(s.dialect, b"a\0b", b"c")
        }),
        ("names of 5,000 bytes", |s| {
            s.messages[1] = names(s.dialect, &[b'a'; 5000], b"c")
        }),
        ("hazard V13: a name that is longer than the message", |s| {
            s.messages[1] = frame(s.dialect, kind::MEMFD_NAMES, &[255, 255, b'a', 0, 1, b'b'])
        }),
        ("hazard V8: a length that wraps", |s| {
            s.messages[1].bytes[..4].copy_from_slice(&[0, 0, 0, 3])
        }),
        ("hazard V8: a length of 4 GiB", |s| {
            s.messages[1].bytes[..4].copy_from_slice(&[255; 4])
        }),
        ("hazard H29: a path to what is not its own", |s| {
            let paths = names(s.dialect, b"/etc/passwd", b"/etc/passwd");
            s.messages[1] = frame(s.dialect, kind::FILE_PATHS, &paths.bytes[8..]);
        }),
        ("hazard H29: a path that leads up", |s| {
            let paths = names(s.dialect, b"/dev/shm/../shm/q", b"/dev/shm/../shm/b");
            s.messages[1] = frame(s.dialect, kind::FILE_PATHS, &paths.bytes[8..]);
        }),
        ("hazard H27: a hot restart first", |s| {
            s.messages[0] = frame(s.dialect, kind::HOT_RESTART, &[0; 8])
        }),
        ("hazard H27: an acknowledgement in between", |s| {
            s.messages[1] = frame(s.dialect, kind::HOT_RESTART_ACK, &[0; 8])
        }),
        ("mapped", |s| {
            s.messages[1] = frame(s.dialect, kind::MAPPED, &[])
        }),
        ("a message on a stream", |s| {
            s.messages[1] = frame(s.dialect, kind::FALLBACK, &[0; 12])
        }),
    ];
    alone(async {
        for dialect in Dialect::those(passes) {
            told_by_clients_in(dialect, lies).await;
        }
    });
}

/// Names something that it has made beside its queues.
fn beside(script: &mut ShmipcScript, make: impl FnOnce(&Path, &Path)) {
    let [queue, buffer] = script.named();
    let beside = queue.with_extension("beside");
    make(&queue, &beside);
    script.name(&beside, &buffer);
}

/// What a client names is neither opened, if it lies anywhere else or is anything else, nor made, nor removed.
#[test]
fn hazard_h29_v9_paths_of_clients_that_lie() {
    let lies: &[ClientsLie] = &[
        ("nothing", |s| s.messages.clear()),
        ("half of a head", |s| {
            s.messages.truncate(1);
            s.messages[0].bytes.truncate(5);
        }),
        ("what is not there", |s| beside(s, |_, _| {})),
        ("what is not its own", |s| {
            s.name(Path::new("/etc/passwd"), Path::new("/etc/passwd"));
        }),
        ("a way that leads up", |s| {
            let up = Path::new("..").join(s.files().file_name().unwrap());
            let [queue, buffer] = s.named().map(|path| {
                let name = path.file_name().unwrap();
                s.files().join(&up).join(name)
            });
            s.name(&queue, &buffer);
        }),
        ("a link to its own", |s| {
            beside(s, |queue, link| {
                std::os::unix::fs::symlink(queue, link).unwrap()
            });
        }),
        ("a directory", |s| {
            beside(s, |_, directory| std::fs::create_dir(directory).unwrap());
        }),
        ("hazard H32: a pipe with a name", |s| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            beside(s, |_, pipe| nix::unistd::mkfifo(pipe, mode).unwrap());
        }),
        ("the same for both", |s| {
            let [queue, _] = s.named();
            s.name(&queue, &queue);
        }),
        ("no names", |s| s.name(Path::new(""), Path::new(""))),
        ("hazard V13: a name that is longer than the message", |s| {
            let at = s.naming();
            s.messages[at] = frame(s.dialect, kind::FILE_PATHS, &[255, 255, b'a', 0, 1, b'b']);
        }),
        ("hazard V8: a length that wraps", |s| {
            let at = s.naming();
            s.messages[at].bytes[..4].copy_from_slice(&[0, 0, 0, 3]);
        }),
    ];
    alone(async {
        for dialect in Dialect::those(Dialect::has_files) {
            told_by_clients_in(dialect, lies).await;
        }
    });
}

/// Tells each lie to a server, in all dialects.
async fn told_by_clients(lies: &[ClientsLie]) {
    for dialect in Dialect::ALL {
        told_by_clients_in(dialect, lies).await;
    }
}

async fn told_by_clients_in(dialect: Dialect, lies: &[ClientsLie]) {
    told_by_clients_on(stage(dialect).await, dialect, lies).await;
}

async fn told_by_clients_on(mut stage: Stage, dialect: Dialect, lies: &[ClientsLie]) {
    let before = process::Holdings::count();
    for (name, tell) in lies {
        let mut script = ShmipcScript::new(Role::Client, dialect, stage.files());
        tell(&mut script);
        let names = stage.names();
        let (ending, _) = stage.play(Role::Client, |socket| script.play(socket)).await;
        match ending {
            ShmipcEnding::HungUp => {}
            // Nobody says whether there is a session.
            ShmipcEnding::Session(villain) if dialect == Dialect::V2 => villain.wait_to_be_left(),
            ShmipcEnding::Session(villain) => panic!("{name} ({dialect:?}) got {villain:?}"),
        }
        assert_eq!(stage.names(), names, "{name} ({dialect:?})");
        stage.bystander_is_well(name).await;
    }
    before.are_back("after lies of clients").await;
}

/// A lie told by a server, and how it is called by its client.
struct ServersLie {
    name: &'static str,
    tell: fn(&mut ShmipcScript),
    is_found: fn(&ConnectError) -> bool,
}

macro_rules! servers_lies {
    ($($name:literal: $tell:expr => $found:pat),* $(,)?) => {
        &[$(ServersLie { name: $name, tell: $tell, is_found: |error| matches!(error, $found) }),*]
    };
}

/// Has a server say something else in its turn.
fn instead(script: &mut ShmipcScript, turn: usize, kind: u8) {
    script.messages[turn] = frame(script.dialect, kind, &[]);
}

#[test]
fn hazard_h64_l5_messages_of_servers_that_lie() {
    alone(async {
        let lies: &[ServersLie] = servers_lies! {
            "nothing": |s| s.messages.clear() => ConnectError::Closed { .. },
            "not ready": |s| s.messages.truncate(1) => ConnectError::Closed { .. },
            "not mapped": |s| s.messages.truncate(2) => ConnectError::Closed { .. },
            "mapped before anything was passed": |s| instead(s, 1, kind::MAPPED) => Misbehaved(Socket(OutOfTurn { .. })),
            "ready twice": |s| instead(s, 2, kind::READY) => Misbehaved(Socket(OutOfTurn { .. })),
            "a client's names": |s| s.messages[1] = names(s.dialect, b"q", b"b") => Misbehaved(Socket(OutOfTurn { .. })),
            "woken": |s| instead(s, 1, kind::POLLING) => Misbehaved(Socket(OutOfTurn { .. })),
            "hazard H27: a hot restart": |s| s.messages[2] = frame(s.dialect, kind::HOT_RESTART, &[0; 8]) => Misbehaved(Socket(OutOfTurn { .. })),
            "garbage": |s| s.messages[1] = Message { bytes: b"garbage!".to_vec(), fds: Vec::new() } => Misbehaved(Socket(Magic(_))),
            "hazard V8: a length of nothing": |s| s.messages[1].bytes[3] = 0 => Misbehaved(Socket(Length { .. })),
            "hazard V8: a length of 16 MiB": |s| s.messages[2].bytes[0] = 1 => Misbehaved(Socket(Length { .. })),
        };
        for dialect in Dialect::those(passes) {
            told_by_servers(dialect, lies).await;
        }
        let lies: &[ServersLie] = servers_lies! {
            "nothing": |s| s.messages.clear() => ConnectError::Closed { .. },
            "not mapped": |s| s.messages.truncate(1) => ConnectError::Closed { .. },
            "ready for what is not passed": |s| instead(s, 1, kind::READY) => Misbehaved(Socket(OutOfTurn { .. })),
            "woken": |s| instead(s, 1, kind::POLLING) => Misbehaved(Socket(OutOfTurn { .. })),
            "hazard V8: a length of nothing": |s| s.messages[1].bytes[3] = 0 => Misbehaved(Socket(Length { .. })),
        };
        // In version 2, a server says nothing.
        for dialect in Dialect::those(|dialect| dialect.has_files() && dialect != Dialect::V2) {
            told_by_servers(dialect, lies).await;
        }
        told_by_servers(
            Dialect::V3,
            servers_lies! {
                "an old version, which has no memory files": |s| s.messages[0].bytes[6] = 2 => ConnectError::NotSupported { protocol: 2 },
                "version 0": |s| s.messages[0].bytes[6] = 0 => ConnectError::NotSupported { protocol: 0 },
            },
        )
        .await;
        told_by_servers(
            Dialect::Records,
            servers_lies! {
                "hazard C10: what was not asked for": |s| renegotiated(s, "stream_records_v1", "event_queue_polling") => _,
                "windows of nothing": |s| renegotiated(s, r#""messages":32"#, r#""messages":0"#) => _,
                "another protocol": |s| renegotiated(s, r#""selected_protocol":4"#, r#""selected_protocol":5"#) => _,
            },
        )
        .await;
    });
}

/// Changes the document that a server answers with.
fn renegotiated(script: &mut ShmipcScript, from: &str, to: &str) {
    let json = String::from_utf8(script.messages[0].bytes[8..].to_vec()).unwrap();
    let json = json.replacen(from, to, 1);
    script.messages[0] = frame(script.dialect, kind::NEGOTIATION, json.as_bytes());
}

async fn told_by_servers(dialect: Dialect, lies: &[ServersLie]) {
    let mut stage = stage(dialect).await;
    let before = process::Holdings::count();
    for lie in lies {
        let mut script = ShmipcScript::new(Role::Server, dialect, stage.files());
        (lie.tell)(&mut script);
        let (ending, outcome) = stage.play(Role::Server, |socket| script.play(socket)).await;
        match outcome.unwrap() {
            Ok(session) => panic!("{} ({dialect:?}) got {session:?}", lie.name),
            Err(error) => assert!(
                (lie.is_found)(&error),
                "{} ({dialect:?}): {error:?}",
                lie.name
            ),
        }
        drop(ending);
        assert!(stage.names().is_empty(), "{} ({dialect:?})", lie.name);
        stage.bystander_is_well(lie.name).await;
    }
    before.are_back("after lies of servers").await;
}

/// What we pass cannot be shortened under us.
#[test]
fn hazard_v12_a_server_cannot_shorten_its_clients_memory() {
    alone(async {
        for dialect in Dialect::those(passes) {
            let mut stage = stage(dialect).await;
            let (villain, session) = super::session(&mut stage, Role::Server, dialect).await;
            for memory in [&villain.queues, &villain.buffers.memory] {
                for len in [0, 4096] {
                    nix::unistd::ftruncate(memory.fd(), len).unwrap_err();
                }
                let flags = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE
                    | nix::fcntl::FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
                nix::fcntl::fallocate(memory.fd(), flags, 0, 4096).unwrap_err();
            }
            assert!(!session.is_closed());
        }
    });
}
