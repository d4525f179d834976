//! The answers.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use super::{
    ServiceNames,
    index::{FileId, Index},
    v1::{
        self, ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};
use crate::{Code, Request, Response, ResponseStream, Status, Streaming, blocking};

/// Answers questions for descriptors. Made by [`Reflection`](super::Reflection).
#[derive(Debug)]
pub struct ReflectionService {
    answering: Arc<Answering>,
}

#[derive(Debug)]
struct Answering {
    index: Arc<Index>,
    listed: Listed,
}

/// Which services are listed.
#[derive(Debug)]
pub(super) enum Listed {
    /// Those with descriptors.
    Described,
    /// Those of a server.
    Served(Arc<ServiceNames>),
}

impl ReflectionService {
    pub(super) fn new(index: Arc<Index>, listed: Listed) -> Self {
        Self {
            answering: Arc::new(Answering { index, listed }),
        }
    }

    fn answers(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Response<impl ResponseStream<ServerReflectionResponse>> {
        Response::new(Answers {
            answering: Arc::clone(&self.answering),
            requests: Some(request.into_inner()),
            sent: BTreeSet::new(),
        })
    }

    fn answers_of_thread(
        &self,
        request: Request<blocking::Streaming<ServerReflectionRequest>>,
    ) -> Response<impl Iterator<Item = Waited> + Send + 'static> {
        let (answering, mut sent) = (Arc::clone(&self.answering), BTreeSet::new());
        let requests = request.into_inner();
        // Nobody asks for what would follow a failure.
        Response::new(requests.map(move |request| answering.answer_to(request?, &mut sent)))
    }
}

/// What threads answer.
type Waited = Result<ServerReflectionResponse, Status>;

impl v1::server_reflection_blocking::ServerReflection for ReflectionService {
    fn server_reflection_info(
        &self,
        request: Request<blocking::Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<impl Iterator<Item = Waited> + Send + 'static>, Status> {
        Ok(self.answers_of_thread(request))
    }
}

impl v1alpha::server_reflection_blocking::ServerReflection for ReflectionService {
    fn server_reflection_info(
        &self,
        request: Request<blocking::Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<impl Iterator<Item = Waited> + Send + 'static>, Status> {
        Ok(self.answers_of_thread(request))
    }
}

impl v1::server_reflection_server::ServerReflection for ReflectionService {
    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<impl ResponseStream<ServerReflectionResponse>>, Status> {
        Ok(self.answers(request))
    }
}

impl v1alpha::server_reflection_server::ServerReflection for ReflectionService {
    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<impl ResponseStream<ServerReflectionResponse>>, Status> {
        Ok(self.answers(request))
    }
}

impl Answering {
    /// Answers a request, unless it asks nothing.
    fn answer_to(
        &self,
        request: ServerReflectionRequest,
        sent: &mut BTreeSet<FileId>,
    ) -> Result<ServerReflectionResponse, Status> {
        let Some(question) = &request.message_request else {
            return Err(Status::invalid_argument("the request asks nothing"));
        };
        let answer = self.answer(question, sent);
        Ok(ServerReflectionResponse {
            valid_host: request.host.clone(),
            message_response: Some(answer),
            original_request: Some(request),
        })
    }

    fn answer(&self, question: &MessageRequest, sent: &mut BTreeSet<FileId>) -> MessageResponse {
        let index = &self.index;
        match question {
            MessageRequest::FileByFilename(name) => self.file(index.file(name), sent, || {
                format!("there is no file named {name:?}")
            }),
            MessageRequest::FileContainingSymbol(symbol) => {
                self.file(index.file_of_symbol(symbol), sent, || {
                    format!("{symbol:?} is declared nowhere")
                })
            }
            MessageRequest::FileContainingExtension(extension) => {
                let (extended, number) = (&extension.containing_type, extension.extension_number);
                self.file(index.file_of_extension(extended, number), sent, || {
                    format!("{extended:?} has no extension with the number {number}")
                })
            }
            MessageRequest::AllExtensionNumbersOfType(message) => {
                match index.extension_numbers(message) {
                    Some(numbers) => {
                        MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name: message.clone(),
                            extension_number: numbers,
                        })
                    }
                    None => not_found(format!("there is no message named {message:?}")),
                }
            }
            MessageRequest::ListServices(_) => {
                MessageResponse::ListServicesResponse(ListServiceResponse {
                    service: self.services(),
                })
            }
        }
    }

    /// Answers with a file and what it imports.
    fn file(
        &self,
        file: Option<FileId>,
        sent: &mut BTreeSet<FileId>,
        otherwise: impl FnOnce() -> String,
    ) -> MessageResponse {
        match file {
            Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: self.index.with_imports(file, sent),
            }),
            None => not_found(otherwise()),
        }
    }

    fn services(&self) -> Vec<ServiceResponse> {
        let mut names: Vec<_> = match &self.listed {
            Listed::Described => self.index.services().map(str::to_owned).collect(),
            Listed::Served(names) => names.all().into_iter().map(str::to_owned).collect(),
        };
        names.sort_unstable();
        let names = names.into_iter();
        names.map(|name| ServiceResponse { name }).collect()
    }
}

fn not_found(error_message: String) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: Code::NotFound as i32,
        error_message,
    })
}

/// Answers one question after the other.
struct Answers {
    answering: Arc<Answering>,
    /// `None` after a question that was none.
    requests: Option<Streaming<ServerReflectionRequest>>,
    /// The files that the caller has got.
    sent: BTreeSet<FileId>,
}

impl Stream for Answers {
    type Item = Result<ServerReflectionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(requests) = &mut this.requests else {
            return Poll::Ready(None);
        };
        let request = match ready!(Pin::new(requests).poll_next(cx)) {
            Some(Ok(request)) => request,
            Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            None => return Poll::Ready(None),
        };
        let answer = this.answering.answer_to(request, &mut this.sent);
        if answer.is_err() {
            this.requests = None;
        }
        Poll::Ready(Some(answer))
    }
}
