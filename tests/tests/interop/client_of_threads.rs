//! A client that blocks its thread, for cases that are tasks: each call has threads of its own.

use std::thread;

use shmipc_rpc::{
    Request, Response, Status,
    blocking::{Channel, Duplex, DuplexReceiver, Streaming},
    http::HeaderMap,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;

use crate::{
    client::{Called, Replies, Requests, Stub},
    protos::{
        Empty, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
        test_service_blocking::TestServiceClient,
        unimplemented_service_blocking::UnimplementedServiceClient,
    },
};

/// Clients that this project generated, which block.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    test: TestServiceClient,
    unimplemented: UnimplementedServiceClient,
}

impl Threads {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            test: TestServiceClient::new(channel.clone()),
            unimplemented: UnimplementedServiceClient::new(channel),
        }
    }
}

/// Waits for what a thread does.
async fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = oneshot::channel();
    thread::spawn(move || {
        // Whoever was to have it may be gone.
        let _ = done.send(work());
    });
    outcome.await.expect("the thread does not panic")
}

/// Requests for a thread, which waits for them. They end with the runtime, if not before.
struct Pulled<T>(mpsc::Receiver<T>);

impl<T: Send + 'static> Pulled<T> {
    fn new(mut requests: Requests<T>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }
}

impl<T> Iterator for Pulled<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.blocking_recv()
    }
}

/// Responses that a thread has received.
pub(crate) struct Received<T> {
    messages: mpsc::Receiver<Result<T, Status>>,
    trailers: oneshot::Receiver<HeaderMap>,
}

impl<T: prost::Message + Default + 'static> Received<T> {
    /// Lets a thread receive them.
    fn from<S>(
        mut responses: S,
        trailers_of: impl FnOnce(&mut S) -> Result<HeaderMap, Status> + Send + 'static,
    ) -> Self
    where
        S: Iterator<Item = Result<T, Status>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(1);
        let (last, trailers) = oneshot::channel();
        thread::spawn(move || {
            for response in &mut responses {
                if sender.blocking_send(response).is_err() {
                    return;
                }
            }
            // After a failure there are none.
            let _ = last.send(trailers_of(&mut responses).unwrap_or_default());
        });
        Self { messages, trailers }
    }

    pub(crate) async fn message(&mut self) -> Result<Option<T>, Status> {
        self.messages.recv().await.transpose()
    }

    pub(crate) async fn trailers(&mut self) -> Result<HeaderMap, Status> {
        while self.message().await?.is_some() {}
        Ok((&mut self.trailers)
            .await
            .expect("the thread has got there"))
    }
}

/// Makes a call in both directions: one thread sends, and another receives.
async fn converse<Req, Res>(
    request: Request<Requests<Req>>,
    call: impl FnOnce(Request<()>) -> Result<Duplex<Req, Res>, Status> + Send + 'static,
) -> Called<Replies<Res>>
where
    Req: prost::Message + 'static,
    Res: prost::Message + Default + 'static,
{
    let mut pulled = None;
    let request = request.map(|requests| pulled = Some(Pulled::new(requests)));
    let mut requests = pulled.expect("it was called");
    in_a_thread(move || {
        let mut duplex = call(request)?;
        // A server may begin its response with the first request.
        match requests.next() {
            Some(first) => duplex.send(&first)?,
            None => duplex.finish()?,
        }
        let mut response = Response::new(());
        *response.metadata_mut() = duplex.metadata()?.clone();
        let (mut sender, responses) = duplex.split();
        thread::spawn(move || {
            // If the server takes no more, the responses tell why.
            let sent = requests.try_for_each(|request| sender.send(&request));
            sent.and_then(|()| sender.finish())
        });
        let received = Received::from(responses, DuplexReceiver::trailers);
        Ok(response.map(|()| Replies::Threads(received)))
    })
    .await
}

impl Stub for Threads {
    async fn empty_call(&self, request: Request<Empty>) -> Called<Empty> {
        let client = self.test.clone();
        in_a_thread(move || client.empty_call(request)).await
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Called<SimpleResponse> {
        let client = self.test.clone();
        in_a_thread(move || client.unary_call(request)).await
    }

    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Called<SimpleResponse> {
        let client = self.test.clone();
        in_a_thread(move || client.cacheable_unary_call(request)).await
    }

    async fn streaming_input_call(
        &self,
        request: Request<Requests<StreamingInputCallRequest>>,
    ) -> Called<StreamingInputCallResponse> {
        let client = self.test.clone();
        let request = request.map(Pulled::new);
        in_a_thread(move || client.streaming_input_call(request)).await
    }

    async fn unimplemented_call(&self, request: Request<Empty>) -> Called<Empty> {
        let client = self.test.clone();
        in_a_thread(move || client.unimplemented_call(request)).await
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Called<Replies<StreamingOutputCallResponse>> {
        let client = self.test.clone();
        let responses = in_a_thread(move || client.streaming_output_call(request)).await?;
        let received = |responses| Received::from(responses, Streaming::trailers);
        Ok(responses.map(|responses| Replies::Threads(received(responses))))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Requests<StreamingOutputCallRequest>>,
    ) -> Called<Replies<StreamingOutputCallResponse>> {
        let client = self.test.clone();
        converse(request, move |request| client.full_duplex_call(request)).await
    }

    async fn half_duplex_call(
        &self,
        request: Request<Requests<StreamingOutputCallRequest>>,
    ) -> Called<Replies<StreamingOutputCallResponse>> {
        let client = self.test.clone();
        converse(request, move |request| client.half_duplex_call(request)).await
    }

    async fn unimplemented_service(&self, request: Request<Empty>) -> Called<Empty> {
        let client = self.unimplemented.clone();
        in_a_thread(move || client.unimplemented_call(request)).await
    }
}
