//! The client: a call of each kind.

use std::{error::Error, fmt::Write as _};

use examples::route::{
    Feature, Note, Point, Rectangle, Summary, route_guide_client::RouteGuideClient,
};
use shmipc_rpc::{Channel, Endpoint, Sender, Status};

use crate::map;

/// Where the ferry lands.
const FERRY_STAGE: &str = "Ferry Stage";

/// Some way out at sea.
const NOWHERE: Point = Point {
    latitude: 490_000_000,
    longitude: -90_000_000,
};

/// The middle of the island.
const MIDDLE: Rectangle = Rectangle {
    a: Some(Point {
        latitude: 496_000_000,
        longitude: -78_900_000,
    }),
    b: Some(Point {
        latitude: 496_400_000,
        longitude: -78_200_000,
    }),
};

/// Makes the calls, and returns what came of them.
pub(crate) async fn run(address: impl Into<Endpoint>) -> Result<String, Box<dyn Error>> {
    let channel = Channel::connect(address).await?;
    let client = RouteGuideClient::new(channel);
    let places = map::features()?;
    let mut out = String::new();
    get(&client, &places, &mut out).await?;
    list(&client, &mut out).await?;
    record(&client, &places, &mut out).await?;
    chat(&client, &places, &mut out).await?;
    Ok(out)
}

/// One request, one response.
async fn get(
    client: &RouteGuideClient,
    places: &[Feature],
    out: &mut String,
) -> Result<(), Box<dyn Error>> {
    let point = find(places, FERRY_STAGE)?;
    let feature = client.get_feature(point).await?.into_inner();
    writeln!(out, "at {}: {}", coordinates(point), feature.name)?;
    match client.get_feature(NOWHERE).await {
        Ok(_) => return Err("there is something where nothing should be".into()),
        Err(status) => writeln!(out, "at {}: {status}", coordinates(NOWHERE))?,
    }
    Ok(())
}

/// One request, a stream of responses.
async fn list(client: &RouteGuideClient, out: &mut String) -> Result<(), Box<dyn Error>> {
    let mut features = client.list_features(MIDDLE).await?.into_inner();
    writeln!(out, "in the middle of the island:")?;
    while let Some(feature) = features.message().await? {
        let point = feature.location.unwrap_or_default();
        writeln!(out, "  {}  {}", coordinates(point), feature.name)?;
    }
    Ok(())
}

/// A stream of requests, one response.
async fn record(
    client: &RouteGuideClient,
    places: &[Feature],
    out: &mut String,
) -> Result<(), Box<dyn Error>> {
    // From the north to the south, by way of every third place, and points half-way between them.
    let stops: Vec<Point> = places
        .iter()
        .step_by(3)
        .filter_map(|p| p.location)
        .collect();
    let legs: Vec<(Point, Point)> = stops.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let end = stops.last().copied();
    let route = legs
        .into_iter()
        .flat_map(|(from, to)| [from, half_way(from, to)]);
    let Summary {
        points,
        features,
        length,
    } = client
        .record_route(tokio_stream::iter(route.chain(end)))
        .await?
        .into_inner();
    writeln!(
        out,
        "a route of {points} points, {features} of which have a name: {length} m"
    )?;
    Ok(())
}

/// Streams both ways.
async fn chat(
    client: &RouteGuideClient,
    places: &[Feature],
    out: &mut String,
) -> Result<(), Box<dyn Error>> {
    let mut notes = Vec::new();
    for (name, text) in [
        (FERRY_STAGE, "the last boat leaves at nine"),
        ("Owl Barn", "the door sticks"),
        (FERRY_STAGE, "on Sundays at eight"),
        ("Owl Barn", "not any more"),
        (FERRY_STAGE, "but not in winter"),
    ] {
        notes.push(Note {
            location: Some(find(places, name)?),
            text: text.to_owned(),
        });
    }
    let (mut sender, leaving) = Sender::for_requests();
    let mut arriving = client.route_chat(leaving).await?.into_inner();
    // While some notes leave, others arrive.
    let send = async {
        for note in &notes {
            sender.send(note).await?;
        }
        sender.finish();
        Ok::<_, Status>(())
    };
    let receive = async {
        writeln!(out, "notes from those who were there before:")?;
        while let Some(note) = arriving.message().await? {
            let point = note.location.unwrap_or_default();
            writeln!(out, "  {}  {}", coordinates(point), note.text)?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (sent, received) = tokio::join!(send, receive);
    // If the call has failed, that is why nothing more could be sent.
    received?;
    Ok(sent?)
}

/// Where a place is.
fn find(places: &[Feature], name: &str) -> Result<Point, String> {
    let place = places.iter().find(|place| place.name == name);
    let point = place.and_then(|place| place.location);
    point.ok_or_else(|| format!("there is no {name}"))
}

/// A point between two that are not far apart.
fn half_way(from: Point, to: Point) -> Point {
    Point {
        latitude: from.latitude.midpoint(to.latitude),
        longitude: from.longitude.midpoint(to.longitude),
    }
}

/// A point as people write it.
fn coordinates(point: Point) -> String {
    let degrees = |e7: i32| f64::from(e7).abs() * 1e-7;
    let (lat, lon) = (degrees(point.latitude), degrees(point.longitude));
    let north = if point.latitude < 0 { 'S' } else { 'N' };
    let east = if point.longitude < 0 { 'W' } else { 'E' };
    format!("{lat:.5}° {north} {lon:.5}° {east}")
}
