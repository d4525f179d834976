//! Compressing and decompressing single messages.

use std::io;

use bytes::{Buf, Bytes};

use super::CompressionEncoding;
use crate::{Status, body::grpc};

/// The windows of Zstandard, as powers of two, that are allowed whatever the limit on messages: 8 MiB, which its specification recommends,
/// and so much as the library itself allows for.
#[cfg(feature = "zstd")]
const WINDOW_LOG: std::ops::RangeInclusive<u32> = 23..=27;

/// Compresses a message in the framing of gRPC, unless that would not make it shorter.
pub(crate) fn compress(encoding: CompressionEncoding, framed: Bytes) -> Bytes {
    let mut out = vec![0; grpc::PREFIX_LEN];
    let message = &framed[grpc::PREFIX_LEN..];
    // If there is no memory for it, the message goes as it is.
    if encode(encoding, message, &mut out).is_err() || framed.len() <= out.len() {
        return framed;
    }
    let prefix = grpc::prefix(out.len() - grpc::PREFIX_LEN);
    out[..grpc::PREFIX_LEN].copy_from_slice(&prefix);
    out[0] = grpc::COMPRESSED;
    out.into()
}

/// Decompresses a message, which is all of `message`, to at most `len_max` bytes.
pub(crate) fn decompress(
    encoding: CompressionEncoding,
    mut message: impl Buf,
    len_max: usize,
) -> Result<Bytes, Status> {
    let mut out = Vec::new();
    let decoded = decode(encoding, &mut message, len_max, &mut out);
    if len_max < out.len() {
        return Err(Status::resource_exhausted(format!(
            "the message has more than {len_max} bytes when it is decompressed, which is the limit"
        )));
    }
    let rest = message.remaining();
    let decoded = decoded.and_then(|()| match rest {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{rest} bytes follow its end"))),
    });
    decoded.map(|()| out.into()).map_err(|error| {
        Status::internal(format!(
            "the message is not what {encoding} demands: {error}"
        ))
        .with_source(error)
    })
}

/// Adds what `message` is compressed to `out`.
#[cfg_attr(
    not(any(feature = "gzip", feature = "deflate", feature = "zstd")),
    expect(unused_variables, clippy::ptr_arg, reason = "there is no encoding")
)]
fn encode(encoding: CompressionEncoding, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match encoding {
        #[cfg(feature = "gzip")]
        CompressionEncoding::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            io::Write::write_all(&mut encoder, message)?;
            encoder.finish().map(drop)
        }
        #[cfg(feature = "deflate")]
        CompressionEncoding::Deflate => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::ZlibEncoder::new(out, level);
            io::Write::write_all(&mut encoder, message)?;
            encoder.finish().map(drop)
        }
        #[cfg(feature = "zstd")]
        CompressionEncoding::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, 0)?;
            encoder.set_pledged_src_size(u64::try_from(message.len()).ok())?;
            io::Write::write_all(&mut encoder, message)?;
            encoder.finish().map(drop)
        }
    }
}

/// Adds what `message` is decompressed to `out`, but no more than `len_max` bytes and one.
#[cfg_attr(
    not(any(feature = "gzip", feature = "deflate", feature = "zstd")),
    expect(unused_variables, clippy::ptr_arg, reason = "there is no encoding")
)]
fn decode(
    encoding: CompressionEncoding,
    message: &mut impl Buf,
    len_max: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match encoding {
        #[cfg(feature = "gzip")]
        CompressionEncoding::Gzip => {
            let decoder = flate2::bufread::GzDecoder::new(message.reader());
            read_up_to(decoder, len_max, out)
        }
        #[cfg(feature = "deflate")]
        CompressionEncoding::Deflate => inflate(message, len_max, out),
        #[cfg(feature = "zstd")]
        CompressionEncoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(message.reader())?;
            let window_log = usize::BITS - len_max.leading_zeros();
            let (least, most) = WINDOW_LOG.into_inner();
            decoder.window_log_max(window_log.clamp(least, most))?;
            read_up_to(decoder.single_frame(), len_max, out)
        }
    }
}

/// Reads to the end, but no more than `len_max` bytes and one.
#[cfg(any(feature = "gzip", feature = "zstd"))]
fn read_up_to(decoder: impl io::Read, len_max: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let limit = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    io::Read::read_to_end(&mut io::Read::take(decoder, limit), out).map(drop)
}

/// As a reader would, but for messages that are cut short, which are an error.
#[cfg(feature = "deflate")]
fn inflate(message: &mut impl Buf, len_max: usize, out: &mut Vec<u8>) -> io::Result<()> {
    use flate2::{Decompress, FlushDecompress, Status};

    /// How much room there is at first, and at least.
    const ROOM: usize = 4096;

    let mut stream = Decompress::new(true);
    while out.len() <= len_max {
        let left = len_max.saturating_add(1) - out.len();
        out.reserve_exact(out.len().max(ROOM).min(left));
        let taken = stream.total_in();
        let had = out.len();
        let status = stream.decompress_vec(message.chunk(), out, FlushDecompress::None)?;
        // No more than there were.
        let taken = usize::try_from(stream.total_in() - taken).unwrap_or(usize::MAX);
        message.advance(taken);
        match status {
            Status::StreamEnd => return Ok(()),
            Status::Ok | Status::BufError if taken == 0 && out.len() == had => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Status::Ok | Status::BufError => {}
        }
    }
    Ok(())
}

