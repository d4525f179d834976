//! Clients of the services, as the cases see them: whatever they are made of, they speak this project's types.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use shmipc_rpc::{
    Channel, Request, Response, Status, Streaming, client::CallService, http::HeaderMap,
};
use tokio_stream::Stream;

use crate::client_of_threads::Received;
use crate::protos::{
    Empty, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
    test_service_client::TestServiceClient,
    tonic::{
        test_service_client::TestServiceClient as TonicTestServiceClient,
        unimplemented_service_client::UnimplementedServiceClient as TonicUnimplementedServiceClient,
    },
    unimplemented_service_client::UnimplementedServiceClient,
};

pub(crate) type Called<T> = Result<Response<T>, Status>;

/// The requests of a stream. A type with a name, because the compiler cannot see that a future is `Send` in which a bare
/// `dyn Stream` has to live for ever.
pub(crate) struct Requests<T>(Pin<Box<dyn Stream<Item = T> + Send>>);

impl<T> Requests<T> {
    pub(crate) fn new(requests: impl Stream<Item = T> + Send + 'static) -> Self {
        Self(Box::pin(requests))
    }
}

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// The responses of a stream.
pub(crate) enum Replies<T> {
    Ours(Streaming<T>),
    Tonic(tonic::Streaming<T>),
    Threads(Received<T>),
}

impl<T: prost::Message + Default + 'static> Replies<T> {
    pub(crate) async fn message(&mut self) -> Result<Option<T>, Status> {
        match self {
            Self::Ours(replies) => replies.message().await,
            Self::Tonic(replies) => Ok(replies.message().await?),
            Self::Threads(replies) => replies.message().await,
        }
    }

    pub(crate) async fn trailers(&mut self) -> Result<HeaderMap, Status> {
        match self {
            Self::Ours(replies) => replies.trailers().await,
            Self::Tonic(replies) => {
                let trailers = replies.trailers().await?;
                Ok(trailers.unwrap_or_default().into_headers())
            }
            Self::Threads(replies) => replies.trailers().await,
        }
    }
}

/// Declares the methods of a client: those with one response, and those with many.
macro_rules! methods {
    (
        $(one $one:ident($one_request:ty) -> $one_response:ty;)*
        $(many $many:ident($many_request:ty) -> $many_response:ty;)*
    ) => {
        /// A client of both services.
        pub(crate) trait Stub: Clone + Send + Sync + 'static {
            $(fn $one(&self, request: Request<$one_request>)
                -> impl Future<Output = Called<$one_response>> + Send;)*
            $(fn $many(&self, request: Request<$many_request>)
                -> impl Future<Output = Called<Replies<$many_response>>> + Send;)*
            fn unimplemented_service(&self, request: Request<Empty>)
                -> impl Future<Output = Called<Empty>> + Send;
        }

        impl<S: CallService + Clone + Sync> Stub for Ours<S> {
            $(async fn $one(&self, request: Request<$one_request>) -> Called<$one_response> {
                self.test.$one(request).await
            })*
            $(async fn $many(&self, request: Request<$many_request>) -> Called<Replies<$many_response>> {
                Ok(self.test.$many(request).await?.map(Replies::Ours))
            })*
            async fn unimplemented_service(&self, request: Request<Empty>) -> Called<Empty> {
                self.unimplemented.unimplemented_call(request).await
            }
        }

        impl Stub for Tonic {
            $(async fn $one(&self, request: Request<$one_request>) -> Called<$one_response> {
                let mut client = self.test.clone();
                let request = tonic::Request::from(request);
                Ok(client.$one(request).await?.into())
            })*
            $(async fn $many(&self, request: Request<$many_request>) -> Called<Replies<$many_response>> {
                let mut client = self.test.clone();
                let request = tonic::Request::from(request);
                let response: Response<_> = client.$many(request).await?.into();
                Ok(response.map(Replies::Tonic))
            })*
            async fn unimplemented_service(&self, request: Request<Empty>) -> Called<Empty> {
                let mut client = self.unimplemented.clone();
                let request = tonic::Request::from(request);
                Ok(client.unimplemented_call(request).await?.into())
            }
        }
    };
}

methods! {
    one empty_call(Empty) -> Empty;
    one unary_call(SimpleRequest) -> SimpleResponse;
    one cacheable_unary_call(SimpleRequest) -> SimpleResponse;
    one streaming_input_call(Requests<StreamingInputCallRequest>) -> StreamingInputCallResponse;
    one unimplemented_call(Empty) -> Empty;
    many streaming_output_call(StreamingOutputCallRequest) -> StreamingOutputCallResponse;
    many full_duplex_call(Requests<StreamingOutputCallRequest>) -> StreamingOutputCallResponse;
    many half_duplex_call(Requests<StreamingOutputCallRequest>) -> StreamingOutputCallResponse;
}

/// Clients that this project generated, over any service.
#[derive(Clone, Debug)]
pub(crate) struct Ours<S> {
    test: TestServiceClient<S>,
    unimplemented: UnimplementedServiceClient<S>,
}

impl<S: CallService + Clone> Ours<S> {
    pub(crate) fn new(service: S) -> Self {
        Self {
            test: TestServiceClient::new(service.clone()),
            unimplemented: UnimplementedServiceClient::new(service),
        }
    }
}

/// Clients that tonic generated, over a channel of this project.
#[derive(Clone, Debug)]
pub(crate) struct Tonic {
    test: TonicTestServiceClient<Channel>,
    unimplemented: TonicUnimplementedServiceClient<Channel>,
}

impl Tonic {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            test: TonicTestServiceClient::new(channel.clone()),
            unimplemented: TonicUnimplementedServiceClient::new(channel),
        }
    }
}
