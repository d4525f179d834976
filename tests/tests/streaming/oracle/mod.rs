//! Calls of all kinds that do anything at any time, compared with what must come of them.

mod plan;

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use shmipc_rpc::{
    CancelReason, Cancellation, Code, Request, RequestSink, Response, Sender, Status, Streaming,
    client::Caller,
};
use tests::{
    alone, in_time,
    streams::{Alive, Item, LIST, ONE, RECORD, Streams},
    until,
};
use tokio::{sync::mpsc, task::yield_now};
use tokio_stream::wrappers::ReceiverStream;

use self::plan::{GiveUp, Numbers, Plan, Step};
use crate::Lab;

/// How many calls are made one after the other, and how many of such rows at once.
const CALLS: usize = 120;
const ROWS: u64 = 6;

/// What the caller has seen of a call.
#[derive(Debug, Default)]
struct Seen {
    responses: usize,
    /// How it ended. `None`: the caller was not there then.
    end: Option<Result<(), Code>>,
}

/// A call under way.
#[derive(Debug)]
struct Case {
    plan: Plan,
    /// How many requests the server has taken.
    taken: Mutex<usize>,
    seen: Mutex<Seen>,
}

impl Case {
    /// A request has arrived, which must be the next.
    fn has_come(&self, item: &Item) {
        let mut taken = self.taken.lock().unwrap();
        let is_next = *taken < self.plan.requests.len() && *item == self.plan.request(*taken);
        assert!(is_next, "request {taken} of {:?}", self.plan);
        *taken += 1;
    }

    /// A response has arrived, which must be the next. Returns how many there are.
    fn has_answered(&self, item: &Item) -> usize {
        let mut seen = self.seen.lock().unwrap();
        let at = seen.responses;
        let is_next = at < self.plan.responses.len() && *item == self.plan.response(at);
        assert!(is_next, "response {at} of {:?}", self.plan);
        seen.responses += 1;
        seen.responses
    }

    fn has_ended(&self, end: Result<(), Status>) {
        let end = end.map_err(|status| status.code());
        self.seen.lock().unwrap().end = Some(end);
    }

    /// Compares what each side has seen with what it must have.
    fn check(&self) {
        let (plan, taken, seen) = (
            &self.plan,
            *self.taken.lock().unwrap(),
            self.seen.lock().unwrap(),
        );
        let what = format!("{seen:?}, {taken} requests taken, {plan:?}");
        assert!(taken <= plan.taken_max(), "{what}");
        match (plan.give_up, seen.end) {
            (GiveUp::Never, end) => {
                assert_eq!(end, Some(plan.status), "{what}");
                assert_eq!(seen.responses, plan.responses.len(), "{what}");
                assert_eq!(taken, plan.taken_max(), "{what}");
            }
            (GiveUp::After(most), None) => assert_eq!(seen.responses, most, "{what}"),
            (GiveUp::Polls(_), None) => {}
            (GiveUp::After(_) | GiveUp::Polls(_), Some(end)) => {
                assert_eq!(end, plan.status, "{what}");
                assert_eq!(seen.responses, plan.responses.len(), "{what}");
            }
            (GiveUp::Failing(requests), end) => {
                assert!(taken <= requests, "{what}");
                // It may have been over before.
                let end = end.expect("it waits for the end");
                assert!(end == Err(Code::DataLoss) || end == plan.status, "{what}");
            }
        }
    }

    /// Does what the server does.
    async fn serve(
        &self,
        requests: &mut Requests,
        responses: &mut Responses,
        cancellation: &Cancellation,
    ) -> Result<(), Status> {
        let mut sent = 0;
        for step in &self.plan.steps {
            match *step {
                Step::Read(count) => {
                    for _ in 0..count {
                        let Some(item) = requests.next().await? else {
                            break;
                        };
                        self.has_come(&item);
                    }
                }
                Step::ReadAll => {
                    while let Some(item) = requests.next().await? {
                        self.has_come(&item);
                    }
                }
                Step::Send(count) => {
                    for at in (sent..self.plan.responses.len()).take(count) {
                        responses.send(self.plan.response(at)).await?;
                        sent = at + 1;
                    }
                }
                Step::Pause => yield_now().await,
                // The future of a handler is dropped meanwhile; a task has to see for itself.
                Step::Hang => {
                    let reason = cancellation.cancelled().await;
                    assert_eq!(reason, CancelReason::ByCaller, "{:?}", self.plan);
                    return Err(Status::cancelled("the caller has gone"));
                }
            }
        }
        let status = |code| Status::new(code, "as planned");
        self.plan.status.map_err(status)
    }

    /// Does what the caller does.
    async fn call(self: Arc<Self>, caller: &Caller, id: u64) {
        let GiveUp::Polls(polls) = self.plan.give_up else {
            let ended = Arc::clone(&self).exchange(caller, id);
            return in_time("a call", ended).await;
        };
        let mut call = pin!(Arc::clone(&self).exchange(caller, id));
        for _ in 0..polls {
            let ended = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
            if ended {
                return;
            }
            yield_now().await;
        }
    }

