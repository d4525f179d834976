//! The first that a client says, which is waited for before anything is kept for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::socket::Socket;

/// How long it is, whatever it should be: who reads it again judges it.
const PREFACE_LEN: usize = 24;

/// A socket over which so much was said. It can be read once more.
pub(super) struct Prefaced {
    socket: Socket,
    preface: [u8; PREFACE_LEN],
    /// How much of it was read again.
    read: usize,
}

impl Prefaced {
    /// Waits for it.
    pub(super) async fn read(mut socket: Socket) -> io::Result<Socket> {
        let mut preface = [0; PREFACE_LEN];
        socket.read_exact(&mut preface).await?;
        Ok(Box::new(Self {
            socket,
            preface,
            read: 0,
        }))
    }
}

impl AsyncRead for Prefaced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read == PREFACE_LEN {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let left = &this.preface[this.read..];
        let len = left.len().min(buf.remaining());
        buf.put_slice(&left[..len]);
        this.read += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefaced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
