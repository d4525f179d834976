//! The server: one handler of each kind.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use examples::{
    route::{
        Feature, Note, Point, Rectangle, Summary,
        route_guide_server::{RouteGuide, RouteGuideServer},
    },
    second,
};
use shmipc_rpc::{
    Address, Listener, Request, Response, ResponseStream, Sender, Server, Status, Streaming,
};
use tokio_stream::StreamExt as _;

use crate::map::{self, Area, distance_m};

/// What the guide knows, and what it has been told.
#[derive(Debug)]
struct Guide {
    features: Arc<[Feature]>,
    notes: Arc<Notes>,
}

impl Guide {
    fn feature_at(&self, point: Point) -> Option<&Feature> {
        let mut features = self.features.iter();
        features.find(|feature| feature.location == Some(point))
    }
}

impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        match self.feature_at(request.into_inner()) {
            Some(feature) => Ok(Response::new(feature.clone())),
            None => Err(Status::not_found("there is nothing with a name")),
        }
    }

    /// Looks for features while they are sent: the next is looked for when the caller has room for it.
    async fn list_features(
        &self,
        request: Request<Rectangle>,
    ) -> Result<Response<impl ResponseStream<Feature>>, Status> {
        let area = Area::try_from(request.into_inner())?;
        let features = Arc::clone(&self.features);
        let found = tokio_stream::iter(0..features.len()).filter_map(move |at| {
            let feature = &features[at];
            let is_inside = feature.location.is_some_and(|point| area.contains(point));
            is_inside.then(|| Ok(feature.clone()))
        });
        Ok(Response::new(found))
    }

    /// Reads points as they come.
    async fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<Summary>, Status> {
        let mut route = request.into_inner();
        let mut summary = Summary::default();
        let mut length = 0.0;
        let mut previous = None;
        while let Some(point) = route.message().await? {
            summary.points += 1;
            summary.features += u32::from(self.feature_at(point).is_some());
            length += previous.map_or(0.0, |previous| distance_m(previous, point));
            previous = Some(point);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a route that is longer is cut at the largest number"
        )]
        {
            summary.length = length.round() as u32;
        }
        Ok(Response::new(summary))
    }

    /// Answers each note while others arrive. The task ends with the call, because both its reading and its sending do.
    async fn route_chat(
        &self,
        request: Request<Streaming<Note>>,
    ) -> Result<Response<impl ResponseStream<Note>>, Status> {
        let mut arriving = request.into_inner();
        let (mut sender, leaving) = Sender::for_responses();
        let notes = Arc::clone(&self.notes);
        tokio::spawn(async move {
            while let Some(note) = arriving.message().await? {
                let Some(point) = note.location else {
                    sender.fail(Status::invalid_argument("a note is left somewhere"));
                    break;
                };
                for earlier in notes.leave(point, note) {
                    sender.send(&earlier).await?;
                }
            }
            Ok::<_, Status>(())
        });
        Ok(Response::new(leaving))
    }
}

/// Where notes were left, by latitude and longitude.
#[derive(Debug, Default)]
struct Notes(Mutex<HashMap<(i32, i32), Vec<Note>>>);

impl Notes {
    /// Leaves a note at a point. Returns those that were there before.
    fn leave(&self, point: Point, note: Note) -> Vec<Note> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = notes.entry((point.latitude, point.longitude)).or_default();
        let earlier = here.clone();
        here.push(note);
        earlier
    }
}

/// Serves until told to end.
pub(crate) async fn run(address: impl Into<Address>) -> Result<(), Box<dyn Error>> {
    let guide = Guide {
        features: map::features()?.into(),
        notes: Arc::default(),
    };
    let server = Server::builder().add_service(RouteGuideServer::new(guide));
    let listener = Listener::bind(address)?;
    server
        .serve_with_listener_and_shutdown(listener, second::ready()?)
        .await?;
    Ok(())
}
