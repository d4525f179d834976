//! Many sessions in one process, and what an idle one costs.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use shmipc_transport::{Listener, Session};
use tests::{
    alone,
    echo::{self, Place},
    in_time,
    process::{descriptors, resident},
    until,
};
use tokio::sync::mpsc;

/// Both ends of many sessions.
struct Crowd {
    clients: Vec<Session>,
    servers: Vec<Session>,
    _place: Place,
}

impl Crowd {
    async fn gather(count: usize) -> Self {
        let place = Place::new();
        let listener = Listener::bind(place.path()).unwrap();
        let (send, mut accepted) = mpsc::channel(count);
        let acceptor = tokio::spawn(async move {
            while let Ok(session) = listener.accept().await {
                echo::serve(session.clone());
                send.send(session).await.unwrap();
            }
        });
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let connected = in_time("connecting", Session::connect(place.path())).await;
            clients.push(connected.unwrap());
            servers.push(in_time("accepting", accepted.recv()).await.unwrap());
        }
        acceptor.abort();
        Self {
            clients,
            servers,
            _place: place,
        }
    }
}

#[test]
fn a_thousand_sessions_are_served() {
    alone(async {
        let before = descriptors();
        let crowd = Crowd::gather(1000).await;
        for client in &crowd.clients {
            echo::call(client, 64).await;
        }
        let calls = crowd.clients.iter().cloned().map(|client| {
            tokio::spawn(async move {
                echo::call(&client, 3000).await;
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        drop(crowd);
        until("all is given back", || descriptors() <= before).await;
    });
}

#[test]
fn an_idle_session_costs_little() {
    alone(async {
        const SESSIONS: usize = 250;
        const BYTES_MAX: u64 = 2 * (256 << 10);
        // Once for all that is only made once.
        drop(Crowd::gather(5).await);
        let (descriptors_before, resident_before) = (descriptors(), resident());
        let crowd = Crowd::gather(SESSIONS).await;
        let each = |now: u64| now.saturating_sub(resident_before) / SESSIONS as u64;
        let connected = each(resident());
        assert!(
            connected < BYTES_MAX,
            "{connected} bytes for both sides after connecting"
        );
        let used = descriptors() - descriptors_before;
        assert!(
            used <= 10 * SESSIONS,
            "{used} descriptors for {SESSIONS} sessions"
        );
        for client in &crowd.clients {
            for len in [64, 2000, 100_000] {
                echo::call(client, len).await;
            }
        }
        let all = || crowd.clients.iter().chain(&crowd.servers);
        let start = Instant::now();
        while all().any(|session| session.stats().arena_mapped != 0) {
            let keep = |sessions: &[Session]| {
                sessions
                    .iter()
                    .filter(|session| session.stats().arena_mapped != 0)
                    .count()
            };
            let example = all()
                .find(|session| session.stats().arena_mapped != 0)
                .map(Session::stats);
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{} clients and {} servers keep idle memory: {example:?}",
                keep(&crowd.clients),
                keep(&crowd.servers)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let idle = each(resident());
        assert!(
            idle < BYTES_MAX,
            "{idle} bytes for both sides after traffic"
        );
        idle_costs_no_time().await;
        assert!(all().all(|session| !session.is_closed()));
    });
}

/// Asserts that this process, which has nothing to do, does nothing.
async fn idle_costs_no_time() {
    // Three looks, because others on this machine may make the first ones expensive.
    let mut shares = Vec::new();
    for _ in 0..3 {
        let (start, used) = (Instant::now(), processor_time());
        tokio::time::sleep(Duration::from_millis(700)).await;
        let share = (processor_time() - used).as_secs_f64() / start.elapsed().as_secs_f64();
        shares.push(share);
        if share < 0.01 {
            return;
        }
    }
    panic!("idle sessions use shares of {shares:?} of a processor");
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let (user, system) = (usage.user_time(), usage.system_time());
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap())
            + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap())
    };
    micros(user) + micros(system)
}
