//! What a server says of its health, and to whom.
#![cfg(feature = "health")]

mod common;

use shmipc_rpc::{
    Code, Server, Status, Streaming,
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthClient, HealthListRequest, HealthReporter,
        ServingStatus,
    },
};

use common::{Running, in_time, serve};

const SEARCH: &str = "search.v1.Search";

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn served(health: &HealthReporter) -> (Running, HealthClient) {
    let running = serve(Server::builder().add_service(health.service()));
    let client = HealthClient::new(running.channel().await);
    (running, client)
}

async fn check(client: &HealthClient, service: &str) -> Result<ServingStatus, Status> {
    let checked = client.check(about(service)).await?;
    Ok(checked.into_inner().status())
}

async fn watch(client: &HealthClient, service: &str) -> Streaming<HealthCheckResponse> {
    let watched = client.watch(about(service)).await;
    watched.expect("it may be watched").into_inner()
}

/// Waits for the next change, or the end.
async fn next(changes: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let change = changes.message().await.expect("it ends well");
    change.map(|change| change.status())
}

#[tokio::test]
async fn a_check_tells_what_was_said_last() {
    in_time(async {
        let health = HealthReporter::new();
        let (_running, client) = served(&health).await;
        assert_eq!(check(&client, "").await.unwrap(), ServingStatus::Serving);
        let unknown = check(&client, SEARCH).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);

        health.set_not_serving(SEARCH);
        assert_eq!(
            check(&client, SEARCH).await.unwrap(),
            ServingStatus::NotServing
        );
        // The whole does not follow from its parts.
        assert_eq!(check(&client, "").await.unwrap(), ServingStatus::Serving);
        health.clone().set_serving(SEARCH);
        health.set_overall(ServingStatus::Unknown);
        assert_eq!(
            check(&client, SEARCH).await.unwrap(),
            ServingStatus::Serving
        );
        assert_eq!(check(&client, "").await.unwrap(), ServingStatus::Unknown);

        health.clear(SEARCH);
        let cleared = check(&client, SEARCH).await.unwrap_err();
        assert_eq!(cleared.code(), Code::NotFound);
        health.set(SEARCH, ServingStatus::ServiceUnknown);
        let cleared = check(&client, SEARCH).await.unwrap_err();
        assert_eq!(cleared.code(), Code::NotFound);
        assert_eq!(health.status(SEARCH), None);
    })
    .await;
}