/// Decompresses arbitrary bytes; the first of them chooses how.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    const LIMIT: usize = 4096;

    let Some((&choice, message)) = data.split_first() else {
        return;
    };
    let encodings = CompressionEncoding::ALL;
    let Some(&encoding) = encodings.get(usize::from(choice)) else {
        return;
    };
    if let Ok(decoded) = decompress(encoding, message, LIMIT) {
        assert!(decoded.len() <= LIMIT, "longer messages are refused");
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::{Code, body::grpc::Pieces};

    fn framed(message: &[u8]) -> Bytes {
        let mut framed = BytesMut::new();
        framed.put_slice(&grpc::prefix(message.len()));
        framed.put_slice(message);
        framed.freeze()
    }

    /// Compresses a message that gets shorter by that.
    fn compressed(encoding: CompressionEncoding, message: &[u8]) -> Bytes {
        let mut framed = compress(encoding, framed(message));
        assert_eq!(framed.get_u8(), grpc::COMPRESSED, "by {encoding}");
        assert_eq!(framed.get_u32() as usize, framed.len());
        assert!(framed.len() < message.len());
        framed
    }

    fn code(encoding: CompressionEncoding, message: &[u8], len_max: usize) -> Result<usize, Code> {
        let decoded = decompress(encoding, message, len_max);
        decoded
            .map(|decoded| decoded.len())
            .map_err(|status| status.code())
    }

    proptest! {
        #[test]
        fn messages_survive_in_pieces(message: Vec<u8>, repeated in 2usize..100, piece_len in 1usize..100) {
            let message = message.repeat(repeated);
            for &encoding in CompressionEncoding::ALL {
                let mut sent = compress(encoding, framed(&message));
                let flags = sent.get_u8();
                prop_assert_eq!(sent.get_u32() as usize, sent.len());
                if flags == 0 {
                    prop_assert_eq!(&sent[..], &message[..]);
                    continue;
                }
                let mut pieces = Pieces::default();
                for piece in sent.chunks(piece_len) {
                    pieces.push(Bytes::copy_from_slice(piece));
                }
                let decoded = decompress(encoding, pieces, message.len());
                prop_assert_eq!(&decoded.expect("it is as it was")[..], &message[..]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(choice in 0u8..4, bytes: Vec<u8>) {
            fuzz(&[&[choice], &bytes[..]].concat());
        }
    }

    #[test]
    fn what_does_not_get_shorter_stays_as_it_is() {
        for &encoding in CompressionEncoding::ALL {
            for message in [&b""[..], b"short"] {
                assert_eq!(compress(encoding, framed(message)), framed(message));
            }
        }
    }

    #[test]
    fn decompressing_ends_at_the_limit() {
        let message = vec![7; 8 << 20];
        for &encoding in CompressionEncoding::ALL {
            let bomb = compressed(encoding, &message);
            let len = message.len();
            assert_eq!(code(encoding, &bomb, len), Ok(len), "by {encoding}");
            assert_eq!(code(encoding, &bomb, usize::MAX), Ok(len), "by {encoding}");
            for limit in [0, 1, 100_000, len - 1] {
                let mut out = Vec::new();
                decode(encoding, &mut &bomb[..], limit, &mut out)
                    .expect("it is well-formed so far");
                assert!(
                    out.len() <= 2 * limit + 4096,
                    "{} bytes by {encoding}",
                    out.len()
                );
                let expected = Err(Code::ResourceExhausted);
                assert_eq!(code(encoding, &bomb, limit), expected, "by {encoding}");
            }
        }
    }

    #[test]
    fn whatever_is_cut_short_damaged_or_longer_is_refused() {
        let message = b"never the same, ".repeat(100);
        for &encoding in CompressionEncoding::ALL {
            let whole = compressed(encoding, &message);
            for len in 0..whole.len() {
                let cut = code(encoding, &whole[..len], 10_000);
                assert_eq!(cut, Err(Code::Internal), "{len} bytes by {encoding}");
            }
            let longer = [&whole[..], b"!"].concat();
            assert_eq!(code(encoding, &longer, 10_000), Err(Code::Internal));
            let twice = [&whole[..], &whole[..]].concat();
            assert_eq!(code(encoding, &twice, 10_000), Err(Code::Internal));
        }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_window_is_no_way_to_memory() {
        // A frame that wants a window of 128 MiB, and has one byte.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 9, 0, 0, 7];
        assert_eq!(
            code(CompressionEncoding::Zstd, &frame, 4096),
            Err(Code::Internal)
        );
        let limit = 128 << 20;
        assert_eq!(code(CompressionEncoding::Zstd, &frame, limit - 1), Ok(1));
    }
}
