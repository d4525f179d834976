use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn refused(set: impl FnOnce(SettingsBuilder) -> SettingsBuilder) -> String {
    let refused = set(Settings::builder()).build();
    refused.expect_err("it is out of range").to_string()
}

fn accepted(set: impl FnOnce(SettingsBuilder) -> SettingsBuilder) -> Settings {
    set(Settings::builder())
        .build()
        .expect("it is within range")
}

#[test]
fn what_the_protocol_does_not_allow_is_refused() {
    for bytes in [0, 1 << 31, u32::MAX] {
        assert_eq!(
            refused(|settings| settings.initial_stream_window_size(bytes)),
            "`initial_stream_window_size` must be from 1 to 2,147,483,647 bytes"
        );
    }
    for bytes in [0, 65_534, 1 << 31] {
        assert_eq!(
            refused(|settings| settings.initial_connection_window_size(bytes)),
            "`initial_connection_window_size` must be from 65,535 to 2,147,483,647 bytes"
        );
    }
    for bytes in [0, 16_383, 16_777_216, u32::MAX] {
        assert_eq!(
            refused(|settings| settings.max_frame_size(bytes)),
            "`max_frame_size` must be from 16,384 to 16,777,215 bytes"
        );
    }
    assert_eq!(
        refused(|settings| settings.max_concurrent_streams(0)),
        "`max_concurrent_streams` must be at least 1"
    );
    assert_eq!(
        refused(|settings| settings.max_header_list_size(0)),
        "`max_header_list_size` must be at least 1 byte"
    );
    assert_eq!(
        refused(|settings| settings.max_send_buffer_size(0)),
        "`max_send_buffer_size` must be at least 1 byte"
    );
    accepted(|settings| settings.initial_stream_window_size(1));
    accepted(|settings| settings.initial_stream_window_size(WINDOW_MAX));
    accepted(|settings| settings.initial_connection_window_size(SPECIFIED_WINDOW));
    accepted(|settings| settings.initial_connection_window_size(WINDOW_MAX));
    accepted(|settings| settings.max_frame_size(16_384));
    accepted(|settings| settings.max_frame_size(16_777_215));
}

#[test]
fn a_window_that_adapts_has_no_size_of_its_own() {
    let sized: [fn(SettingsBuilder) -> SettingsBuilder; 2] = [
        |settings| settings.initial_stream_window_size(1 << 20),
        |settings| settings.initial_connection_window_size(1 << 20),
    ];
    for size in sized {
        assert_eq!(
            refused(|settings| size(settings.adaptive_window(true))),
            "`adaptive_window` must be off where a window has a size of its own"
        );
        accepted(|settings| size(settings.adaptive_window(true)).adaptive_window(false));
    }
    accepted(|settings| settings.adaptive_window(true));
}

#[test]
fn what_the_kernel_does_not_take_is_refused() {
    let seconds = Duration::from_secs;
    for time in [Duration::ZERO, Duration::from_millis(999), seconds(32_768)] {
        assert_eq!(
            refused(|settings| settings.tcp_keepalive(time)),
            "`tcp_keepalive` must be from 1 to 32,767 s"
        );
        assert_eq!(
            refused(|settings| settings
                .tcp_keepalive(seconds(9))
                .tcp_keepalive_interval(time)),
            "`tcp_keepalive_interval` must be from 1 to 32,767 s"
        );
    }
    for retries in [0, 128] {
        assert_eq!(
            refused(|settings| settings
                .tcp_keepalive(seconds(9))
                .tcp_keepalive_retries(retries)),
            "`tcp_keepalive_retries` must be from 1 to 127"
        );
    }
    assert_eq!(
        refused(|settings| settings.tcp_keepalive_interval(seconds(9))),
        "`tcp_keepalive_interval` must be set together with `tcp_keepalive`"
    );
    assert_eq!(
        refused(|settings| settings.tcp_keepalive_retries(9)),
        "`tcp_keepalive_retries` must be set together with `tcp_keepalive`"
    );
}

#[test]
fn connections_get_old_in_good_time() {
    let seconds = Duration::from_secs;
    for age in [Duration::ZERO, AGE_MAX + seconds(1), Duration::MAX] {
        assert_eq!(
            refused(|settings| settings.max_connection_age(age)),
            "`max_connection_age` must be from 1 ms to 30 days"
        );
    }
    assert_eq!(
        refused(|settings| settings
            .max_connection_age(seconds(1))
            .max_connection_age_grace(Duration::MAX)),
        "`max_connection_age_grace` must be at most 30 days"
    );
    assert_eq!(
        refused(|settings| settings.max_connection_age_grace(seconds(1))),
        "`max_connection_age_grace` must be set together with `max_connection_age`"
    );
    assert_eq!(Settings::default().age(), None);
    let settings = accepted(|settings| {
        settings
            .max_connection_age(seconds(1000))
            .max_connection_age_grace(Duration::ZERO)
    });
    let ages = [(); 100].map(|()| settings.age().expect("it was set"));
    for (age, grace) in ages {
        assert!((seconds(900)..=seconds(1100)).contains(&age), "{age:?}");
        assert_eq!(grace, Some(Duration::ZERO));
    }
    assert!(ages.iter().any(|age| *age != ages[0]), "all at once");
}

#[test]
fn settings_can_be_changed_afterwards() {
    let first = accepted(|settings| settings.max_frame_size(1 << 20));
    let second = first.to_builder().tcp_nodelay(false).build();
    let both = accepted(|settings| settings.max_frame_size(1 << 20).tcp_nodelay(false));
    assert_eq!(second.expect("it is within range"), both);
    assert_eq!(accepted(|settings| settings), Settings::default());
}

#[tokio::test]
async fn sockets_are_set_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let connect = || async { TcpStream::connect(address).await.expect("it listens") };

    let usual = connect().await;
    let untouched = SockRef::from(&usual);
    let system = (
        untouched.tcp_keepalive_interval().expect("it has that"),
        untouched.tcp_keepalive_retries().expect("it has that"),
    );
    Settings::default().set_up(&usual).expect("it can be");
    assert!(usual.nodelay().expect("it has that"));
    assert!(!untouched.keepalive().expect("it has that"));

    let seconds = Duration::from_secs;
    let asked = |stream: &TcpStream| {
        let socket = SockRef::from(stream);
        assert!(socket.keepalive().expect("it has that"));
        (
            socket.tcp_keepalive_time().expect("it has that"),
            socket.tcp_keepalive_interval().expect("it has that"),
            socket.tcp_keepalive_retries().expect("it has that"),
        )
    };
    let slow = connect().await;
    let settings = accepted(|settings| {
        settings
            .tcp_nodelay(false)
            .tcp_keepalive(Duration::from_millis(41_001))
    });
    settings.set_up(&slow).expect("it can be");
    assert!(!slow.nodelay().expect("it has that"));
    // What is not said is left to the system.
    assert_eq!(asked(&slow), (seconds(42), system.0, system.1));

    let extreme = connect().await;
    let settings = accepted(|settings| {
        settings
            .tcp_keepalive(seconds(KEEPALIVE_SECONDS_MAX))
            .tcp_keepalive_interval(seconds(KEEPALIVE_SECONDS_MAX))
            .tcp_keepalive_retries(KEEPALIVE_RETRIES_MAX)
    });
    settings.set_up(&extreme).expect("the kernel takes it");
    let most = seconds(KEEPALIVE_SECONDS_MAX);
    assert_eq!(asked(&extreme), (most, most, KEEPALIVE_RETRIES_MAX));
}
