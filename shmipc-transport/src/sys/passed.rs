//! Descriptors that this process was started with.
#![expect(
    unsafe_code,
    reason = "a number that another process has written down becomes a descriptor"
)]

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

/// Makes another descriptor, closed on exec, of one that stays open for as long as this process lives.
///
/// # Errors
///
/// Whatever the kernel says; that nothing is open under this number, for one.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: not -1, and borrowed for one call that does not keep it. The descriptor was open when the process began, and nobody in it
    // owns it, so nobody closes it; if somebody does all the same, the call fails, or duplicates what is there instead, which
    // whoever asked for it looks at.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_file_and_nothing_is_none() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let duplicate_of_writer = duplicate(writer.as_raw_fd()).unwrap();
        drop(writer);
        std::io::Write::write_all(&mut std::fs::File::from(duplicate_of_writer), b"x").unwrap();
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
        assert_eq!(read, b"x");
        for none in [-1, RawFd::MIN, RawFd::MAX] {
            duplicate(none).unwrap_err();
        }
    }
}
