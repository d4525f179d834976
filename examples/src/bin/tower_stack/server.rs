//! The server: two services, and the layers around them.

use std::{
    collections::HashMap, error::Error, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration,
};

use examples::{
    second,
    vault::{
        GetReply, GetRequest, PutReply, PutRequest, SealReply, SealRequest, WatchReply,
        WatchRequest, vault_methods,
        vault_server::{Vault, VaultServer},
        watcher_server::{Watcher, WatcherServer},
    },
};
use shmipc_rpc::{
    Listener, Request, Response, Server, Status, interceptor::InterceptorLayer,
    metrics::CallMetrics, server::named_layer,
};
use tokio::sync::watch;
use tower::{ServiceBuilder, timeout::TimeoutLayer};

use crate::{
    auth::{OnlyUser, Uid},
    metrics::Counts,
    tracing_layer,
};

/// How many may watch at once.
const WATCHERS_MAX: usize = 2;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The values, and for each as whom it was stored.
#[derive(Clone, Debug, Default)]
struct Contents {
    values: HashMap<String, (String, u32)>,
}

/// Both services. They share the contents.
#[derive(Clone, Debug)]
struct Service {
    contents: Arc<watch::Sender<Contents>>,
}

impl Vault for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let key = &request.get_ref().key;
        let contents = self.contents.borrow();
        match contents.values.get(key) {
            Some((value, _)) => Ok(Response::new(GetReply {
                value: value.clone(),
            })),
            None => Err(Status::not_found(format!("there is no {key:?}"))),
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        // The layer that let the call pass knows who makes it.
        let Some(&Uid(uid)) = request.extensions().get() else {
            return Err(Status::unauthenticated("nobody has looked at who calls"));
        };
        let PutRequest { key, value } = request.into_inner();
        self.contents
            .send_modify(|contents| drop(contents.values.insert(key, (value, uid))));
        Ok(Response::new(PutReply {}))
    }

    async fn seal(&self, _: Request<SealRequest>) -> Result<Response<SealReply>, Status> {
        Err(Status::unimplemented("nobody gets here in this example"))
    }
}

impl Watcher for Service {
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<WatchReply>, Status> {
        let WatchRequest { key, known } = request.into_inner();
        let is_new = |contents: &Contents| {
            let value = contents.values.get(&key);
            value.is_some_and(|(value, _)| *value != known)
        };
        let mut contents = self.contents.subscribe();
        let contents = contents.wait_for(is_new).await;
        let contents = contents.map_err(|_| Status::unavailable("nothing will change"))?;
        let value = contents.values.get(&key).map(|(value, _)| value.clone());
        Ok(Response::new(WatchReply {
            value: value.unwrap_or_default(),
        }))
    }
}

/// Serves until told to end, and says what was counted.
pub(crate) async fn run(socket: String) -> Result<(), Box<dyn Error>> {
    let owner = std::fs::metadata("/proc/self")?.uid();
    // In this example, nobody is.
    let administrator = u32::MAX;

    let counts = Counts::begin()?;
    let service = Service {
        contents: Arc::new(watch::Sender::default()),
    };
    // An interceptor may be for some methods only.
    let vault = InterceptorLayer::new(OnlyUser(administrator))
        .for_method(&vault_methods::SEAL)
        .layer(VaultServer::new(service.clone()));
    // Layers around one service: who finds no place is told so at once, instead of waiting for one.
    let watcher = named_layer(
        ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(WATCHERS_MAX),
        WatcherServer::new(service),
    );
    // Layers around all services. The first sees a call first.
    let server = Server::builder()
        .layer(tracing_layer())
        .layer(InterceptorLayer::new(CallMetrics::server()))
        .layer(InterceptorLayer::new(OnlyUser(owner)))
        .layer(TimeoutLayer::new(PATIENCE))
        .add_service(vault)
        .add_service(watcher);

    let listener = Listener::bind(socket)?;
    server
        .serve_with_listener_and_shutdown(listener, second::ready()?)
        .await?;
    print!("{}", counts.lines());
    Ok(())
}
