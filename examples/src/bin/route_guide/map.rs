//! The places, and the distances between them.

use examples::route::{Feature, Point, Rectangle};
use serde::Deserialize;
use shmipc_rpc::Status;

/// What there is.
const PLACES: &str = include_str!("../../../data/route_guide.json");

/// The mean radius of the earth in metres.
const RADIUS_M: f64 = 6_371_000.0;

#[derive(Deserialize)]
struct Place {
    name: String,
    latitude: i32,
    longitude: i32,
}

/// Reads the places, and sorts them from north to south.
pub(crate) fn features() -> serde_json::Result<Vec<Feature>> {
    let mut places: Vec<Place> = serde_json::from_str(PLACES)?;
    places.sort_by_key(|place| (-place.latitude, place.longitude));
    let features = places.into_iter().map(|place| Feature {
        name: place.name,
        location: Some(Point {
            latitude: place.latitude,
            longitude: place.longitude,
        }),
    });
    Ok(features.collect())
}

/// An area whose corners are there and in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    south_west: Point,
    north_east: Point,
}

impl Area {
    pub(crate) fn contains(self, point: Point) -> bool {
        let (low, high) = (self.south_west, self.north_east);
        (low.latitude..=high.latitude).contains(&point.latitude)
            && (low.longitude..=high.longitude).contains(&point.longitude)
    }
}

impl TryFrom<Rectangle> for Area {
    type Error = Status;

    fn try_from(rectangle: Rectangle) -> Result<Self, Status> {
        let Rectangle {
            a: Some(a),
            b: Some(b),
        } = rectangle
        else {
            return Err(Status::invalid_argument("a rectangle has two corners"));
        };
        Ok(Self {
            south_west: Point {
                latitude: a.latitude.min(b.latitude),
                longitude: a.longitude.min(b.longitude),
            },
            north_east: Point {
                latitude: a.latitude.max(b.latitude),
                longitude: a.longitude.max(b.longitude),
            },
        })
    }
}

/// The way from one point to the other along a great circle, in metres.
pub(crate) fn distance_m(from: Point, to: Point) -> f64 {
    let radians = |e7: i32| (f64::from(e7) * 1e-7).to_radians();
    let (lat_from, lat_to) = (radians(from.latitude), radians(to.latitude));
    let half_lat = (lat_to - lat_from) / 2.0;
    let half_lon = (radians(to.longitude) - radians(from.longitude)) / 2.0;
    let chord = half_lat.sin().powi(2) + lat_from.cos() * lat_to.cos() * half_lon.sin().powi(2);
    2.0 * RADIUS_M * chord.sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(latitude: i32, longitude: i32) -> Point {
        Point {
            latitude,
            longitude,
        }
    }

    #[test]
    fn a_degree_along_a_meridian_is_sixty_nautical_miles() {
        let length = distance_m(
            point(490_000_000, 70_000_000),
            point(500_000_000, 70_000_000),
        );
        assert!((length - 60.0 * 1852.0).abs() < 100.0, "{length}");
    }

    #[test]
    fn corners_may_be_given_in_any_order() {
        let area = Area::try_from(Rectangle {
            a: Some(point(10, -20)),
            b: Some(point(-10, 20)),
        });
        let area = area.expect("both corners are there");
        assert!(area.contains(point(10, 20)) && area.contains(point(0, 0)));
        assert!(!area.contains(point(11, 0)) && !area.contains(point(0, -21)));
    }

    #[test]
    fn every_place_has_a_name_and_a_point_of_its_own() {
        let features = features().expect("the data set can be read");
        let mut points: Vec<_> = features.iter().map(|feature| feature.location).collect();
        points.sort_by_key(|point| point.map(|point| (point.latitude, point.longitude)));
        points.dedup();
        assert_eq!(points.len(), features.len());
        assert!(features.iter().all(|feature| !feature.name.is_empty()));
    }
}
