//! What the fuzz targets call: each decoder, given arbitrary bytes. Not part of the API.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    Status,
    frame::{self, RequestHead, ResponseHead, Trailers},
    metadata,
};

/// Reads `data` as a frame that begins a call.
pub fn request_frame(mut data: &[u8]) {
    let read = frame::open(&mut data, |_, head| {
        RequestHead::decode(head, &mut HeaderMap::new()).map(drop)
    });
    drop(read);
}

/// Reads `data` as a frame that ends a call, in both of its forms.
pub fn response_frame(data: &[u8]) {
    let read = frame::open(&mut &data[..], |_, head| {
        ResponseHead::decode(head).map(drop)
    });
    drop(read);
    let read = frame::open(&mut &data[..], |_, head| Trailers::decode(head).map(drop));
    drop(read);
}

/// Reads `data` as a body in the framing of gRPC over HTTP/2 that arrives in pieces; the first byte is their length.
pub fn grpc_body(data: &[u8]) {
    crate::body::grpc::fuzz::body(data);
}

/// Decompresses `data`, whose first byte says how, among the encodings that are enabled.
pub fn compressed_message(data: &[u8]) {
    crate::codec::compress::fuzz(data);
}

/// Reads `data` as the value of `grpc-timeout`.
pub fn grpc_timeout(data: &[u8]) {
    let _ = crate::deadline::parse_grpc_timeout(data);
}

/// Reads `data` as the headers of an answer: status, message and details as gRPC writes them, and binary metadata.
///
/// The values are separated by line feeds.
pub fn headers(data: &[u8]) {
    const NAMES: [&str; 4] = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "fuzz-bin",
    ];
    let mut map = HeaderMap::new();
    for (name, value) in NAMES
        .into_iter()
        .cycle()
        .zip(data.split(|&byte| byte == b'\n'))
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(name, value);
        }
    }
    if let Some(status) = Status::from_headers(&map) {
        let again = Status::from_headers(&status.to_headers());
        assert_eq!(again.map(|again| again.code()), Some(status.code()));
    }
    metadata::get_all_bin(&map, &HeaderName::from_static("fuzz-bin")).for_each(drop);
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Code,
        frame::{Flags, Head, Prefix, RequestHeadRef, ResponseHeadRef, TrailersRef},
    };

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 6] = [
        ("rpc_compressed_message", compressed_message),
        ("rpc_grpc_body", grpc_body),
        ("rpc_grpc_timeout", grpc_timeout),
        ("rpc_headers", headers),
        ("rpc_request_frame", request_frame),
        ("rpc_response_frame", response_frame),
    ];

    fn corpus(target: &str) -> PathBuf {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        package.join("../fuzz/corpus").join(target)
    }

    #[test]
    fn the_corpus_holds_no_surprise() {
        for (name, target) in TARGETS {
            for file in fs::read_dir(corpus(name)).expect("each target has a corpus") {
                target(&fs::read(file.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_read(data: Vec<u8>) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }
    }

    /// Run with `UPDATE_CORPUS=1` to write the seeds anew, after a change of a format.
    #[test]
    fn the_corpus_begins_with_what_is_meant_to_be_said() {
        let seeds = [
            compressed_message_seeds(),
            grpc_body_seeds(),
            vec![
                ("seconds", b"5S".to_vec()),
                ("nanoseconds", b"99999999n".to_vec()),
            ],
            vec![
                ("ok", b"0".to_vec()),
                ("details", b"5\nno%20such%20thing\nCAUSAA\nAAE, /w".to_vec()),
            ],
            request_seeds(),
            response_seeds(),
        ];
        for ((target, _), seeds) in TARGETS.into_iter().zip(seeds) {
            for (name, seed) in seeds {
                let file = corpus(target).join(name);
                if env::var_os("UPDATE_CORPUS").is_some() {
                    fs::create_dir_all(corpus(target)).unwrap();
                    fs::write(&file, &seed).unwrap();
                }
                let actual = fs::read(&file).unwrap_or_default();
                assert_eq!(actual, seed, "{}: see UPDATE_CORPUS", file.display());
            }
        }
    }

    type Seeds = Vec<(&'static str, Vec<u8>)>;

    /// A greeting by each of the encodings, and a frame that wants a large window.
    fn compressed_message_seeds() -> Seeds {
        let gzip: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcbH\xcd\xc9\xc9W\xc8@'\x01\xe3Q=\x8d\x17\x00\x00\x00";
        let zlib: &[u8] = b"x\x9c\xcbH\xcd\xc9\xc9W\xc8@'\x01h\x03\x08\xb1";
        let zstd: &[u8] = b"(\xb5/\xfd \x17\xb9\x00\x00hello hello hello hello";
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 9, 0, 0, 7];
        vec![
            ("gzip", [&[0], gzip].concat()),
            ("deflate", [&[1], zlib].concat()),
            ("zstd", [&[2], zstd].concat()),
            ("zstd_window", [&[2], &window[..]].concat()),
        ]
    }

    fn grpc_body_seeds() -> Seeds {
        let framed =
            |piece_len: u8, len: u8, body: &[u8]| [&[piece_len, 0, 0, 0, 0, len], body].concat();
        vec![
            ("whole", framed(255, 5, b"hello")),
            ("in_pieces", framed(2, 5, b"hello")),
            ("compressed", vec![9, 1, 0, 0, 0, 0]),
            ("too_short", framed(9, 9, b"hello")),
        ]
    }

    fn some_metadata() -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert("user", HeaderValue::from_static("one"));
        metadata::insert_bin(&mut map, HeaderName::from_static("key-bin"), [1, 2])
            .expect("the key is binary");
        map
    }

    fn framed(flags: Flags, head: &impl Head, message: &[u8]) -> Vec<u8> {
        let mut frame = Prefix {
            message_len: u32::try_from(message.len()).unwrap(),
            head_len: u16::try_from(head.encoded_len()).unwrap(),
            flags,
        }
        .encode()
        .to_vec();
        head.write(&mut frame);
        frame.extend_from_slice(message);
        frame
    }

    fn request_seeds() -> Seeds {
        let (none, some) = (HeaderMap::new(), some_metadata());
        let head = |timeout_ns, metadata| RequestHeadRef {
            path: "/a.B/C",
            timeout_ns,
            metadata,
        };
        vec![
            ("plain", framed(Flags::UNARY, &head(None, &none), b"hello")),
            (
                "everything",
                framed(Flags::UNARY, &head(Some(1_000_000), &some), b"hello"),
            ),
        ]
    }

    fn response_seeds() -> Seeds {
        let (none, some) = (HeaderMap::new(), some_metadata());
        let failed = TrailersRef {
            code: Code::NotFound,
            message: "no such thing",
            details: &[1, 2, 3],
            metadata: &some,
        };
        let plain = ResponseHeadRef {
            metadata: &none,
            trailers: None,
        };
        let trailed = ResponseHeadRef {
            metadata: &some,
            trailers: Some(TrailersRef::ok(&some)),
        };
        let over = Flags::END.with(Flags::TRAILERS);
        vec![
            ("plain", framed(Flags::UNARY, &plain, b"hello")),
            (
                "trailed",
                framed(Flags::UNARY.with(Flags::TRAILERS), &trailed, b"hello"),
            ),
            ("failed", framed(over, &failed, b"")),
        ]
    }
}
