//! What is negotiated for shmipc's own link in version 4: features, with their settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::outbox::Windows;

/// The name of the feature that both sides look at their queues now and then, and nobody wakes anybody.
const POLLING: &str = "event_queue_polling";

/// The name of the feature that both sides are woken by eventfds.
const EVENTFD: &str = "eventfd_wakeup";

/// The name of the feature that elements may be records of ours: ends, credit and the like. Only this crate knows it.
const RECORDS: &str = "stream_records_v1";

/// The longest time between two looks that we agree to: longer ones would stall a session (C10).
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How the sides of a session of version 4 are woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wakes {
    /// By a message on the socket.
    Socket,
    /// By an eventfd each.
    EventFd,
    /// Not at all: they look at their queues after this time.
    Polling(Duration),
}

/// What shmipc's own link comes with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Terms {
    pub(crate) wakes: Wakes,
    /// How much the sender of this is ready to receive on a stream, if it knows our records.
    pub(crate) windows: Option<Windows>,
}

/// Settings of features. Those of others are skipped; those of shmipc are looked at leniently where shmipc does so.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event_queue_polling: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_records_v1: Option<Value>,
}

#[derive(Deserialize, Serialize)]
struct PollingSettings {
    polling_interval_us: u64,
}

#[derive(Deserialize, Serialize)]
struct RecordsSettings {
    streams_max: u32,
    messages: u32,
    bytes: u32,
}

impl Terms {
    /// The features to list for these terms.
    pub(crate) fn features(&self) -> impl Iterator<Item = &'static str> {
        let wakes = match self.wakes {
            Wakes::Socket => None,
            Wakes::EventFd => Some(EVENTFD),
            Wakes::Polling(_) => Some(POLLING),
        };
        let records = self.windows.map(|_| RECORDS);
        wakes.into_iter().chain(records)
    }

    /// Whether any of these features is one that only this crate knows.
    pub(crate) fn are_ours(features: &[String]) -> bool {
        has(features, RECORDS)
    }

    /// The settings that go with the features.
    pub(crate) fn settings(&self) -> Settings {
        let polling = match self.wakes {
            Wakes::Polling(interval) => Some(PollingSettings {
                // Zero would be refused, and more than fits is no interval.
                polling_interval_us: u64::try_from(interval.as_micros())
                    .unwrap_or(u64::MAX)
                    .max(1),
            }),
            Wakes::Socket | Wakes::EventFd => None,
        };
        let records = self.windows.map(|windows| RecordsSettings {
            streams_max: windows.streams_max,
            messages: windows.messages,
            bytes: windows.bytes,
        });
        let value = "structs of numbers have a JSON form";
        Settings {
            event_queue_polling: polling.map(|polling| serde_json::to_value(polling).expect(value)),
            stream_records_v1: records.map(|records| serde_json::to_value(records).expect(value)),
        }
    }

    /// What a client asks for. Features without valid settings are passed over; polling comes before eventfds.
    pub(crate) fn requested(features: &[String], settings: &Settings) -> Self {
        let wakes = match settings.interval() {
            Some(interval) if has(features, POLLING) && interval <= INTERVAL_MAX => {
                Wakes::Polling(interval)
            }
            _ if has(features, EVENTFD) => Wakes::EventFd,
            _ => Wakes::Socket,
        };
        let windows = settings.windows().filter(|_| has(features, RECORDS));
        Self { wakes, windows }
    }

    /// What a server has selected of what was `asked` for; `None` if that is something else, or not valid.
    pub(crate) fn selected(asked: &Self, features: &[String], settings: &Settings) -> Option<Self> {
        let wakes = if has(features, POLLING) {
            let Wakes::Polling(proposed) = asked.wakes else {
                return None;
            };
            let interval = match &settings.event_queue_polling {
                None => Some(proposed),
                Some(_) => settings.interval(),
            };
            Wakes::Polling(interval.filter(|&interval| interval <= INTERVAL_MAX)?)
        } else if has(features, EVENTFD) {
            (asked.wakes == Wakes::EventFd).then_some(Wakes::EventFd)?
        } else {
            Wakes::Socket
        };
        let windows = if has(features, RECORDS) {
            asked.windows?;
            Some(settings.windows()?)
        } else {
            None
        };
        Some(Self { wakes, windows })
    }
}

