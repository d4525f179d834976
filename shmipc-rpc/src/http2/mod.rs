//! How HTTP/2 and the TCP beneath it are set up (feature `grpc`).
//!
//! One [`Settings`] suits both sides: [`ChannelBuilder::http2`](crate::client::ChannelBuilder::http2) and
//! [`Server::http2`](crate::Server::http2) take it. What is set is what this side allows its peer, but for what is said to concern
//! this side's own sending. Sessions have settings of their own, in [`Config`](crate::Config); how peers are found out that do not
//! answer is [`Keepalive`](crate::Keepalive) for both.

pub(crate) mod tasks;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use hyper::{client, server};
use shmipc_transport::Backoff;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use self::tasks::Tasks;

/// What the protocol begins with, and what a connection's window never falls below by settings alone.
const SPECIFIED_WINDOW: u32 = 65_535;

/// The largest window that the protocol knows.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What Linux accepts of seconds and of probes.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
const KEEPALIVE_RETRIES_MAX: u32 = 127;

/// Longer than connections last by themselves, and well within what timers can wait.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Settings of connections over HTTP/2, known to be within what the protocol allows.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shmipc_rpc::{Channel, Server, http2::Settings};
///
/// let settings = Settings::builder()
///     .initial_stream_window_size(4 << 20)
///     .initial_connection_window_size(16 << 20)
///     .tcp_keepalive(Duration::from_secs(60))
///     .build()?;
/// let server = Server::builder().http2(settings);
/// let channel = Channel::builder("http://localhost:50051").http2(settings);
/// # Ok::<(), shmipc_rpc::http2::InvalidSettings>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `None`: as is usual on this side.
    stream_window: Option<u32>,
    connection_window: Option<u32>,
    adaptive_window: bool,
    max_frame_size: u32,
    max_concurrent_streams: Option<u32>,
    max_header_list_size: u32,
    header_table_size: Option<u32>,
    max_send_buffer_size: Option<u32>,
    max_connection_age: Option<Duration>,
    max_connection_age_grace: Option<Duration>,
    tcp: Tcp,
}

/// What concerns the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Tcp {
    nodelay: bool,
    keepalive: Option<Duration>,
    keepalive_interval: Option<Duration>,
    keepalive_retries: Option<u32>,
}

/// What differs between the sides, unless it is set. As hyper has it, and tonic.
struct Usual {
    stream_window: u32,
    connection_window: u32,
    max_send_buffer_size: u32,
}

impl Usual {
    const OF_CLIENTS: Self = Self {
        stream_window: 2 << 20,
        connection_window: 5 << 20,
        max_send_buffer_size: 1 << 20,
    };

    /// A server has many connections.
    const OF_SERVERS: Self = Self {
        stream_window: 1 << 20,
        connection_window: 1 << 20,
        max_send_buffer_size: 400 << 10,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: None,
            connection_window: None,
            adaptive_window: false,
            max_frame_size: 16 << 10,
            max_concurrent_streams: None,
            // Enough for a status with details and metadata.
            max_header_list_size: 64 << 10,
            header_table_size: None,
            max_send_buffer_size: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            tcp: Tcp {
                nodelay: true,
                keepalive: None,
                keepalive_interval: None,
                keepalive_retries: None,
            },
        }
    }
}

