//! The first message each way: what both sides can do, in shmipc's JSON.
//!
//! ```json
//! {"supports_protocols":[4],"sdk_name":"shmipc-transport","sdk_version":"0.1.0",
//!  "supports_features":["outbox_v1","forwarded_regions_v1"],"settings":{}}
//! {"selected_protocol":4,"sdk_name":"shmipc-transport","sdk_version":"0.1.0",
//!  "selected_features":["outbox_v1","forwarded_regions_v1"],"settings":{}}
//! ```
//!
//! Our link is a feature of protocol version 4, whose own link is shmipc's. A peer that knows only that one reads and answers
//! these messages too; it does not list ours, and both sides learn so before anything else was said. What is agreed on for
//! shmipc's link is in [`core::shmipc`](crate::core::shmipc::terms). As in shmipc, unknown keys are ignored, `null` is not the same
//! as absent, and the keys without a default must be there.

use serde::{Deserialize, Serialize};

use super::InvalidMessage;
use crate::{
    core::shmipc::terms::{Settings, Terms as ShmipcTerms},
    error::{Refusal, RefusalCode},
};

/// The protocol version that features belong to.
const PROTOCOL: u8 = 4;

/// The name of the link that this crate offers.
const OUTBOX: &str = "outbox_v1";

/// The name of the feature that doorbells are sockets and not eventfds.
const DOORBELL_SOCKET: &str = "doorbell_socket_v1";

/// The name of the feature that a side may pass memory on that somebody else has lent it.
const FORWARDED_REGIONS: &str = "forwarded_regions_v1";

const SDK_NAME: &str = "shmipc-transport";
const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a side is woken by (H16); see [`sys::doorbell`](crate::sys::doorbell).
///
/// The two sides need not see each other in the same way: a server may have given its privileges up since it began to
/// listen, and descriptors are passed on. So each says what it insists on, and the greater of the two is used by both.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum DoorbellKind {
    /// An eventfd, between processes of one user.
    EventFd,
    /// A Unix socket, with anybody.
    Socket,
}

/// What the outbox link comes with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Terms {
    /// What both sides are woken by.
    pub(crate) doorbell: DoorbellKind,
    /// Whether a side may pass memory on that somebody else has lent it (H17).
    pub(crate) forwards: bool,
}

impl Terms {
    /// The features to list for the outbox link on these terms.
    fn features(self) -> Vec<String> {
        let doorbell = (self.doorbell == DoorbellKind::Socket).then_some(DOORBELL_SOCKET);
        let forwards = self.forwards.then_some(FORWARDED_REGIONS);
        let features = [Some(OUTBOX), doorbell, forwards];
        features.into_iter().flatten().map(str::to_owned).collect()
    }

    fn of_features(features: &[String]) -> Self {
        let doorbell = if has(features, DOORBELL_SOCKET) {
            DoorbellKind::Socket
        } else {
            DoorbellKind::EventFd
        };
        Self {
            doorbell,
            forwards: has(features, FORWARDED_REGIONS),
        }
    }
}

fn has(features: &[String], name: &str) -> bool {
    features.iter().any(|feature| feature == name)
}

/// The links that a client asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Offer {
    /// Our own, and the doorbell that the client insists on.
    pub(crate) outbox: Option<DoorbellKind>,
    /// shmipc's.
    pub(crate) shmipc: Option<ShmipcTerms>,
}

impl Offer {
    /// Nothing but our own link.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn outbox(doorbell: DoorbellKind) -> Self {
        Self {
            outbox: Some(doorbell),
            shmipc: None,
        }
    }
}

/// The links that a server accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Accepts {
    pub(crate) outbox: bool,
    pub(crate) shmipc: bool,
}

/// The link that a server chooses for a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Choice {
    Outbox,
    /// shmipc's, for which the client asks this.
    Shmipc(ShmipcTerms),
}

/// What a client says first (H7).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Request {
    supports_protocols: Vec<u8>,
    sdk_name: String,
    sdk_version: String,
    #[serde(default)]
    supports_features: Vec<String>,
    #[serde(default)]
    settings: Settings,
}

