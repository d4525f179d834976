//! Compares the heads with what prost makes of the same messages.

use proptest::{collection::vec, option, prelude::*, string::string_regex};
use prost::Message;

use super::*;

/// The messages of `rpc.proto`.
mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RequestHead {
        #[prost(string, tag = "1")]
        pub(super) path: String,
        #[prost(uint64, optional, tag = "2")]
        pub(super) timeout_ns: Option<u64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) metadata: Vec<Metadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResponseHead {
        #[prost(message, repeated, tag = "1")]
        pub(super) metadata: Vec<Metadata>,
        #[prost(message, optional, tag = "2")]
        pub(super) trailers: Option<Trailers>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Trailers {
        #[prost(uint32, tag = "1")]
        pub(super) code: u32,
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) details: Vec<u8>,
        #[prost(message, repeated, tag = "4")]
        pub(super) metadata: Vec<Metadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metadata {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }
}

fn any_metadata() -> impl Strategy<Value = HeaderMap> {
    let key = string_regex("[a-z][a-z0-9-]{0,12}(-bin)?").expect("the pattern is valid");
    let value = vec(prop_oneof![32u8..127, 128u8..=255], 0..20);
    vec((key, value), 0..6).prop_map(|entries| {
        let mut map = HeaderMap::new();
        for (key, value) in entries {
            let name =
                HeaderName::from_bytes(key.as_bytes()).expect("the pattern makes header names");
            let value = HeaderValue::from_bytes(&value).expect("visible bytes only");
            map.append(name, value);
        }
        metadata::remove_reserved(&mut map);
        map
    })
}

fn any_status() -> impl Strategy<Value = Status> {
    (0u32..17, any::<String>(), any::<Vec<u8>>(), any_metadata()).prop_map(
        |(code, message, details, metadata)| {
            Status::with_details(Code::from_u32(code), message, details).with_metadata(metadata)
        },
    )
}

fn decode_request(head: &[u8]) -> Result<(RequestHead<'_>, HeaderMap), InvalidFrame> {
    let mut metadata = HeaderMap::new();
    let decoded = RequestHead::decode(head, &mut metadata)?;
    Ok((decoded, metadata))
}

fn to_prost(map: &HeaderMap) -> Vec<pb::Metadata> {
    let entry = |(key, value): (&HeaderName, &HeaderValue)| pb::Metadata {
        key: key.as_str().to_owned(),
        value: value.as_bytes().to_owned(),
    };
    map.iter().map(entry).collect()
}

fn trailers_to_prost(status: &Status) -> pb::Trailers {
    pb::Trailers {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: status.details().to_vec(),
        metadata: to_prost(status.metadata()),
    }
}

fn written(head: &impl Head) -> Vec<u8> {
    let mut out = Vec::new();
    head.write(&mut out);
    assert_eq!(out.len(), head.encoded_len());
    out
}

fn same_trailers(ours: &Trailers, prost: &pb::Trailers) -> bool {
    ours.code == prost.code
        && ours.message == prost.message
        && ours.details == prost.details
        && sent_to_prost(&ours.metadata) == sent_by_prost(&prost.metadata)
}

/// Metadata as both sides see it, by key, for maps group by key.
fn sent_to_prost(map: &HeaderMap) -> Vec<pb::Metadata> {
    sorted(to_prost(map))
}

fn sent_by_prost(entries: &[pb::Metadata]) -> Vec<pb::Metadata> {
    let allowed = |entry: &&pb::Metadata| {
        HeaderName::from_bytes(entry.key.as_bytes()).is_ok_and(|name| !metadata::is_reserved(&name))
    };
    sorted(entries.iter().filter(allowed).cloned().collect())
}