impl Settings {
    /// Begins with the default of each setting.
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder {
            settings: Self::default(),
        }
    }

    /// Begins with these settings, to change some of them.
    pub fn to_builder(&self) -> SettingsBuilder {
        SettingsBuilder { settings: *self }
    }

    /// Returns what makes a connection, with those tasks.
    pub(crate) fn for_client(&self, tasks: Tasks) -> client::conn::http2::Builder<Tasks> {
        let mut builder = client::conn::http2::Builder::new(tasks);
        let usual = Usual::OF_CLIENTS;
        if self.adaptive_window {
            builder.adaptive_window(true);
        } else {
            builder
                .initial_stream_window_size(self.stream_window.unwrap_or(usual.stream_window))
                .initial_connection_window_size(
                    self.connection_window.unwrap_or(usual.connection_window),
                );
        }
        builder
            .max_frame_size(self.max_frame_size)
            .max_header_list_size(self.max_header_list_size)
            .header_table_size(self.header_table_size)
            .max_send_buf_size(self.max_send_buffer_size(&usual));
        builder
    }

    /// Returns what serves a connection, with those tasks. It may have `calls_max` calls unless the settings say otherwise.
    pub(crate) fn for_server(
        &self,
        calls_max: u32,
        tasks: Tasks,
    ) -> server::conn::http2::Builder<Tasks> {
        let mut builder = server::conn::http2::Builder::new(tasks);
        let usual = Usual::OF_SERVERS;
        if self.adaptive_window {
            builder.adaptive_window(true);
        } else {
            builder
                .initial_stream_window_size(self.stream_window.unwrap_or(usual.stream_window))
                .initial_connection_window_size(
                    self.connection_window.unwrap_or(usual.connection_window),
                );
        }
        builder
            .max_concurrent_streams(self.max_concurrent_streams.unwrap_or(calls_max))
            .max_frame_size(self.max_frame_size)
            .max_header_list_size(self.max_header_list_size)
            .header_table_size(self.header_table_size)
            .max_send_buf_size(self.max_send_buffer_size(&usual));
        builder
    }

    fn max_send_buffer_size(&self, usual: &Usual) -> usize {
        let bytes = self
            .max_send_buffer_size
            .unwrap_or(usual.max_send_buffer_size);
        // Nothing that is built here has addresses of fewer bits.
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Returns how old a connection that begins now may get, and how long its calls may go on then. The age differs from one
    /// to the next, so that clients that have come together do not leave together.
    pub(crate) fn age(&self) -> Option<(Duration, Option<Duration>)> {
        let factor = 0.9 + 0.2 * Backoff::random_fraction();
        let age = self.max_connection_age?.mul_f64(factor);
        Some((age, self.max_connection_age_grace))
    }

    /// Sets a socket up.
    pub(crate) fn set_up(&self, stream: &TcpStream) -> io::Result<()> {
        let Tcp {
            nodelay,
            keepalive,
            keepalive_interval,
            keepalive_retries,
        } = self.tcp;
        stream.set_nodelay(nodelay)?;
        let Some(idle) = keepalive else {
            return Ok(());
        };
        let mut asks = TcpKeepalive::new().with_time(whole_seconds(idle));
        if let Some(interval) = keepalive_interval {
            asks = asks.with_interval(whole_seconds(interval));
        }
        if let Some(retries) = keepalive_retries {
            asks = asks.with_retries(retries);
        }
        SockRef::from(stream).set_tcp_keepalive(&asks)
    }
}

/// The kernel counts in seconds, of which a begun one counts.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(0 < time.subsec_nanos()))
}

/// Collects settings; [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
#[must_use = "settings take effect in the `Settings` that `build` returns"]
pub struct SettingsBuilder {
    settings: Settings,
}

/// A setting outside its accepted range.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{setting}` must be {accepted}")]
pub struct InvalidSettings {
    /// The setting at fault, as its method of [`SettingsBuilder`] is called.
    pub setting: &'static str,
    /// What it may be.
    pub accepted: &'static str,
}

impl SettingsBuilder {
    /// How many bytes the peer may send ahead of the reader on each call. Default: 2 MiB for a channel, 1 MiB for a server; from 1 to
    /// 2,147,483,647 bytes.
    ///
    /// A call cannot be faster than this much per round trip. Costs up to as much memory for each call whose messages are not
    /// read.
    pub fn initial_stream_window_size(mut self, bytes: u32) -> Self {
        self.settings.stream_window = Some(bytes);
        self
    }

    /// How many bytes the peer may send ahead of the readers on all calls of a connection together. Default: 5 MiB for a channel, 1 MiB
    /// for a server; from 65,535, which the protocol begins with, to 2,147,483,647 bytes.
    ///
    /// It bounds the memory that a connection costs for messages that are not read. Calls whose messages wait hold the others
    /// up once they have used all of it.
    pub fn initial_connection_window_size(mut self, bytes: u32) -> Self {
        self.settings.connection_window = Some(bytes);
        self
    }

    /// Whether both windows begin with 65,535 bytes and grow with what the way to the peer can carry, which pings find out while messages
    /// come. Default: `false`.
    ///
    /// It excludes the settings of either window.
    pub fn adaptive_window(mut self, adaptive: bool) -> Self {
        self.settings.adaptive_window = adaptive;
        self
    }