    /// Makes the call, and sees it to its end or gives it up.
    async fn exchange(self: Arc<Self>, caller: &Caller, id: u64) {
        let kind = &self.plan.kind;
        if [ONE, RECORD].contains(kind) {
            let answer = if *kind == ONE {
                caller
                    .unary::<_, Item>(kind, marked(id, self.plan.request(0)))
                    .await
            } else {
                self.send(async |requests| match requests {
                    Outgoing::Pushed(sink) => {
                        caller
                            .client_streaming::<_, _, Item>(kind, marked(id, sink))
                            .await
                    }
                    Outgoing::Polled(stream) => {
                        caller
                            .client_streaming::<_, _, Item>(kind, marked(id, stream))
                            .await
                    }
                })
                .await
            };
            let end = answer.map(|answer| {
                self.has_answered(answer.get_ref());
            });
            return self.has_ended(end);
        }
        if *kind == LIST {
            let request = marked(id, self.plan.request(0));
            let responses = caller.server_streaming::<_, Item>(kind, request).await;
            return self.receive(responses).await;
        }
        self.send(async |requests| {
            let responses = match requests {
                Outgoing::Pushed(sink) => {
                    caller
                        .bidi_streaming::<_, _, Item>(kind, marked(id, sink))
                        .await
                }
                Outgoing::Polled(stream) => {
                    caller
                        .bidi_streaming::<_, _, Item>(kind, marked(id, stream))
                        .await
                }
            };
            self.receive(responses).await;
        })
        .await
    }

    /// Sends the requests while `call` goes on.
    async fn send<T>(self: &Arc<Self>, call: impl AsyncFnOnce(Outgoing) -> T) -> T {
        if !self.plan.caller_pushes {
            let case = Arc::clone(self);
            let items = (0..self.plan.requests.len()).map(move |at| case.plan.request(at));
            let items: Box<dyn Iterator<Item = Item> + Send> = Box::new(items);
            return call(Outgoing::Polled(tokio_stream::iter(items))).await;
        }
        let (mut sender, sink) = Sender::for_requests();
        let send = async {
            let fail_at = match self.plan.give_up {
                GiveUp::Failing(at) => at,
                _ => usize::MAX,
            };
            for at in 0..self.plan.requests.len().min(fail_at) {
                // The response tells why nobody listens.
                if sender.send(&self.plan.request(at)).await.is_err() {
                    return;
                }
            }
            match fail_at {
                usize::MAX => sender.finish(),
                _ => sender.fail(Status::data_loss("there is no other")),
            }
        };
        let (ended, ()) = tokio::join!(call(Outgoing::Pushed(Box::new(sink))), send);
        ended
    }

    /// Receives a stream of responses, or as many as are wanted.
    async fn receive(&self, responses: Result<Response<Streaming<Item>>, Status>) {
        let mut responses = match responses {
            Ok(responses) => responses.into_inner(),
            Err(status) => return self.has_ended(Err(status)),
        };
        let mut received = 0;
        loop {
            if self.plan.give_up == GiveUp::After(received) {
                return;
            }
            if self.plan.caller_pauses {
                for _ in 0..10 {
                    yield_now().await;
                }
            }
            match responses.message().await {
                Ok(Some(item)) => received = self.has_answered(&item),
                Ok(None) => return self.has_ended(Ok(())),
                Err(status) => return self.has_ended(Err(status)),
            }
        }
    }
}

/// The requests of a call, at the caller.
enum Outgoing {
    Pushed(Box<RequestSink<Item>>),
    Polled(tokio_stream::Iter<Box<dyn Iterator<Item = Item> + Send>>),
}

/// A request that tells which call it belongs to.
fn marked<T>(id: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-case", id.into());
    request
}

/// The requests of a call, at the server.
enum Requests {
    One(Option<Item>),
    Many(Streaming<Item>),
}

impl Requests {
    async fn next(&mut self) -> Result<Option<Item>, Status> {
        match self {
            Self::One(item) => Ok(item.take()),
            Self::Many(items) => items.message().await,
        }
    }
}

/// Where the responses of a call go, at the server.
enum Responses {
    /// The handler returns it.
    One,
    Pushed(Sender<Item>),
    Queued(mpsc::Sender<Result<Item, Status>>),
}

impl Responses {
    async fn send(&mut self, item: Item) -> Result<(), Status> {
        match self {
            Self::One => Ok(()),
            Self::Pushed(sender) => sender.send(&item).await,
            Self::Queued(sender) => {
                let gone = |_| Status::cancelled("the caller has gone");
                sender.send(Ok(item)).await.map_err(gone)
            }
        }
    }

    async fn end(self, status: Result<(), Status>) {
        match (self, status) {
            (Self::One, _) | (Self::Queued(_), Ok(())) => {}
            (Self::Pushed(sender), Ok(())) => sender.finish(),
            (Self::Pushed(sender), Err(status)) => sender.fail(status),
            // If there is nobody, nobody needs it.
            (Self::Queued(sender), Err(status)) => drop(sender.send(Err(status)).await),
        }
    }
}

