//! What a server with threads says of its health, and to whom.

use std::{thread, time::Duration};

use shmipc_rpc::{
    Code, Request, Status,
    blocking::{Server, Streaming},
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthClient, HealthListRequest, HealthReporter,
        HealthService, ServingStatus,
        health_blocking::{HealthClient as Waiting, HealthServer},
    },
};

use super::lab::{LONG, Running, run, until};

const SEARCH: &str = "search.v1.Search";

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

fn served(health: &HealthReporter) -> (Running, Waiting) {
    let running = run(Server::builder().add_service(health.blocking_service()));
    let client = Waiting::new(running.channel());
    (running, client)
}

fn check(client: &Waiting, service: &str) -> Result<ServingStatus, Status> {
    let checked = client.check(about(service))?;
    Ok(checked.into_inner().status())
}

fn watch(client: &Waiting, service: &str) -> Streaming<HealthCheckResponse> {
    let mut request = Request::new(about(service));
    request.set_timeout(LONG);
    client
        .watch(request)
        .expect("it may be watched")
        .into_inner()
}

/// Waits for the next change, or the end.
fn next(changes: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let change = changes.message().expect("it ends well");
    change.map(|change| change.status())
}

#[test]
fn a_check_and_a_list_tell_what_was_said_last() {
    let health = HealthReporter::new();
    let (_running, client) = served(&health);
    assert_eq!(check(&client, "").unwrap(), ServingStatus::Serving);
    assert_eq!(check(&client, SEARCH).unwrap_err().code(), Code::NotFound);
    health.set_not_serving(SEARCH);
    assert_eq!(check(&client, SEARCH).unwrap(), ServingStatus::NotServing);
    health.clone().set_serving(SEARCH);
    assert_eq!(check(&client, SEARCH).unwrap(), ServingStatus::Serving);

    let listed = client.list(HealthListRequest {}).unwrap().into_inner();
    assert_eq!(listed.statuses.len(), 2);
    assert_eq!(listed.statuses[SEARCH].status(), ServingStatus::Serving);
    for number in 0..99 {
        health.set_serving(format!("shard{number}.Shard"));
    }
    let refused = client.list(HealthListRequest {}).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    health.clear(SEARCH);
    assert_eq!(check(&client, SEARCH).unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_watch_begins_with_what_is_known_and_tells_changes_only() {
    let health = HealthReporter::new();
    let (_running, client) = served(&health);
    let (mut search, mut overall) = (watch(&client, SEARCH), watch(&client, ""));
    assert_eq!(next(&mut overall), Some(ServingStatus::Serving));
    assert_eq!(next(&mut search), Some(ServingStatus::ServiceUnknown));

    health.set_serving(SEARCH);
    assert_eq!(next(&mut search), Some(ServingStatus::Serving));
    // None of these is a change for those who watch the one or the other.
    health.set_serving(SEARCH);
    health.set_not_serving("another.Service");
    health.set_overall(ServingStatus::Serving);
    health.clear(SEARCH);
    assert_eq!(next(&mut search), Some(ServingStatus::ServiceUnknown));
    health.set_overall(ServingStatus::NotServing);
    assert_eq!(next(&mut overall), Some(ServingStatus::NotServing));
}

#[test]
fn a_slow_watcher_misses_what_lies_between_but_never_the_last() {
    let health = HealthReporter::new();
    let (_running, client) = served(&health);
    for _ in 0..20 {
        health.set_serving(SEARCH);
        let mut changes = watch(&client, SEARCH);
        let reporter = health.clone();
        let telling = thread::spawn(move || {
            for _ in 0..500 {
                reporter.set_not_serving(SEARCH);
                reporter.set_serving(SEARCH);
            }
            reporter.set(SEARCH, ServingStatus::Unknown);
        });
        let mut previous = None;
        loop {
            let status = next(&mut changes);
            assert!(status.is_some(), "it goes on");
            assert_ne!(status, previous, "only changes are told");
            if status == Some(ServingStatus::Unknown) {
                break;
            }
            previous = status;
        }
        telling.join().unwrap();
    }
}

/// One thread, which a watch keeps for as long as somebody watches.
#[test]
fn a_watch_ends_when_its_caller_has_gone_or_is_late() {
    let health = HealthReporter::new();
    let server = Server::builder()
        .handler_threads(1)
        .add_service(health.blocking_service());
    let running = run(server);
    let client = Waiting::new(running.channel());
    for _ in 0..3 {
        let mut given_up = watch(&client, SEARCH);
        assert_eq!(next(&mut given_up), Some(ServingStatus::ServiceUnknown));
        drop(given_up);
        let mut request = Request::new(about(SEARCH));
        request.set_timeout(Duration::from_millis(20));
        let late = client.watch(request);
        let late = late.and_then(|late| late.into_inner().try_for_each(|change| change.map(drop)));
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        // Somebody whose whole session ends.
        let mut gone = watch(&Waiting::new(running.channel()), SEARCH);
        assert_eq!(next(&mut gone), Some(ServingStatus::ServiceUnknown));
    }
    let mut last = watch(&client, "");
    assert_eq!(next(&mut last), Some(ServingStatus::Serving));
}

#[test]
fn a_server_that_goes_out_of_service_says_so_and_is_not_kept_by_watchers() {
    let health = HealthReporter::new();
    let (running, client) = served(&health);
    health.set_serving(SEARCH);
    let (mut search, mut unknown) = (watch(&client, SEARCH), watch(&client, "unheard.Of"));
    assert_eq!(next(&mut search), Some(ServingStatus::Serving));
    assert_eq!(next(&mut unknown), Some(ServingStatus::ServiceUnknown));

    health.shut_down();
    assert_eq!(next(&mut search), Some(ServingStatus::NotServing));
    assert_eq!(next(&mut search), None);
    assert_eq!(next(&mut unknown), None);
    health.set_serving(SEARCH);
    assert_eq!(check(&client, SEARCH).unwrap(), ServingStatus::NotServing);
    let mut late = watch(&client, SEARCH);
    assert_eq!(next(&mut late), Some(ServingStatus::NotServing));
    assert_eq!(next(&mut late), None);
    drop(client);
    running.stop();
}

#[test]
fn a_server_that_drains_says_so_by_itself_and_is_not_kept_by_watchers() {
    let health = HealthReporter::new();
    let (running, client) = served(&health);
    health.set_serving(SEARCH);
    let (mut search, mut unknown) = (watch(&client, SEARCH), watch(&client, "unheard.Of"));
    assert_eq!(next(&mut search), Some(ServingStatus::Serving));
    assert_eq!(next(&mut unknown), Some(ServingStatus::ServiceUnknown));

    thread::scope(|scope| {
        let drained = scope.spawn(|| running.shutdown.drain(LONG));
        assert_eq!(next(&mut search), Some(ServingStatus::NotServing));
        assert_eq!(next(&mut search), None);
        assert_eq!(next(&mut unknown), None);
        assert!(drained.join().unwrap().cut_off.is_empty());
    });

    // Another server of the same reporter is not concerned.
    let (_running, client) = served(&health);
    let mut search = watch(&client, SEARCH);
    assert_eq!(next(&mut search), Some(ServingStatus::Serving));
}

#[test]
fn a_service_outlives_its_reporter() {
    let health = HealthReporter::default();
    let (running, client) = served(&health);
    health.set_not_serving(SEARCH);
    let mut search = watch(&client, SEARCH);
    assert_eq!(next(&mut search), Some(ServingStatus::NotServing));
    drop(health);
    assert_eq!(check(&client, SEARCH).unwrap(), ServingStatus::NotServing);
    // It has not ended before, either.
    running.shutdown.begin();
    assert_eq!(next(&mut search), None);
}

/// Tasks watch what threads serve.
#[test]
fn tasks_are_told_by_threads() {
    let health = HealthReporter::new();
    let (running, _) = served(&health);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = HealthClient::connect(running.path()).await.unwrap();
        let watched = client.watch(about(SEARCH)).await.unwrap();
        let mut changes = watched.into_inner();
        let first = changes.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::ServiceUnknown);
        health.set_serving(SEARCH);
        let second = changes.message().await.unwrap().unwrap();
        assert_eq!(second.status(), ServingStatus::Serving);
    });
}

/// A channel of tasks asks it whether it serves before it calls.
#[test]
fn a_channel_of_tasks_is_told_to_look_elsewhere() {
    let health = HealthReporter::new();
    health.set_not_serving(SEARCH);
    let (running, _) = served(&health);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = shmipc_rpc::Channel::builder(running.path()).health_check(SEARCH);
        let client = HealthClient::new(channel.connect().await.unwrap());
        let refused = client.check(about("")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        health.set_serving(SEARCH);
        let mut checked = client.check(about("")).await;
        let began = std::time::Instant::now();
        while checked.is_err() && began.elapsed() < LONG {
            tokio::task::yield_now().await;
            checked = client.check(about("")).await;
        }
        assert_eq!(
            checked.unwrap().into_inner().status(),
            ServingStatus::Serving
        );
    });
}

/// What users name.
fn _a_server_for_threads(health: &HealthReporter) -> HealthServer<HealthService> {
    until(|| true);
    health.blocking_service()
}
