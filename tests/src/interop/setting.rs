//! What the programs are told on their command lines, and what the client is told to do.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use shmipc_transport::Address;

/// Which version of the protocol a client speaks, and how it is woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Version 2: named files.
    V2,
    /// Version 3: memfds.
    V3,
    /// Version 3: named files.
    V3File,
    /// Version 4: memfds, and wake-ups over the socket.
    V4,
    /// Version 4: named files, and wake-ups over the socket.
    V4File,
    /// Version 4: memfds, and wake-ups by eventfds.
    V4Eventfd,
    /// Version 4: memfds that are looked into every [`INTERVAL`]; files over TCP.
    V4Polling,
}

/// How often a queue is looked into in [`Mode::V4Polling`].
pub const INTERVAL: Duration = Duration::from_millis(1);

impl Mode {
    const ALL: [(Self, &str); 7] = [
        (Self::V2, "v2"),
        (Self::V3, "v3"),
        (Self::V3File, "v3-file"),
        (Self::V4, "v4"),
        (Self::V4File, "v4-file"),
        (Self::V4Eventfd, "v4-eventfd"),
        (Self::V4Polling, "v4-polling"),
    ];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(mode, _)| mode == self);
        f.write_str(found.map_or("", |(_, name)| name))
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(mode, _)| *mode)
            .ok_or_else(|| format!("{text} is no mode"))
    }
}

/// What a place begins with that is an IP address and a port. A server that is told port 0 says which it was given.
pub const TCP: &str = "tcp://";

/// What a program is told on its command line.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where the server listens: a path, or a port behind [`TCP`].
    pub socket: PathBuf,
    /// What the names of shared memory begin with.
    pub prefix: PathBuf,
    /// Of a client; and what a server of ours expects of its clients.
    pub mode: Mode,
    /// Bytes of the buffer region; of a client.
    pub cap: u32,
    /// Elements of each queue; of a client.
    pub queue: u32,
    /// Classes of slices: their capacity, and the share of the region in percent; of a client.
    pub slices: Vec<(u32, u32)>,
    /// Sessions; of a client.
    pub sessions: usize,
    /// Bytes that are written and read in one call; 0 is all.
    pub piece: usize,
}

impl Default for Setting {
    /// The defaults of the implementations.
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            prefix: PathBuf::new(),
            mode: Mode::V3,
            cap: 32 << 20,
            queue: 8192,
            slices: vec![(8172, 50), (32748, 30), (131_052, 20)],
            sessions: 1,
            piece: 0,
        }
    }
}

impl Setting {
    /// Where the server listens, as our transport knows it.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from(self.socket.display().to_string())
    }

    /// Where the server listens, if that is a port.
    ///
    /// # Errors
    ///
    /// If it is none although it should be.
    pub fn port(&self) -> Result<Option<SocketAddr>, String> {
        let socket = self.socket.to_string_lossy();
        socket.strip_prefix(TCP).map(number).transpose()
    }

    /// The command line that says so.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let classes = self
            .slices
            .iter()
            .map(|(cap, share)| format!("{cap}:{share}"));
        let slices = classes.collect::<Vec<_>>().join(",");
        let values = [
            ("-socket", self.socket.display().to_string()),
            ("-prefix", self.prefix.display().to_string()),
            ("-mode", self.mode.to_string()),
            ("-cap", self.cap.to_string()),
            ("-queue", self.queue.to_string()),
            ("-slices", slices),
            ("-sessions", self.sessions.to_string()),
            ("-piece", self.piece.to_string()),
        ];
        values
            .map(|(name, value)| format!("{name}={value}"))
            .to_vec()
    }

    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut setting = Self::default();
        for argument in arguments {
            let (name, value) = key_and_value(&argument)?;
            match name {
                "-socket" => setting.socket = value.into(),
                "-prefix" => setting.prefix = value.into(),
                "-mode" => setting.mode = value.parse()?,
                "-cap" => setting.cap = number(value)?,
                "-queue" => setting.queue = number(value)?,
                "-slices" => setting.slices = slices(value)?,
                "-sessions" => setting.sessions = number(value)?,
                "-piece" => setting.piece = number(value)?,
                _ => return Err(format!("{argument} is not understood")),
            }
        }
        Ok(setting)
    }
}

/// Who closes a stream behind its last message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Closing {
    /// The client.
    #[default]
    Client,
    /// The server, because the last request [asks it to](super::message::CLOSE).
    Server,
}

/// What a client is told to do: words of the form `key=value` behind a command.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Streams that are used side by side.
    pub streams: usize,
    /// Messages on each.
    pub messages: usize,
    /// Messages of a stream that are sent before the first of their replies is awaited.
    pub window: usize,
    /// Replies to each.
    pub replies: u32,
    /// Bytes of the payloads of messages and their replies, in turns.
    pub sizes: Vec<u32>,
    /// Who closes the streams.
    pub close: Closing,
    /// Whether a stream is taken from the client's pool for each message and put back.
    pub reuse: bool,
    /// For how long nothing is done behind each window, so that both sides go to sleep.
    pub pause: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            streams: 1,
            messages: 1,
            window: 1,
            replies: 1,
            sizes: vec![64],
            close: Closing::Client,
            reuse: false,
            pause: Duration::ZERO,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<_> = self.sizes.iter().map(u32::to_string).collect();
        let close = match self.close {
            Closing::Client => "client",
            Closing::Server => "server",
        };
        write!(
            f,
            "streams={} messages={} window={} replies={} sizes={} close={close} reuse={} pause_ms={}",
            self.streams,
            self.messages,
            self.window,
            self.replies,
            sizes.join(","),
            self.reuse,
            self.pause.as_millis(),
        )
    }
}

impl Plan {
    /// Reads the words behind a command.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut plan = Self::default();
        for word in words {
            let (key, value) = key_and_value(word)?;
            match key {
                "streams" => plan.streams = number(value)?,
                "messages" => plan.messages = number(value)?,
                "window" => plan.window = number(value)?,
                "replies" => plan.replies = number(value)?,
                "sizes" => plan.sizes = value.split(',').map(number).collect::<Result<_, _>>()?,
                "close" if value == "client" => plan.close = Closing::Client,
                "close" if value == "server" => plan.close = Closing::Server,
                "reuse" => plan.reuse = number(value)?,
                "pause_ms" => plan.pause = Duration::from_millis(number(value)?),
                _ => return Err(format!("a plan has no {word}")),
            }
        }
        Ok(plan)
    }
}

fn key_and_value(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=')
        .ok_or_else(|| format!("{word} has no value"))
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{value} is not what belongs here"))
}

fn slices(value: &str) -> Result<Vec<(u32, u32)>, String> {
    let class = |class: &str| {
        let (cap, share) = class
            .split_once(':')
            .ok_or_else(|| format!("{class} is not SIZE:PERCENT"))?;
        Ok((number(cap)?, number(share)?))
    };
    value.split(',').map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let plan = Plan {
            streams: 2,
            sizes: vec![0, 1 << 20],
            close: Closing::Server,
            reuse: true,
            pause: Duration::from_millis(3),
            ..Plan::default()
        };
        let read = Plan::parse(plan.to_string().split(' ')).unwrap();
        assert_eq!(format!("{read:?}"), format!("{plan:?}"));
        let setting = Setting {
            socket: "/a".into(),
            mode: Mode::V4Polling,
            ..Setting::default()
        };
        let read = Setting::parse(setting.arguments().into_iter()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{setting:?}"));
    }
}