/// What a server answers (H8).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Response {
    selected_protocol: u8,
    sdk_name: String,
    sdk_version: String,
    #[serde(default)]
    selected_features: Vec<String>,
    #[serde(default)]
    settings: Settings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct ErrorObject {
    code: String,
    message: String,
}

impl Request {
    /// What this crate asks for.
    pub(crate) fn new(offer: &Offer) -> Self {
        let outbox = offer.outbox.map(|doorbell| Terms {
            doorbell,
            forwards: true,
        });
        let mut features = outbox.map(Terms::features).unwrap_or_default();
        let shmipc = offer.shmipc.as_ref();
        features.extend(
            shmipc
                .into_iter()
                .flat_map(ShmipcTerms::features)
                .map(str::to_owned),
        );
        Self {
            supports_protocols: vec![PROTOCOL],
            sdk_name: SDK_NAME.to_owned(),
            sdk_version: SDK_VERSION.to_owned(),
            supports_features: features,
            settings: shmipc.map(ShmipcTerms::settings).unwrap_or_default(),
        }
    }

    /// What the client insists on, and what it can do.
    pub(crate) fn terms(&self) -> Terms {
        Terms::of_features(&self.supports_features)
    }

    pub(crate) fn decode(json: &[u8]) -> Result<Self, InvalidMessage> {
        decode(json)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Chooses a link for this client, or says why there is none.
    pub(crate) fn judge(&self, accepts: Accepts) -> Result<Choice, Refusal> {
        if !self.supports_protocols.contains(&PROTOCOL) {
            return Err(Refusal::new(
                RefusalCode::VersionNotSupported,
                "protocol version is not supported",
            ));
        }
        if accepts.outbox && has(&self.supports_features, OUTBOX) {
            return Ok(Choice::Outbox);
        }
        if accepts.shmipc {
            let terms = ShmipcTerms::requested(&self.supports_features, &self.settings);
            return Ok(Choice::Shmipc(terms));
        }
        let message = if accepts.outbox {
            "only the feature outbox_v1 is supported"
        } else {
            "no link is negotiated"
        };
        Err(Refusal::new(RefusalCode::FeatureNotSupported, message))
    }

    /// Whether this is said by somebody else's client: it lists nothing that only this crate knows.
    pub(crate) fn is_foreign(&self) -> bool {
        let features = &self.supports_features;
        !has(features, OUTBOX) && !ShmipcTerms::are_ours(features)
    }
}

/// What a response means to the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// The outbox link it is, on these terms.
    Outbox(Terms),
    /// shmipc's own link it is, on these terms.
    Shmipc(ShmipcTerms),
    /// The server said no.
    Refused(Refusal),
    /// The server said yes, but to something else.
    Other {
        /// The protocol version that it selected.
        protocol: u8,
    },
}

impl Response {
    /// Agrees to what [`Offer::outbox`] asks for.
    pub(crate) fn outbox(terms: Terms) -> Self {
        Self {
            selected_protocol: PROTOCOL,
            selected_features: terms.features(),
            ..Self::empty()
        }
    }

    /// Agrees to shmipc's own link.
    pub(crate) fn shmipc(terms: &ShmipcTerms) -> Self {
        Self {
            selected_protocol: PROTOCOL,
            selected_features: terms.features().map(str::to_owned).collect(),
            settings: terms.settings(),
            ..Self::empty()
        }
    }

    pub(crate) fn refusal(refusal: &Refusal) -> Self {
        let error = ErrorObject {
            code: refusal.code().as_str().to_owned(),
            message: refusal.message().to_owned(),
        };
        Self {
            error: Some(error),
            ..Self::empty()
        }
    }

    fn empty() -> Self {
        Self {
            selected_protocol: 0,
            sdk_name: SDK_NAME.to_owned(),
            sdk_version: SDK_VERSION.to_owned(),
            selected_features: Vec::new(),
            settings: Settings::default(),
            error: None,
        }
    }