fn sorted(mut entries: Vec<pb::Metadata>) -> Vec<pb::Metadata> {
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

proptest! {
    #[test]
    fn request_heads_are_written_as_prost_does(
        path: String, timeout_ns in option::of(any::<u64>()), metadata in any_metadata(),
    ) {
        let bytes = written(&RequestHeadRef { path: &path, timeout_ns, metadata: &metadata });
        let prost = pb::RequestHead { path: path.clone(), timeout_ns, metadata: to_prost(&metadata) };
        prop_assert_eq!(&bytes, &prost.encode_to_vec());
        let (read, read_metadata) = decode_request(&bytes).expect("just written");
        prop_assert_eq!(read, RequestHead { path: &path, timeout: timeout_ns.map(Duration::from_nanos) });
        prop_assert_eq!(read_metadata, metadata);
    }

    #[test]
    fn response_heads_are_written_as_prost_does(metadata in any_metadata(), status in option::of(any_status())) {
        let trailers = status.as_ref().map(TrailersRef::failed);
        let bytes = written(&ResponseHeadRef { metadata: &metadata, trailers });
        let trailers = status.as_ref().map(trailers_to_prost);
        prop_assert_eq!(&bytes, &pb::ResponseHead { metadata: to_prost(&metadata), trailers }.encode_to_vec());
        let read = ResponseHead::decode(&bytes).expect("just written");
        prop_assert_eq!(read.metadata, metadata);
        prop_assert_eq!(read.trailers.is_some(), status.is_some());
    }

    #[test]
    fn trailers_are_written_as_prost_does(status in any_status()) {
        let bytes = written(&TrailersRef::failed(&status));
        prop_assert_eq!(&bytes, &trailers_to_prost(&status).encode_to_vec());
        match Trailers::decode(&bytes).expect("just written").into_result() {
            Ok(metadata) => {
                prop_assert_eq!(status.code(), Code::Ok);
                prop_assert_eq!(&metadata, status.metadata());
            }
            Err(read) => {
                prop_assert_eq!(read.code(), status.code());
                prop_assert_eq!(read.message(), status.message());
                prop_assert_eq!(read.details(), status.details());
                prop_assert_eq!(read.metadata(), status.metadata());
            }
        }
    }

    /// Whatever we accept, prost accepts, and sees the same in it.
    #[test]
    fn arbitrary_bytes_are_read_as_prost_does(bytes in almost_a_head()) {
        if let Ok((ours, metadata)) = decode_request(&bytes) {
            let prost = pb::RequestHead::decode(&bytes[..]);
            let prost = prost.expect("prost is at least as lenient");
            prop_assert_eq!(ours.path, prost.path);
            prop_assert_eq!(ours.timeout, prost.timeout_ns.map(Duration::from_nanos));
            prop_assert_eq!(sent_to_prost(&metadata), sent_by_prost(&prost.metadata));
        }
        if let Ok(ours) = ResponseHead::decode(&bytes) {
            let prost = pb::ResponseHead::decode(&bytes[..]);
            let prost = prost.expect("prost is at least as lenient");
            prop_assert_eq!(sent_to_prost(&ours.metadata), sent_by_prost(&prost.metadata));
            prop_assert_eq!(ours.trailers.is_some(), prost.trailers.is_some());
            if let (Some(ours), Some(prost)) = (ours.trailers, prost.trailers) {
                prop_assert!(same_trailers(&ours, &prost));
            }
        }
        if let Ok(ours) = Trailers::decode(&bytes) {
            let prost = pb::Trailers::decode(&bytes[..]);
            prop_assert!(same_trailers(&ours, &prost.expect("prost is at least as lenient")));
        }
    }
}

/// A valid head with a few bytes changed, or nothing but noise.
fn almost_a_head() -> impl Strategy<Value = Vec<u8>> {
    let valid = (
        any::<String>(),
        option::of(any::<u64>()),
        any_metadata(),
        any_status(),
    )
        .prop_map(|(path, timeout_ns, metadata, status)| {
            let request = written(&RequestHeadRef {
                path: &path,
                timeout_ns,
                metadata: &metadata,
            });
            let trailers = TrailersRef::failed(&status);
            let response = written(&ResponseHeadRef {
                metadata: &metadata,
                trailers: Some(trailers),
            });
            let trailers = written(&trailers);
            [request, response, trailers]
        });
    let mutated = (
        valid,
        0usize..3,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    )
        .prop_map(|(mut heads, which, changes)| {
            let mut bytes = std::mem::take(&mut heads[which]);
            for (index, value) in changes {
                if !bytes.is_empty() {
                    let index = index.index(bytes.len());
                    bytes[index] = value;
                }
            }
            bytes
        });
    prop_oneof![mutated, vec(any::<u8>(), 0..40)]
}

#[test]
fn lengths_of_varints() {
    for (value, len) in [
        (0, 1),
        (0x7f, 1),
        (0x80, 2),
        (0x3fff, 2),
        (0x4000, 3),
        (u64::MAX, 10),
    ] {
        assert_eq!(varint_len(value), len);
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out.len(), len);
        assert_eq!(Reader::new(&out).varint(), Ok(value));
    }
}

#[test]
fn groups_and_field_zero_are_refused() {
    assert_eq!(decode_request(&[0x4b]), Err(InvalidFrame::HeadKey(0x4b)));
    assert_eq!(decode_request(&[0x02, 0]), Err(InvalidFrame::HeadKey(2)));
}

#[test]
fn reserved_metadata_is_neither_sent_nor_believed() {
    let mut metadata = HeaderMap::new();
    metadata.insert("grpc-status", HeaderValue::from_static("0"));
    metadata.insert("x", HeaderValue::from_static("y"));
    let bytes = written(&ResponseHeadRef {
        metadata: &metadata,
        trailers: None,
    });
    let read = ResponseHead::decode(&bytes).expect("just written");
    assert_eq!(read.metadata.len(), 1);

    let entry = pb::Metadata {
        key: "grpc-status".to_owned(),
        value: b"0".to_vec(),
    };
    let forged = pb::ResponseHead {
        metadata: vec![entry],
        trailers: None,
    }
    .encode_to_vec();
    assert!(
        ResponseHead::decode(&forged)
            .expect("it is well-formed")
            .metadata
            .is_empty()
    );
}

#[test]
fn metadata_must_be_made_of_header_names_and_values() {
    let head = |key: &str, value: &[u8]| {
        let entry = pb::Metadata {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        pb::RequestHead {
            path: "/a/b".to_owned(),
            timeout_ns: None,
            metadata: vec![entry],
        }
        .encode_to_vec()
    };
    assert_eq!(
        decode_request(&head("", b"")),
        Err(InvalidFrame::MetadataKey)
    );
    assert_eq!(
        decode_request(&head("Upper", b"")),
        Err(InvalidFrame::MetadataKey)
    );
    assert_eq!(
        decode_request(&head("\"quoted", b"")),
        Err(InvalidFrame::MetadataKey)
    );
    assert_eq!(
        decode_request(&head("key", b"a\nb")),
        Err(InvalidFrame::MetadataValue)
    );
}
