use std::fmt;

/// How a call ended: the status codes of gRPC.
///
/// The numbers are those of the [gRPC specification].
///
/// [gRPC specification]: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The call was cancelled, typically by its caller.
    Cancelled = 1,
    /// The call failed in a way that says nothing about why.
    Unknown = 2,
    /// The request is wrong, whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed before the call was done. It may have had its effect all the same.
    DeadlineExceeded = 4,
    /// Something that was asked for does not exist.
    NotFound = 5,
    /// Something that was to be created exists.
    AlreadyExists = 6,
    /// The caller is known, but is not allowed to do this.
    PermissionDenied = 7,
    /// A limit was reached: a quota, a size, or memory.
    ResourceExhausted = 8,
    /// The system is not in the state that the request needs. Do not retry before it is.
    FailedPrecondition = 9,
    /// The call lost against a concurrent one. Retry at a higher level.
    Aborted = 10,
    /// The request reaches past the valid range, which may change.
    OutOfRange = 11,
    /// The server does not know the method.
    Unimplemented = 12,
    /// Something that must always hold does not: a bug, or a peer that breaks the protocol.
    Internal = 13,
    /// The server cannot be reached right now. Retry after a while.
    Unavailable = 14,
    /// Data is lost or corrupted beyond repair.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// All codes, by number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Returns the code with this number, or [`Code::Unknown`] if there is none.
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        if (number as usize) < Self::ALL.len() {
            Self::ALL[number as usize]
        } else {
            Self::Unknown
        }
    }

    /// Returns the number of this code, as it is sent.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self as u32
    }

    /// Returns the name of this code in the specification, such as `DEADLINE_EXCEEDED`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Returns the value of the header `grpc-status` for this code.
    pub(super) const fn as_header(self) -> &'static str {
        const NUMBERS: [&str; 17] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        NUMBERS[self as usize]
    }

    /// Returns the code for a response that has an HTTP status but no gRPC status.
    ///
    /// This is the table of the gRPC specification, and one line more: 408, which middleware answers when
    /// time has run out.
    #[must_use]
    pub fn from_http(status: http::StatusCode) -> Self {
        match status.as_u16() {
            400 | 431 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            408 => Self::DeadlineExceeded,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        Self::from_u32(number)
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        code.as_u32()
    }
}

impl From<i32> for Code {
    fn from(number: i32) -> Self {
        u32::try_from(number).map_or(Self::Unknown, Self::from_u32)
    }
}

impl From<Code> for i32 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_at_its_number() {
        for (number, code) in (0..).zip(Code::ALL) {
            assert_eq!(code.as_u32(), number);
            assert_eq!(Code::from_u32(number), code);
            assert_eq!(code.as_header(), number.to_string());
        }
        assert_eq!(Code::from_u32(17), Code::Unknown);
        assert_eq!(Code::from(-1), Code::Unknown);
    }
}