    pub(crate) fn decode(json: &[u8]) -> Result<Self, InvalidMessage> {
        decode(json)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Says what the server decided for a client that made this offer.
    pub(crate) fn answer(self, offer: &Offer) -> Answer {
        if let Some(ErrorObject { code, message }) = self.error {
            return Answer::Refused(Refusal::from_wire(&code, &message));
        }
        let protocol = self.selected_protocol;
        if protocol != PROTOCOL {
            return Answer::Other { protocol };
        }
        if offer.outbox.is_some() && has(&self.selected_features, OUTBOX) {
            return Answer::Outbox(Terms::of_features(&self.selected_features));
        }
        let asked = offer.shmipc.as_ref();
        asked
            .and_then(|asked| ShmipcTerms::selected(asked, &self.selected_features, &self.settings))
            .map_or(Answer::Other { protocol }, Answer::Shmipc)
    }
}

fn decode<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, InvalidMessage> {
    // The parser's own text may quote the peer's; place and kind say enough.
    serde_json::from_slice(json).map_err(|error| InvalidMessage::Negotiation {
        problem: match error.classify() {
            serde_json::error::Category::Io => "unreadable",
            serde_json::error::Category::Syntax => "syntax",
            serde_json::error::Category::Data => "missing key, or a value of the wrong type",
            serde_json::error::Category::Eof => "ends too early",
        },
        line: error.line(),
        column: error.column(),
    })
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("structs of strings and numbers have a JSON form")
}

/// Reads `data` as either of the two documents: the body of the fuzz target for this module.
#[cfg(any(test, fuzzing))]
pub fn fuzz_negotiation(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        let accepts = Accepts {
            outbox: true,
            shmipc: true,
        };
        let _ = request.judge(accepts);
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(response) = Response::decode(data) {
        assert_eq!(Response::decode(&response.encode()), Ok(response.clone()));
        response.answer(&Offer::outbox(DoorbellKind::EventFd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Terms = Terms {
        doorbell: DoorbellKind::EventFd,
        forwards: false,
    };

    const OURS: Accepts = Accepts {
        outbox: true,
        shmipc: false,
    };
    const OFFER: Offer = Offer::outbox(DoorbellKind::EventFd);

    fn request(json: &str) -> Result<Choice, Refusal> {
        Request::decode(json.as_bytes()).unwrap().judge(OURS)
    }

    fn answer(json: &str) -> Answer {
        Response::decode(json.as_bytes()).unwrap().answer(&OFFER)
    }

    #[test]
    fn our_messages_have_this_form() {
        let version = SDK_VERSION;
        assert_eq!(
            String::from_utf8(Request::new(&OFFER).encode()).unwrap(),
            format!(
                r#"{{"supports_protocols":[4],"sdk_name":"shmipc-transport","sdk_version":"{version}","#,
            ) + r#""supports_features":["outbox_v1","forwarded_regions_v1"],"settings":{}}"#
        );
        assert_eq!(
            String::from_utf8(Response::outbox(PLAIN).encode()).unwrap(),
            format!(
                r#"{{"selected_protocol":4,"sdk_name":"shmipc-transport","sdk_version":"{version}","#
            ) + r#""selected_features":["outbox_v1"],"settings":{}}"#
        );
        let refusal = Refusal::new(RefusalCode::Busy, "try later");
        assert_eq!(
            String::from_utf8(Response::refusal(&refusal).encode()).unwrap(),
            format!(
                r#"{{"selected_protocol":0,"sdk_name":"shmipc-transport","sdk_version":"{version}","#
            ) + r#""selected_features":[],"settings":{},"error":{"code":"BUSY","message":"try later"}}"#
        );
    }

    #[test]
    fn we_agree_with_ourselves() {
        for kind in [DoorbellKind::EventFd, DoorbellKind::Socket] {
            let request = Request::decode(&Request::new(&Offer::outbox(kind)).encode()).unwrap();
            let terms = Terms {
                doorbell: kind,
                forwards: true,
            };
            assert_eq!(request.judge(OURS), Ok(Choice::Outbox));
            assert_eq!(request.terms(), terms);
            for forwards in [true, false] {
                let terms = Terms { forwards, ..terms };
                let response = Response::decode(&Response::outbox(terms).encode()).unwrap();
                assert_eq!(response.answer(&OFFER), Answer::Outbox(terms));
            }
        }
    }

    #[test]
    fn every_refusal_reaches_the_client() {
        for code in [
            RefusalCode::VersionNotSupported,
            RefusalCode::JsonParseError,
            RefusalCode::FeatureNotSupported,
            RefusalCode::Unauthorized,
            RefusalCode::Busy,
        ] {
            let refusal = Refusal::new(code, "for a reason");
            assert_eq!(
                Response::decode(&Response::refusal(&refusal).encode())
                    .unwrap()
                    .answer(&OFFER),
                Answer::Refused(refusal)
            );
        }
    }

    #[test]
    fn links_of_the_future_and_unknown_keys_do_not_disturb() {
        let json = r#"{"new":null,"supports_protocols":[3,4,5],"sdk_name":"x","sdk_version":"9",
            "supports_features":["eventfd_wakeup","outbox_v2","outbox_v1"],
            "settings":{"event_queue_polling":{"polling_interval_us":5},"outbox_v1":[1]}}"#;
        assert_eq!(request(json), Ok(Choice::Outbox));
        let json = r#"{"selected_protocol":4,"sdk_name":"x","sdk_version":"9","error":null,"hint":[{}],
            "selected_features":["new","outbox_v1"],"settings":{"new":1}}"#;
        assert_eq!(answer(json), Answer::Outbox(PLAIN));
    }

    #[test]
    fn a_client_of_shmipc_is_told_what_is_missing() {
        let json = r#"{"supports_protocols":[4],"sdk_name":"shmipc-rs","sdk_version":"0.2.1",
            "supports_features":["eventfd_wakeup"],"settings":{}}"#;
        assert_eq!(
            request(json).unwrap_err().code(),
            RefusalCode::FeatureNotSupported
        );
        let json = r#"{"supports_protocols":[3],"sdk_name":"shmipc-rs","sdk_version":"0.2.1"}"#;
        assert_eq!(
            request(json).unwrap_err().code(),
            RefusalCode::VersionNotSupported
        );
    }

    #[test]
    fn a_server_of_shmipc_is_recognised() {
        let json = r#"{"selected_protocol":4,"sdk_name":"shmipc-rs","sdk_version":"0.2.1",
            "selected_features":[],"settings":{}}"#;
        assert_eq!(answer(json), Answer::Other { protocol: 4 });
        let json = r#"{"selected_protocol":0,"sdk_name":"shmipc-rs","sdk_version":"0.2.1",
            "error":{"code":"NOVEL","message":"m"}}"#;
        assert_eq!(
            answer(json),
            Answer::Refused(Refusal::new(RefusalCode::Other, "NOVEL: m"))
        );
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_place() {
        for json in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"supports_protocols":[4],"sdk_name":"x"}"#,
            r#"{"supports_protocols":[256],"sdk_name":"x","sdk_version":"9"}"#,
            r#"{"supports_protocols":[4.0],"sdk_name":"x","sdk_version":"9"}"#,
            r#"{"supports_protocols":[4],"sdk_name":"x","sdk_version":"9","supports_features":null}"#,
            r#"{"supports_protocols":[4],"sdk_name":"x","sdk_version":"9","sdk_name":"y"}"#,
            r#"{"supports_protocols":[4],"sdk_name":"x","sdk_version":"9"} x"#,
        ] {
            assert!(
                matches!(
                    Request::decode(json.as_bytes()),
                    Err(InvalidMessage::Negotiation { .. })
                ),
                "{json}"
            );
        }
        let deep = "[".repeat(60_000);
        assert!(Request::decode(format!(r#"{{"x":{deep}"#).as_bytes()).is_err());
    }
}