/// The calls under way.
#[derive(Clone, Debug, Default)]
struct Cases {
    cases: Arc<Mutex<HashMap<u64, Arc<Case>>>>,
    /// Handlers, and the tasks that they leave behind.
    alive: Alive,
}

impl Cases {
    /// The case that a request belongs to, if it does.
    fn of<T>(&self, request: &Request<T>) -> Option<Arc<Case>> {
        let id = request.metadata().get("x-case")?.to_str().unwrap();
        let cases = self.cases.lock().unwrap();
        Some(Arc::clone(&cases[&id.parse().unwrap()]))
    }

    /// Answers with one message.
    async fn answer(
        self,
        case: Option<Arc<Case>>,
        mut requests: Requests,
        cancellation: Cancellation,
    ) -> Result<Response<Item>, Status> {
        let _alive = self.alive.enter();
        let Some(case) = case else {
            // A call that is none of ours.
            return Ok(Response::new(requests.next().await?.unwrap_or_default()));
        };
        case.serve(&mut requests, &mut Responses::One, &cancellation)
            .await?;
        Ok(Response::new(case.plan.response(0)))
    }

    /// Answers with many, in a task of its own.
    fn run(
        &self,
        case: Option<Arc<Case>>,
        mut requests: Requests,
        mut responses: Responses,
        cancellation: Cancellation,
    ) {
        let case = case.expect("only unary calls are none of ours");
        let alive = self.alive.enter();
        tokio::spawn(async move {
            let _alive = alive;
            let served = case
                .serve(&mut requests, &mut responses, &cancellation)
                .await;
            responses.end(served).await;
        });
    }

    /// The service. Its streams of responses are senders, or else queues of tokio's.
    fn service(&self, pushes: bool) -> Streams {
        let (one, record, list, chat) = (self.clone(), self.clone(), self.clone(), self.clone());
        let service = Streams::default()
            .one(move |request| {
                let (case, cancellation) = (one.of(&request), request.cancellation());
                let requests = Requests::One(Some(request.into_inner()));
                one.clone().answer(case, requests, cancellation)
            })
            .record(move |request| {
                let (case, cancellation) = (record.of(&request), request.cancellation());
                let requests = Requests::Many(request.into_inner());
                record.clone().answer(case, requests, cancellation)
            });
        let run_list = move |request: Request<Item>, responses| {
            let (case, cancellation) = (list.of(&request), request.cancellation());
            let requests = Requests::One(Some(request.into_inner()));
            list.run(case, requests, responses, cancellation);
        };
        let run_chat = move |request: Request<Streaming<Item>>, responses| {
            let (case, cancellation) = (chat.of(&request), request.cancellation());
            let requests = Requests::Many(request.into_inner());
            chat.run(case, requests, responses, cancellation);
        };
        if pushes {
            let push = || {
                let (sender, responses) = Sender::for_responses();
                (Responses::Pushed(sender), Response::new(responses))
            };
            service
                .list(move |request| {
                    let (sender, response) = push();
                    run_list(request, sender);
                    async { Ok(response) }
                })
                .chat(move |request| {
                    let (sender, response) = push();
                    run_chat(request, sender);
                    async { Ok(response) }
                })
        } else {
            let queue = || {
                let (sender, responses) = mpsc::channel(1);
                let responses = ReceiverStream::new(responses);
                (Responses::Queued(sender), Response::new(responses))
            };
            service
                .list(move |request| {
                    let (sender, response) = queue();
                    run_list(request, sender);
                    async { Ok(response) }
                })
                .chat(move |request| {
                    let (sender, response) = queue();
                    run_chat(request, sender);
                    async { Ok(response) }
                })
        }
    }

    /// Makes calls one after the other.
    async fn row(self, caller: Caller, row: u64) {
        let mut numbers = Numbers(row);
        for call in 0..CALLS {
            let id = row * CALLS as u64 + call as u64;
            let case = Arc::new(Case {
                plan: Plan::random(&mut numbers),
                taken: Mutex::default(),
                seen: Mutex::default(),
            });
            self.cases.lock().unwrap().insert(id, Arc::clone(&case));
            Arc::clone(&case).call(&caller, id).await;
            case.check();
        }
    }
}

async fn calls_are_what_they_must_be(pushes: bool) {
    let cases = Cases::default();
    let lab = Lab::new(cases.service(pushes)).await;
    let rows = (0..ROWS).map(|row| tokio::spawn(cases.clone().row(lab.caller.clone(), row)));
    for row in rows.collect::<Vec<_>>() {
        row.await.unwrap();
    }
    until("handlers are over", || cases.alive.count() == 0).await;
    lab.is_clean("calls of all kinds").await;
    // What was taken of calls that were given up was what was sent, too.
    for case in cases.cases.lock().unwrap().values() {
        case.check();
    }
}

#[test]
fn random_calls_come_to_what_they_must_with_senders() {
    alone(calls_are_what_they_must_be(true));
}

#[test]
fn random_calls_come_to_what_they_must_with_streams() {
    alone(calls_are_what_they_must_be(false));
}
