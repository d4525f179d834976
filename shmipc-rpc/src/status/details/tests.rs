use proptest::{collection::vec, option, prelude::*};

use super::*;

/// What another implementation sends for two details, byte by byte.
fn foreign_bytes() -> Vec<u8> {
    let mut bytes = vec![0x08, 3, 0x12, 2];
    bytes.extend(b"no");
    for (url, value) in [
        (
            "type.googleapis.com/google.rpc.ErrorInfo",
            &b"\x0a\x01R\x12\x01D\x1a\x06\x0a\x01k\x12\x01v"[..],
        ),
        (
            "type.googleapis.com/google.rpc.RetryInfo",
            &b"\x0a\x04\x08\x01\x10\x05"[..],
        ),
    ] {
        let any_len = 2 + url.len() + 2 + value.len();
        bytes.extend([
            0x1a,
            u8::try_from(any_len).unwrap(),
            0x0a,
            u8::try_from(url.len()).unwrap(),
        ]);
        bytes.extend(url.as_bytes());
        bytes.extend([0x12, u8::try_from(value.len()).unwrap()]);
        bytes.extend(value);
    }
    bytes
}

fn foreign_details() -> ErrorDetails {
    ErrorDetails {
        retry_info: Some(RetryInfo {
            retry_delay: Some(prost_types::Duration {
                seconds: 1,
                nanos: 5,
            }),
        }),
        ..ErrorDetails::new().with_error_info("R", "D", [("k".to_owned(), "v".to_owned())])
    }
}

#[test]
fn details_are_the_bytes_that_other_implementations_send() {
    let status = Status::with_error_details(Code::InvalidArgument, "no", foreign_details());
    assert_eq!(*status.details(), foreign_bytes());

    let status = Status::with_details(Code::InvalidArgument, "no", foreign_bytes());
    assert_eq!(status.check_error_details(), Ok(foreign_details()));
    assert_eq!(
        status.error_details().retry_after(),
        Some(Duration::new(1, 5))
    );
}

#[test]
fn no_details_are_no_bytes() {
    let status = Status::with_error_details(Code::NotFound, "gone", ErrorDetails::new());
    assert!(status.details().is_empty());
    assert_eq!(status.check_error_details(), Ok(ErrorDetails::new()));
    assert!(status.error_details().is_empty());
}

#[test]
fn further_and_unknown_messages_are_kept() {
    let own = RpcStatus {
        code: 7,
        ..RpcStatus::default()
    };
    let first = ResourceInfo {
        owner: "first".to_owned(),
        ..ResourceInfo::default()
    };
    let second = ResourceInfo {
        owner: "second".to_owned(),
        ..ResourceInfo::default()
    };
    let sent = ErrorDetails::new()
        .with_resource_info(first.clone())
        .with_other(&second)
        .with_other(&own);
    let read = Status::with_error_details(Code::Aborted, "", sent).error_details();
    assert_eq!(read.resource_info, Some(first));
    assert_eq!(read.find_other(), Ok(Some(second)));
    assert_eq!(read.find_other(), Ok(Some(own)));
    assert_eq!(read.find_other::<Help>(), Ok(None));
}

#[test]
fn what_is_malformed_is_reported_or_left_among_the_others() {
    let broken = Any {
        type_url: "type.googleapis.com/google.rpc.Help".to_owned(),
        value: vec![0x0a, 9],
    };
    let sent = ErrorDetails {
        other: vec![broken.clone()],
        ..foreign_details()
    };
    let status = Status::with_error_details(Code::Internal, "", sent);
    assert!(status.check_error_details().is_err());
    let read = status.error_details();
    assert_eq!(
        read,
        ErrorDetails {
            other: vec![broken],
            ..foreign_details()
        }
    );
    assert!(read.find_other::<Help>().is_err());

    let status = Status::with_details(Code::Internal, "", &b"no protobuf"[..]);
    assert!(status.check_error_details().is_err());
    assert!(status.error_details().is_empty());
}

#[test]
fn delays_that_no_duration_can_hold_are_bounded() {
    let details = ErrorDetails::new().with_retry_after(Duration::MAX);
    assert_eq!(
        details.retry_after(),
        Some(Duration::from_secs(315_576_000_000))
    );
    let negative = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    let details = ErrorDetails {
        retry_info: Some(RetryInfo {
            retry_delay: Some(negative),
        }),
        ..ErrorDetails::default()
    };
    assert_eq!(details.retry_after(), None);
}

#[test]
fn every_customary_type_finds_its_place() {
    let details = ErrorDetails::new()
        .with_error_info("REASON", "domain", [])
        .with_retry_after(Duration::from_secs(1))
        .with_debug_info("detail", ["frame".to_owned()])
        .with_quota_failure("project:blue", "too much")
        .with_precondition_failure("TOS", "example.org", "accept them")
        .with_bad_request("a", "wrong")
        .with_bad_request("b", "wrong, too")
        .with_request_info("17", "data")
        .with_resource_info(ResourceInfo::default())
        .with_help("manual", "https://example.org/manual")
        .with_localized_message("de-CH", "So nicht.");
    let status = Status::with_error_details(Code::FailedPrecondition, "no", details.clone());
    let read = status.check_error_details();
    assert_eq!(read, Ok(details.clone()));
    assert!(details.other.is_empty());
    assert_eq!(
        details.bad_request.map(|bad| bad.field_violations.len()),
        Some(2)
    );
}

proptest! {
    #[test]
    fn details_round_trip_through_headers(
        reason: String,
        pairs in vec(("\\PC*", "\\PC*"), 0..4),
        fields in vec(("\\PC*", "\\PC*"), 0..4),
        delay in option::of(any::<Duration>()),
        raw in vec(any::<u8>(), 0..64),
    ) {
        let mut details = ErrorDetails::new().with_error_info(reason, "d", pairs);
        for (field, description) in fields {
            details = details.with_bad_request(field, description);
        }
        if let Some(delay) = delay {
            details = details.with_retry_after(delay);
        }
        details.other.push(Any { type_url: "example.org/own.Type".to_owned(), value: raw });
        let status = Status::with_error_details(Code::Unavailable, "later", details.clone());
        let headers = status.to_headers();
        let read = Status::from_headers(&headers).expect("there is a grpc-status");
        prop_assert_eq!(read.check_error_details(), Ok(details));
    }

    #[test]
    fn any_bytes_may_be_called_details(bytes: Vec<u8>) {
        let status = Status::with_details(Code::Unknown, "", bytes);
        let lenient = status.error_details();
        if let Ok(strict) = status.check_error_details() {
            prop_assert_eq!(lenient, strict);
        }
    }
}