#[tokio::test]
async fn a_list_has_all_there_is_unless_that_is_too_much() {
    in_time(async {
        let health = HealthReporter::new();
        let (_running, client) = served(&health).await;
        health.set_not_serving(SEARCH);
        let listed = client.list(HealthListRequest {}).await.unwrap();
        let mut listed: Vec<_> = listed.into_inner().statuses.into_iter().collect();
        listed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let listed: Vec<_> = listed
            .iter()
            .map(|(name, response)| (name.as_str(), response.status()))
            .collect();
        assert_eq!(
            listed,
            [
                ("", ServingStatus::Serving),
                (SEARCH, ServingStatus::NotServing)
            ]
        );

        for number in 0..98 {
            health.set_serving(format!("shard{number}.Shard"));
        }
        let listed = client.list(HealthListRequest {}).await.unwrap();
        assert_eq!(listed.into_inner().statuses.len(), 100);
        health.set_serving("one.too.Many");
        let refused = client.list(HealthListRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    })
    .await;
}

#[tokio::test]
async fn a_watch_begins_with_what_is_known_and_tells_changes_only() {
    in_time(async {
        let health = HealthReporter::new();
        let (_running, client) = served(&health).await;
        let mut search = watch(&client, SEARCH).await;
        let mut overall = watch(&client, "").await;
        assert_eq!(next(&mut overall).await, Some(ServingStatus::Serving));
        assert_eq!(next(&mut search).await, Some(ServingStatus::ServiceUnknown));

        health.set_serving(SEARCH);
        assert_eq!(next(&mut search).await, Some(ServingStatus::Serving));
        // None of these is a change for those who watch the one or the other.
        health.set_serving(SEARCH);
        health.set_not_serving("another.Service");
        health.set_overall(ServingStatus::Serving);
        health.clear(SEARCH);
        assert_eq!(next(&mut search).await, Some(ServingStatus::ServiceUnknown));
        health.set_not_serving(SEARCH);
        assert_eq!(next(&mut search).await, Some(ServingStatus::NotServing));
        health.set_overall(ServingStatus::NotServing);
        assert_eq!(next(&mut overall).await, Some(ServingStatus::NotServing));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_misses_what_lies_between_but_never_the_last() {
    in_time(async {
        let health = HealthReporter::new();
        let (_running, client) = served(&health).await;
        for _ in 0..50 {
            health.set_serving(SEARCH);
            let mut changes = watch(&client, SEARCH).await;
            let reporter = health.clone();
            let telling = std::thread::spawn(move || {
                for _ in 0..500 {
                    reporter.set_not_serving(SEARCH);
                    reporter.set_serving(SEARCH);
                }
                reporter.set(SEARCH, ServingStatus::Unknown);
            });
            let mut previous = None;
            loop {
                let status = next(&mut changes).await;
                assert!(status.is_some(), "it goes on");
                assert_ne!(status, previous, "only changes are told");
                if status == Some(ServingStatus::Unknown) {
                    break;
                }
                previous = status;
            }
            telling.join().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_goes_out_of_service_says_so_and_is_not_kept_by_watchers() {
    in_time(async {
        let health = HealthReporter::new();
        let (mut running, client) = served(&health).await;
        health.set_serving(SEARCH);
        let mut search = watch(&client, SEARCH).await;
        let mut unknown = watch(&client, "unheard.Of").await;
        assert_eq!(next(&mut search).await, Some(ServingStatus::Serving));
        assert_eq!(
            next(&mut unknown).await,
            Some(ServingStatus::ServiceUnknown)
        );

        health.shut_down();
        assert_eq!(next(&mut search).await, Some(ServingStatus::NotServing));
        assert_eq!(next(&mut search).await, None);
        assert_eq!(next(&mut unknown).await, None);
        // What is said now comes too late, and who asks now is told at once.
        health.set_serving(SEARCH);
        health.clear(SEARCH);
        assert_eq!(
            check(&client, SEARCH).await.unwrap(),
            ServingStatus::NotServing
        );
        assert_eq!(check(&client, "").await.unwrap(), ServingStatus::NotServing);
        let mut late = watch(&client, SEARCH).await;
        assert_eq!(next(&mut late).await, Some(ServingStatus::NotServing));
        assert_eq!(next(&mut late).await, None);

        running.stop();
        (&mut running.task).await.expect("it has drained");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_drains_says_so_by_itself_and_is_not_kept_by_watchers() {
    in_time(async {
        let health = HealthReporter::new();
        let (mut running, client) = served(&health).await;
        health.set_serving(SEARCH);
        let mut search = watch(&client, SEARCH).await;
        let mut unknown = watch(&client, "unheard.Of").await;
        assert_eq!(next(&mut search).await, Some(ServingStatus::Serving));
        assert_eq!(
            next(&mut unknown).await,
            Some(ServingStatus::ServiceUnknown)
        );

        running.stop();
        assert_eq!(next(&mut search).await, Some(ServingStatus::NotServing));
        assert_eq!(next(&mut search).await, None);
        assert_eq!(next(&mut unknown).await, None);
        (&mut running.task).await.expect("it has drained");

        // Another server of the same reporter is not concerned.
        let (_running, client) = served(&health).await;
        let mut search = watch(&client, SEARCH).await;
        assert_eq!(next(&mut search).await, Some(ServingStatus::Serving));
    })
    .await;
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn watchers_over_http2_learn_of_a_drain_too() {
    in_time(async {
        let health = HealthReporter::new();
        let server = Server::builder().add_service(health.service());
        let server = server.start("http://127.0.0.1:0").await.unwrap();
        let client = HealthClient::connect(server.endpoints()[0].clone()).await;
        let mut overall = watch(&client.expect("it listens"), "").await;
        assert_eq!(next(&mut overall).await, Some(ServingStatus::Serving));
        let watching = async {
            assert_eq!(next(&mut overall).await, Some(ServingStatus::NotServing));
            assert_eq!(next(&mut overall).await, None);
        };
        let for_ever = std::time::Duration::from_secs(3600);
        tokio::join!(server.drain(for_ever), watching);
    })
    .await;
}

#[tokio::test]
async fn a_service_outlives_its_reporter() {
    in_time(async {
        let health = HealthReporter::default();
        let (_running, client) = served(&health).await;
        health.set_not_serving(SEARCH);
        let mut search = watch(&client, SEARCH).await;
        assert_eq!(next(&mut search).await, Some(ServingStatus::NotServing));
        drop(health);
        assert_eq!(
            check(&client, SEARCH).await.unwrap(),
            ServingStatus::NotServing
        );
        // The watch has not ended either.
        let more = tokio::time::timeout(std::time::Duration::from_millis(20), next(&mut search));
        assert!(more.await.is_err(), "nothing has changed");
    })
    .await;
}