    /// The most bytes that a frame of the peer's may have. Default: 16,384, which is also the least; at most 16,777,215.
    ///
    /// Messages are cut into frames, so it limits none. Larger ones cost less CPU time for large messages, and let short ones of other
    /// calls wait longer.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.settings.max_frame_size = bytes;
        self
    }

    /// How many calls of one connection may run at once, at a server. Default: what
    /// [`Server::concurrent_calls_per_session`](crate::Server::concurrent_calls_per_session) says, or else 1,024; at least 1.
    ///
    /// Clients are told, and hold further calls back until others have ended. Of a channel's settings it means nothing, for servers
    /// make no calls over HTTP/2.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.settings.max_concurrent_streams = Some(streams);
        self
    }

    /// The most bytes that the headers of a request, or the headers or trailers of a response, may have, with 32 more for each as the
    /// protocol counts. Default: 64 KiB, enough for a status with details and metadata; at least 1.
    ///
    /// The server refuses a request with more, and its caller gets [`Code::Internal`](crate::Code::Internal), as gRPC has it
    /// for that. So does the caller whose response begins with more. Of trailers with more the rest is lost, details of a status first.
    /// For more than four times as much, the whole connection is given up.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.settings.max_header_list_size = bytes;
        self
    }

    /// How many bytes of headers the peer may have remembered, not to send them again. Default: 4,096.
    ///
    /// Costs as much memory for each connection. With 0, all headers are sent in full.
    pub fn header_table_size(mut self, bytes: u32) -> Self {
        self.settings.header_table_size = Some(bytes);
        self
    }

    /// How many bytes this side takes up of each call before the socket does. Default: 1 MiB for a channel, 400 KiB for a server; at
    /// least 1.
    ///
    /// A message is taken up as a whole, so there may be one more.
    pub fn max_send_buffer_size(mut self, bytes: u32) -> Self {
        self.settings.max_send_buffer_size = Some(bytes);
        self
    }

    /// How long a server keeps a connection, more or less 10 %. Then it tells the client to open another one for further calls, and closes
    /// this one after the last that runs. Default: for good; from 1 ms to 30 days.
    ///
    /// Clients so come to know of servers that were added behind a name or a load balancer. A call of ours that is sent while the server's
    /// word comes is made again over the next connection, if the server says that it has not looked at it. It fails with
    /// [`Code::Unavailable`](crate::Code::Unavailable) if more than 256 KiB of it were sent, or if it is a stream of requests none of which
    /// was sent yet.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.settings.max_connection_age = Some(age);
        self
    }

    /// How long the calls of a connection that has reached its [`max_connection_age`](Self::max_connection_age) may go on, before they
    /// are cut off. Default: as long as they take; at most 30 days. It takes that age.
    ///
    /// Their handlers are dropped, and their callers get [`Code::Unavailable`](crate::Code::Unavailable).
    pub fn max_connection_age_grace(mut self, grace: Duration) -> Self {
        self.settings.max_connection_age_grace = Some(grace);
        self
    }

    /// Whether TCP sends what it has at once, rather than wait for more while something is under way (`TCP_NODELAY`). Default: `true`:
    /// messages are written as a whole, so there is nothing to wait for.
    pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
        self.settings.tcp.nodelay = nodelay;
        self
    }

    /// How long nothing is heard over a TCP connection before the kernel asks the peer's whether it is there (`SO_KEEPALIVE`). Default: it
    /// does not; from 1 to 32,767 s, in whole seconds, of which a begun one counts.
    ///
    /// It finds out hosts and networks that are gone, and keeps the connection known to what translates addresses on the way. A
    /// program that is stuck answers all the same: that is what [`Keepalive`](crate::Keepalive) is for.
    pub fn tcp_keepalive(mut self, idle: Duration) -> Self {
        self.settings.tcp.keepalive = Some(idle);
        self
    }

    /// How long the kernel waits between asking for the first time and asking again. Default: what the system says, usually 75 s; as
    /// for [`tcp_keepalive`](Self::tcp_keepalive), which it takes.
    pub fn tcp_keepalive_interval(mut self, interval: Duration) -> Self {
        self.settings.tcp.keepalive_interval = Some(interval);
        self
    }

    /// How often the kernel asks in vain before it gives a connection up. Default: what the system says, usually 9; from 1 to 127. It
    /// takes [`tcp_keepalive`](Self::tcp_keepalive).
    pub fn tcp_keepalive_retries(mut self, retries: u32) -> Self {
        self.settings.tcp.keepalive_retries = Some(retries);
        self
    }

    /// Checks the settings, and against each other.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSettings`], which names the setting at fault and what it may be.
    pub fn build(self) -> Result<Settings, InvalidSettings> {
        self.settings.check_windows()?;
        self.settings.check_limits()?;
        self.settings.tcp.check()?;
        Ok(self.settings)
    }
}