impl Settings {
    fn interval(&self) -> Option<Duration> {
        let value = self.event_queue_polling.as_ref()?;
        let PollingSettings {
            polling_interval_us,
        } = PollingSettings::deserialize(value).ok()?;
        (polling_interval_us != 0).then(|| Duration::from_micros(polling_interval_us))
    }

    fn windows(&self) -> Option<Windows> {
        let value = self.stream_records_v1.as_ref()?;
        let records = RecordsSettings::deserialize(value).ok()?;
        let windows = Windows {
            streams_max: records.streams_max,
            messages: records.messages,
            bytes: records.bytes,
        };
        windows.are_valid().then_some(windows)
    }
}

fn has(features: &[String], name: &str) -> bool {
    features.iter().any(|feature| feature == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Settings {
        serde_json::from_str(json).unwrap()
    }

    fn requested(features: &[&str], json: &str) -> Wakes {
        let features: Vec<_> = features.iter().map(|&feature| feature.to_owned()).collect();
        Terms::requested(&features, &settings(json)).wakes
    }

    #[test]
    fn polling_beats_eventfds_if_its_settings_are_valid() {
        let valid = r#"{"event_queue_polling":{"polling_interval_us":100,"new":1}}"#;
        let both = ["eventfd_wakeup", "event_queue_polling"];
        assert_eq!(
            requested(&both, valid),
            Wakes::Polling(Duration::from_micros(100))
        );
        assert_eq!(requested(&["eventfd_wakeup"], valid), Wakes::EventFd);
        assert_eq!(requested(&["event_queue_polling"], "{}"), Wakes::Socket);
        assert_eq!(requested(&["new"], valid), Wakes::Socket);
    }

    #[test]
    fn hazard_c10_intervals_that_would_stall_a_session_are_not_agreed_on() {
        for invalid in [
            r#"{"event_queue_polling":{"polling_interval_us":0}}"#,
            r#"{"event_queue_polling":{"polling_interval_us":-1}}"#,
            r#"{"event_queue_polling":{"polling_interval_us":1.5}}"#,
            r#"{"event_queue_polling":{"polling_interval_us":1000001}}"#,
            r#"{"event_queue_polling":{"polling_interval_us":18446744073709551615}}"#,
            r#"{"event_queue_polling":[{}]}"#,
            r#"{"event_queue_polling":null}"#,
            "{}",
        ] {
            let both = ["eventfd_wakeup", "event_queue_polling"];
            assert_eq!(requested(&both, invalid), Wakes::EventFd, "{invalid}");
        }
    }

    #[test]
    fn a_server_may_only_select_what_was_asked_for() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let plain = Terms {
            wakes: Wakes::Socket,
            windows: None,
        };
        let none = Settings::default();
        assert_eq!(
            Terms::selected(&plain, &names(&["new"]), &none),
            Some(plain)
        );
        for unasked in ["eventfd_wakeup", "event_queue_polling", "stream_records_v1"] {
            assert_eq!(Terms::selected(&plain, &names(&[unasked]), &none), None);
        }
        let asked = Terms {
            wakes: Wakes::Polling(Duration::from_micros(7)),
            ..plain
        };
        let polling = names(&["event_queue_polling"]);
        assert_eq!(Terms::selected(&asked, &polling, &none), Some(asked));
        let zero = settings(r#"{"event_queue_polling":{"polling_interval_us":0}}"#);
        assert_eq!(Terms::selected(&asked, &polling, &zero), None);
    }

    #[test]
    fn both_sides_read_what_the_other_says() {
        let windows = Windows {
            streams_max: 3,
            messages: 4,
            bytes: 5,
        };
        for wakes in [
            Wakes::Socket,
            Wakes::EventFd,
            Wakes::Polling(Duration::from_micros(9)),
        ] {
            let terms = Terms {
                wakes,
                windows: Some(windows),
            };
            let features: Vec<_> = terms.features().map(str::to_owned).collect();
            let settings = terms.settings();
            assert_eq!(Terms::requested(&features, &settings), terms);
            assert_eq!(Terms::selected(&terms, &features, &settings), Some(terms));
        }
    }
}
