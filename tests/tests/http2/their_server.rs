//! The probe, as tonic serves it. It does the same as ours.

use std::pin::Pin;

use bytes::Bytes;
use http::HeaderMap;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::protos::{
    Hanging, Tail, echoed,
    theirs::{Answer, Question, probe_server},
};

/// The probe.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    /// Its handlers that wait without end.
    pub(crate) hanging: Hanging,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// What a handler knows of its call.
#[derive(Clone, Copy)]
struct Known {
    timed: bool,
    uid: Option<u32>,
}

impl Known {
    fn of<T>(request: &Request<T>) -> Self {
        let peer = request.extensions().get::<shmipc_rpc::Peer>();
        Self {
            timed: request.metadata().contains_key("grpc-timeout"),
            uid: peer.and_then(shmipc_rpc::Peer::uid),
        }
    }

    fn answer(self, text: String, payload: Bytes, questions: u32) -> Answer {
        Answer {
            text,
            payload,
            questions,
            timed: self.timed,
            uid: self.uid,
        }
    }
}

/// Returns what a question wants its call to end with.
fn end(question: &Question, metadata: &HeaderMap) -> Result<(), Status> {
    if question.code == 0 {
        return Ok(());
    }
    Err(Status::with_details_and_metadata(
        Code::from_i32(question.code.cast_signed()),
        &question.message,
        question.payload.clone(),
        MetadataMap::from_headers(metadata.clone()),
    ))
}

fn metadata_of<T>(request: &Request<T>) -> HeaderMap {
    echoed(request.metadata().as_ref())
}

fn respond<T>(message: T, metadata: HeaderMap) -> Response<T> {
    let metadata = MetadataMap::from_headers(metadata);
    Response::from_parts(metadata, message, http::Extensions::new())
}

#[tonic::async_trait]
impl probe_server::Probe for Probe {
    type DownloadStream = Answers;
    type ChatStream = Answers;

    async fn unary(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let (known, metadata) = (Known::of(&request), metadata_of(&request));
        let question = request.into_inner();
        if question.hang {
            self.hanging.forever().await
        }
        end(&question, &metadata)?;
        let answer = known.answer(question.text, question.payload, 1);
        Ok(respond(answer, metadata))
    }

    async fn download(&self, request: Request<Question>) -> Result<Response<Answers>, Status> {
        let (known, metadata) = (Known::of(&request), metadata_of(&request));
        let question = request.into_inner();
        let hangs = question.hang.then(|| self.hanging.one());
        let failure = end(&question, &metadata).err().map(Err);
        let answer = known.answer(question.text, question.payload, 1);
        let answers = (0..question.answers).map(move |_| Ok(answer.clone()));
        let answers = tokio_stream::iter(answers.chain(failure)).chain(Tail::new(hangs));
        Ok(respond(Box::pin(answers) as Answers, metadata))
    }

    async fn upload(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Answer>, Status> {
        let (known, metadata) = (Known::of(&request), metadata_of(&request));
        let mut questions = request.into_inner();
        let mut answer = known.answer(String::new(), Bytes::new(), 0);
        let mut payload = Vec::new();
        while let Some(question) = questions.message().await? {
            if question.hang {
                self.hanging.forever().await
            }
            end(&question, &metadata)?;
            answer.text.push_str(&question.text);
            payload.extend_from_slice(&question.payload);
            answer.questions += 1;
        }
        answer.payload = payload.into();
        Ok(respond(answer, metadata))
    }

    async fn chat(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Answers>, Status> {
        let (known, metadata) = (Known::of(&request), metadata_of(&request));
        let hanging = self.hanging.clone();
        let first = metadata.clone();
        let mut count = 0;
        let answers = request.into_inner().then(move |question| {
            let (hanging, metadata) = (hanging.clone(), metadata.clone());
            count += 1;
            async move {
                let question: Question = question?;
                if question.hang {
                    hanging.forever().await
                }
                end(&question, &metadata)?;
                Ok(known.answer(question.text, question.payload, count))
            }
        });
        Ok(respond(Box::pin(answers) as Answers, first))
    }
}