impl Settings {
    fn check_windows(&self) -> Result<(), InvalidSettings> {
        let (stream, connection) = (self.stream_window, self.connection_window);
        let is_sized = stream.is_some() || connection.is_some();
        InvalidSettings::check([
            (
                "initial_stream_window_size",
                stream.is_none_or(|bytes| (1..=WINDOW_MAX).contains(&bytes)),
                "from 1 to 2,147,483,647 bytes",
            ),
            (
                "initial_connection_window_size",
                connection.is_none_or(|bytes| (SPECIFIED_WINDOW..=WINDOW_MAX).contains(&bytes)),
                "from 65,535 to 2,147,483,647 bytes",
            ),
            (
                "adaptive_window",
                !(self.adaptive_window && is_sized),
                "off where a window has a size of its own",
            ),
        ])
    }

    fn check_limits(&self) -> Result<(), InvalidSettings> {
        let (age, grace) = (self.max_connection_age, self.max_connection_age_grace);
        InvalidSettings::check([
            (
                "max_frame_size",
                (1 << 14..1 << 24).contains(&self.max_frame_size),
                "from 16,384 to 16,777,215 bytes",
            ),
            (
                "max_concurrent_streams",
                self.max_concurrent_streams != Some(0),
                "at least 1",
            ),
            (
                "max_header_list_size",
                0 < self.max_header_list_size,
                "at least 1 byte",
            ),
            (
                "max_send_buffer_size",
                self.max_send_buffer_size != Some(0),
                "at least 1 byte",
            ),
            (
                "max_connection_age",
                age.is_none_or(|age| (Duration::from_millis(1)..=AGE_MAX).contains(&age)),
                "from 1 ms to 30 days",
            ),
            (
                "max_connection_age_grace",
                grace.is_none_or(|grace| grace <= AGE_MAX),
                "at most 30 days",
            ),
            (
                "max_connection_age_grace",
                age.is_some() || grace.is_none(),
                "set together with `max_connection_age`",
            ),
        ])
    }
}

impl Tcp {
    fn check(&self) -> Result<(), InvalidSettings> {
        const TIMES: &str = "from 1 to 32,767 s";

        let is_time = |time: Option<Duration>| {
            let range = Duration::from_secs(1)..=Duration::from_secs(KEEPALIVE_SECONDS_MAX);
            time.is_none_or(|time| range.contains(&time))
        };
        let asks = self.keepalive.is_some();
        let (interval, retries) = (self.keepalive_interval, self.keepalive_retries);
        InvalidSettings::check([
            ("tcp_keepalive", is_time(self.keepalive), TIMES),
            ("tcp_keepalive_interval", is_time(interval), TIMES),
            (
                "tcp_keepalive_interval",
                asks || interval.is_none(),
                "set together with `tcp_keepalive`",
            ),
            (
                "tcp_keepalive_retries",
                retries.is_none_or(|retries| (1..=KEEPALIVE_RETRIES_MAX).contains(&retries)),
                "from 1 to 127",
            ),
            (
                "tcp_keepalive_retries",
                asks || retries.is_none(),
                "set together with `tcp_keepalive`",
            ),
        ])
    }
}

impl InvalidSettings {
    /// Checks settings: the name of each, whether it is accepted, and what is. The first that is not is at fault.
    fn check<const N: usize>(checks: [(&'static str, bool, &'static str); N]) -> Result<(), Self> {
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((setting, _, accepted)) => Err(Self { setting, accepted }),
            None => Ok(()),
        }
    }
}
