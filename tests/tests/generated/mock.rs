//! A mock, as a test would use it.

use shmipc_rpc::{Code, Request, Response, Status, http::HeaderValue};
use tests::in_time;
use tokio_stream::StreamExt as _;

use crate::{
    all_options::{
        Point, Summary,
        route_guide_methods::{GET_FEATURE, LIST_FEATURES, RECORD_ROUTE, ROUTE_CHAT},
        route_guide_mock::MockRouteGuide,
    },
    guide::{feature, point, tour},
};

#[tokio::test]
async fn it_answers_as_it_was_told_and_notes_the_calls() {
    let mock = MockRouteGuide::new();
    mock.on_get_feature(async |request: Request<Point>| {
        Ok(Response::new(feature(request.into_inner())))
    })
    .on_list_features(|request| async move {
        let features = (0..request.into_inner().latitude).map(|n| Ok(feature(point(n))));
        Ok(Response::new(tokio_stream::iter(features)))
    })
    .on_record_route(|request| async move {
        let mut route = request.into_inner();
        let mut points = 0;
        while route.message().await?.is_some() {
            points += 1;
        }
        Ok(Response::new(Summary { points }))
    })
    .on_route_chat(|request| async move {
        let points = request.into_inner();
        Ok(Response::new(points.map(|point| point.map(feature))))
    });
    in_time("the mock", tour(&mock.client())).await;

    let methods: Vec<_> = mock
        .calls()
        .all()
        .iter()
        .map(|call| *call.method())
        .collect();
    let expected = [
        GET_FEATURE,
        LIST_FEATURES,
        RECORD_ROUTE,
        ROUTE_CHAT,
        GET_FEATURE,
    ];
    assert_eq!(methods, expected);
    let gets = mock.calls().to(&GET_FEATURE);
    assert_eq!(gets[0].message::<Point>(), Some(point(3)));
    assert_eq!(gets[1].message::<Point>(), Some(point(5)));
    let record = &mock.calls().to(&RECORD_ROUTE)[0];
    assert_eq!(record.message::<Point>(), None, "there were several");
}

#[tokio::test]
async fn it_notes_the_requests_of_a_stream_as_they_are_taken() {
    let mock = MockRouteGuide::new();
    mock.on_record_route(|request| async move {
        let mut route = request.into_inner();
        let first = route.message().await?;
        assert_eq!(first, Some(point(1)));
        Ok(Response::new(Summary { points: 1 }))
    })
    .on_route_chat(|request| async move {
        let points = request.into_inner();
        Ok(Response::new(points.map(|point| point.map(feature))))
    });
    let client = mock.client();
    let points = || tokio_stream::iter((1..=3).map(point));
    in_time("a call", client.record_route(points()))
        .await
        .unwrap();
    let record = mock.calls().to(&RECORD_ROUTE).remove(0);
    // What the handler did not want, it has not seen.
    assert_eq!(record.messages::<Point>(), Some(vec![point(1)]));

    let (points, taken) = tokio::sync::mpsc::channel(1);
    let taken = tokio_stream::wrappers::ReceiverStream::new(taken);
    let answers = in_time("a call", client.route_chat(taken)).await;
    let mut answers = answers.unwrap().into_inner();
    let chat = mock.calls().to(&ROUTE_CHAT).remove(0);
    for count in 1..=3 {
        assert_eq!(chat.messages::<Point>().unwrap().len(), count - 1);
        points.send(point(7)).await.unwrap();
        let answer = in_time("an answer", answers.message()).await;
        assert_eq!(answer.unwrap(), Some(feature(point(7))));
        assert_eq!(chat.messages::<Point>(), Some(vec![point(7); count]));
    }
    // They are noted once, whoever asks, and for as long as somebody wants to know.
    mock.calls().clear();
    assert!(mock.calls().all().is_empty());
    assert_eq!(chat.clone().messages::<Point>().unwrap().len(), 3);

    mock.on_get_feature(async |_| Ok(Response::new(feature(point(9)))));
    in_time("a call", client.get_feature(point(4)))
        .await
        .unwrap();
    let get = mock.calls().to(&GET_FEATURE).remove(0);
    assert_eq!(get.messages::<Point>(), Some(vec![point(4)]));
}

#[tokio::test]
async fn it_says_what_it_was_not_told() {
    let mock = MockRouteGuide::new();
    let client = mock.client();
    let status = client.get_feature(point(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(
        status.message(),
        "the mock of `all_options.RouteGuide` was not told what to answer to `GetFeature`"
    );
    let status = client
        .list_features(point(1))
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn it_may_be_told_anew_while_clients_are_there() {
    let mock = MockRouteGuide::new();
    let client = mock.client();
    mock.on_get_feature(async |_| Err(Status::not_found("nothing there")));
    let mut request = Request::new(point(1));
    request
        .metadata_mut()
        .insert("colour", HeaderValue::from_static("rouge"));
    let status = client.get_feature(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(mock.calls().all()[0].metadata()["colour"], "rouge");

    mock.calls().clear();
    mock.on_get_feature(async |_| Ok(Response::new(feature(point(9)))));
    let reply = client.get_feature(point(1)).await.unwrap();
    assert_eq!(reply.into_inner(), feature(point(9)));
    assert_eq!(mock.calls().all().len(), 1);
}
