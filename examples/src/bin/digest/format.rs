//! Text as `sha256sum` writes it.

use std::{
    borrow::Cow, error::Error, ffi::OsStr, fmt::Write as _, io, os::unix::ffi::OsStrExt as _,
};

use crate::read::{CONTENT_LEN_MAX, Failure};

/// Returns the line of one file. A name that would break the line is escaped, and the line begins with a backslash.
pub(crate) fn line(digest: &[u8], name: &OsStr) -> Vec<u8> {
    let mut hex = String::with_capacity(2 * digest.len());
    for byte in digest {
        let _ = write!(hex, "{byte:02x}"); // A `String` takes all that is written.
    }
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name.as_bytes() {
        match byte {
            b'\\' => escaped.extend_from_slice(br"\\"),
            b'\n' => escaped.extend_from_slice(br"\n"),
            b'\r' => escaped.extend_from_slice(br"\r"),
            _ => escaped.push(*byte),
        }
    }
    let mark: &[u8] = if escaped.len() == name.len() {
        b""
    } else {
        b"\\"
    };
    [mark, hex.as_bytes(), b"  ", &escaped, b"\n"].concat()
}

/// Returns what is to be said of a file that has no digest.
pub(crate) fn complaint(name: &OsStr, failure: &Failure) -> String {
    let reason = match failure {
        Failure::Read(error) => reason(error),
        Failure::TooLarge => format!(
            "larger than {CONTENT_LEN_MAX} bytes, the most that one message holds; there are no streaming calls yet"
        ),
        Failure::Call(status) => chain(status),
    };
    format!("digest: {}: {reason}", quoted(name))
}

/// Returns an error and its sources as one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}"); // A `String` takes all that is written.
        source = error.source();
    }
    text
}

/// Returns the system's words for an error, without the number that the standard library adds.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Returns a name such that it can be told from the text around it.
fn quoted(name: &OsStr) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "%+,-./:@_".contains(c);
    match name.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.into(),
        Some(text) if !text.contains(|c: char| c == '\'' || c.is_control()) => {
            format!("'{text}'").into()
        }
        _ => format!("{name:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_sha256sum() {
        let line = |name: &[u8]| line(&[0, 0xab], OsStr::from_bytes(name));
        assert_eq!(line(b"a b"), b"00ab  a b\n");
        assert_eq!(line(b"a\nb"), b"\\00ab  a\\nb\n");
        assert_eq!(line(b"a\rb"), b"\\00ab  a\\rb\n");
        assert_eq!(line(br"a\b"), b"\\00ab  a\\\\b\n");
        assert_eq!(line(b"\xff"), b"00ab  \xff\n");
    }

    #[test]
    fn names_in_complaints_are_quoted_if_need_be() {
        let quoted = |name: &[u8]| quoted(OsStr::from_bytes(name)).into_owned();
        assert_eq!(quoted(b"dir/file.txt"), "dir/file.txt");
        assert_eq!(quoted(b"two words"), "'two words'");
        assert_eq!(quoted(b"two\nlines"), r#""two\nlines""#);
        assert_eq!(quoted(b""), "''");
    }

    #[test]
    fn errors_of_the_system_lose_their_number() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(reason(&error), "No such file or directory");
    }
}
