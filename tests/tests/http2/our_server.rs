//! The probe, as this project serves it.

use bytes::Bytes;
use http::HeaderMap;
use shmipc_rpc::{Code, Request, Response, ResponseStream, Status, Streaming};
use tokio_stream::StreamExt;

use crate::protos::{
    Hanging, Tail, echoed,
    ours::{Answer, Question, probe_server},
};

/// The probe.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    /// Its handlers that wait without end.
    pub(crate) hanging: Hanging,
}

/// What a handler knows of its call.
#[derive(Clone, Copy)]
struct Known {
    timed: bool,
    uid: Option<u32>,
}

impl Known {
    fn of<T>(request: &Request<T>) -> Self {
        Self {
            timed: request.remaining().is_some(),
            uid: request.peer().and_then(shmipc_rpc::Peer::uid),
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
    let details = question.payload.clone();
    let status = Status::with_details(Code::from_u32(question.code), &question.message, details);
    Err(status.with_metadata(metadata.clone()))
}

impl probe_server::Probe for Probe {
    async fn unary(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let (known, metadata) = (Known::of(&request), echoed(request.metadata()));
        let question = request.into_inner();
        if question.hang {
            self.hanging.forever().await
        }
        end(&question, &metadata)?;
        let mut response = Response::new(known.answer(question.text, question.payload, 1));
        *response.metadata_mut() = metadata;
        Ok(response)
    }

    async fn download(
        &self,
        request: Request<Question>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let (known, metadata) = (Known::of(&request), echoed(request.metadata()));
        let question = request.into_inner();
        let hangs = question.hang.then(|| self.hanging.one());
        let failure = end(&question, &metadata).err().map(Err);
        let answer = known.answer(question.text, question.payload, 1);
        let answers = (0..question.answers).map(move |_| Ok(answer.clone()));
        let answers = tokio_stream::iter(answers.chain(failure)).chain(Tail::new(hangs));
        let mut response = Response::new(answers);
        *response.metadata_mut() = metadata.clone();
        *response.trailers_mut() = metadata;
        Ok(response)
    }

    async fn upload(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Answer>, Status> {
        let (known, metadata) = (Known::of(&request), echoed(request.metadata()));
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
        let mut response = Response::new(answer);
        *response.metadata_mut() = metadata;
        Ok(response)
    }

    async fn chat(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<impl ResponseStream<Answer>>, Status> {
        let (known, metadata) = (Known::of(&request), echoed(request.metadata()));
        let hanging = self.hanging.clone();
        let last = metadata.clone();
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
        let mut response = Response::new(answers);
        *response.metadata_mut() = last.clone();
        *response.trailers_mut() = last;
        Ok(response)
    }
}
