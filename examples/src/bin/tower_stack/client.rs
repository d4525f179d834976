//! The client: calls that go well, and calls that each layer has something against.

use std::{error::Error, fmt::Write as _, time::Duration};

use examples::vault::{
    GetRequest, PutRequest, SealRequest, WatchReply, WatchRequest, vault_client::VaultClient,
    watcher_client::WatcherClient,
};
use shmipc_rpc::{Channel, Response, Status, interceptor::InterceptorLayer, metrics::CallMetrics};
use tokio::task::JoinSet;
use tower::ServiceBuilder;

use crate::{metrics::Counts, tracing_layer};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a call may take that will not be answered.
const IMPATIENCE: Duration = Duration::from_millis(50);

/// One more than may watch at once.
const WATCHERS: usize = 3;

/// Makes the calls, and returns what became of them.
pub(crate) async fn run(address: String) -> Result<String, Box<dyn Error>> {
    let channel = Channel::connect(address).await?;
    let counts = Counts::begin()?;
    let layers = ServiceBuilder::new()
        .layer(tracing_layer())
        .layer(InterceptorLayer::new(CallMetrics::client()));
    let patient = layers.clone().timeout(PATIENCE).service(channel.clone());
    let (vault, watcher) = (
        VaultClient::new(patient.clone()),
        WatcherClient::new(patient),
    );
    let impatient = WatcherClient::new(layers.timeout(IMPATIENCE).service(channel));
    let mut out = String::new();

    vault.put(put("blue")).await?;
    let value = vault.get(get("colour")).await?.into_inner().value;
    writeln!(out, "get: {value}")?;
    let missing = vault.get(get("size")).await;
    writeln!(out, "get what is not there: {}", failure(missing)?)?;
    let sealed = vault.seal(SealRequest {}).await;
    writeln!(out, "seal: {}", failure(sealed)?)?;

    // One more call than there are places. The others wait for the colour to change.
    let mut watches = JoinSet::new();
    for _ in 0..WATCHERS {
        let watcher = watcher.clone();
        watches.spawn(async move { watcher.watch(watch("blue")).await });
    }
    let refused = next(&mut watches).await?;
    writeln!(out, "watch: {}", failure(refused)?)?;
    vault.put(put("red")).await?;
    while !watches.is_empty() {
        let changed = next(&mut watches).await??.into_inner().value;
        writeln!(out, "watch: {changed}")?;
    }

    let late = impatient.watch(watch("red")).await;
    writeln!(out, "watch what does not change: {}", failure(late)?)?;
    write!(out, "the client:\n{}", counts.lines())?;
    Ok(out)
}

fn get(key: &str) -> GetRequest {
    GetRequest {
        key: key.to_owned(),
    }
}

fn put(colour: &str) -> PutRequest {
    PutRequest {
        key: "colour".to_owned(),
        value: colour.to_owned(),
    }
}

fn watch(known: &str) -> WatchRequest {
    WatchRequest {
        key: "colour".to_owned(),
        known: known.to_owned(),
    }
}

type Watched = Result<Response<WatchReply>, Status>;

/// Waits for the next watch to end.
async fn next(watches: &mut JoinSet<Watched>) -> Result<Watched, Box<dyn Error>> {
    let ended = watches.join_next().await;
    Ok(ended.ok_or("nobody watches any longer")??)
}

/// Returns why a call failed that should.
fn failure<T>(result: Result<Response<T>, Status>) -> Result<Status, Box<dyn Error>> {
    match result {
        Ok(_) => Err("a call went well that should not".into()),
        Err(status) => Ok(status),
    }
}
