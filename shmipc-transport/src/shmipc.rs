//! Settings of shmipc's own link.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    config::InvalidConfig,
    core::shmipc::{Geometry, QueuePlan, terms::Wakes},
};

/// The longest path of a directory, in bytes: those of the files in it are at most 4 KiB long.
const DIRECTORY_MAX: usize = 4000;

/// A way in which two processes can exchange messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LinkKind {
    /// Our own: each side writes only memory that it owns, and the other maps that read-only. What two of ours have.
    Outbox,
    /// Version 4 of shmipc's protocol: with the `shmipc` crate from 0.2, or with ourselves where read-only mappings are refused.
    ShmipcV4,
    /// Version 3: with shmipc-go and all of the `shmipc` crate.
    ShmipcV3,
    /// Version 2, which has files only, and no acknowledgement: with shmipc-go as it is configured by default.
    ShmipcV2,
}

impl LinkKind {
    /// All of them, in the order in which a client best tries them.
    pub const ALL: [Self; 4] = [Self::Outbox, Self::ShmipcV4, Self::ShmipcV3, Self::ShmipcV2];
}

/// How the regions of shmipc's own link reach the server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum ShmipcMapping {
    /// As memory files over the socket: nothing has a name. Version 2 does not know it, and nothing can be passed over TCP: there, files are
    /// used. The default.
    #[default]
    Memfd,
    /// As files in [`Shmipc::directory`], which are removed as soon as the server has mapped them.
    File,
}

/// How the sides of a session of version 4 are woken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum ShmipcWakes {
    /// By eventfds, if regions are memory files and the peer is of our own user; else by the socket. The default.
    #[default]
    EventFd,
    /// By messages on the socket.
    Socket,
    /// Not at all: both sides look at their queues after this time, from 1 µs to 1 s, whether or not there is anything. Where there was
    /// nothing a hundred times in a row, they look each millisecond, if that is longer: an idle session hardly uses a CPU.
    Polling(Duration),
}

/// Settings of shmipc's own link, for [`ConfigBuilder::shmipc`](crate::ConfigBuilder::shmipc).
///
/// The client makes the memory of a session. Of a server's settings, only [`directory`](Self::directory), [`message_max`](Self::message_max)
/// and [`region_max`](Self::region_max) are used.
///
/// ```
/// use shmipc_transport::{Config, LinkKind, Shmipc};
///
/// let shmipc = Shmipc::default().buffer_len(64 << 20).slices([(4096, 50), (65_536, 50)]);
/// let config = Config::builder().links(LinkKind::ALL).shmipc(shmipc).build()?;
/// # Ok::<(), shmipc_transport::InvalidConfig>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shmipc {
    buffer_len: u32,
    slices: Vec<(u32, u32)>,
    queue_len: u32,
    mapping: ShmipcMapping,
    wakes: ShmipcWakes,
    directory: PathBuf,
    message_max: u32,
    region_max: u32,
}

impl Default for Shmipc {
    fn default() -> Self {
        Self {
            buffer_len: 32 << 20,
            slices: vec![(8172, 50), (32_748, 30), (131_052, 20)],
            queue_len: 8192,
            mapping: ShmipcMapping::default(),
            wakes: ShmipcWakes::default(),
            directory: PathBuf::from("/dev/shm"),
            message_max: 128 << 20,
            region_max: 1 << 30,
        }
    }
}

impl Shmipc {
    /// The length in bytes of the region for payloads, which both sides share. Default: 32 MiB; a multiple of 4, from 64 KiB.
    ///
    /// Of a memory file only touched pages cost memory; a file is paid for at once.
    #[must_use]
    pub const fn buffer_len(mut self, bytes: u32) -> Self {
        self.buffer_len = bytes;
        self
    }

    /// The capacities of slices in bytes, each with its share of the region in percent. Default: 8,172 (50 %), 32,748 (30 %)
    /// and 131,052 (20 %).
    ///
    /// Capacities are multiples of 4, no two the same; shares come to 100 at most. The last slice of each is never used.
    #[must_use]
    pub fn slices(mut self, slices: impl IntoIterator<Item = (u32, u32)>) -> Self {
        self.slices = slices.into_iter().collect();
        self
    }

    /// Messages that may wait in each direction. Default: 8,192; from 1 to 1,048,576, rounded up to a multiple of 16.
    #[must_use]
    pub const fn queue_len(mut self, elements: u32) -> Self {
        self.queue_len = elements;
        self
    }

    /// How regions reach the server. Default: [`ShmipcMapping::Memfd`].
    #[must_use]
    pub const fn mapping(mut self, mapping: ShmipcMapping) -> Self {
        self.mapping = mapping;
        self
    }

    /// How the sides are woken, in version 4. Default: [`ShmipcWakes::EventFd`].
    #[must_use]
    pub const fn wakes(mut self, wakes: ShmipcWakes) -> Self {
        self.wakes = wakes;
        self
    }

    /// Where files of regions are made, and where those of clients must lie. Default: `/dev/shm`; a file system in memory.
    ///
    /// An absolute path of at most 4,000 bytes: it is told to the peer, also where memory files are passed.
    ///
    /// Files of clients must lie directly in it, belong to the client's user, and be no links. Over [TCP](crate::Address::Tcp) they must
    /// belong to our own, and no other may be able to write to them; a directory that nobody else may enter serves best.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The longest message, in bytes. Default: 128 MiB; from 1 KiB.
    ///
    /// A longer one is not sent, and a peer that sends one ends its session: what is copied as it is received takes that much private
    /// memory. In any case nothing over 32 MiB is sent, the most that others take where a message has to go over the socket. A message may
    /// lie in as many slices as this has KiB, and 64 more.
    #[must_use]
    pub const fn message_max(mut self, bytes: u32) -> Self {
        self.message_max = bytes;
        self
    }

    /// The longest region that is taken from a client, in bytes. Default: 1 GiB; from 64 KiB.
    ///
    /// Clients with longer ones are refused, except that one as long as [`buffer_len`](Self::buffer_len) is taken always. The space of a file is
    /// set aside as it is mapped, which may count for the server.
    #[must_use]
    pub const fn region_max(mut self, bytes: u32) -> Self {
        self.region_max = bytes;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidConfig> {
        let path = self.directory.as_os_str().as_bytes();
        InvalidConfig::check([
            (
                "shmipc.buffer_len",
                64 << 10 <= self.buffer_len && self.buffer_len.is_multiple_of(4),
                "a multiple of 4 of at least 64 KiB",
            ),
            (
                "shmipc.queue_len",
                (1..=QueuePlan::CAP_MAX).contains(&self.queue_len),
                "from 1 to 1,048,576",
            ),
            (
                "shmipc.slices",
                Geometry::plan(self.buffer_len, &self.slices).is_ok(),
                "multiples of 4, no two the same, whose shares come to at most 100 percent and have room for at least one of each",
            ),
            (
                "shmipc.wakes",
                match self.wakes {
                    ShmipcWakes::Polling(interval) => {
                        Duration::from_micros(1) <= interval && interval <= Duration::from_secs(1)
                    }
                    ShmipcWakes::EventFd | ShmipcWakes::Socket => true,
                },
                "`EventFd`, `Socket`, or `Polling` of 1 µs to 1 s",
            ),
            (
                "shmipc.message_max",
                1 << 10 <= self.message_max,
                "at least 1 KiB",
            ),
            (
                "shmipc.region_max",
                64 << 10 <= self.region_max,
                "at least 64 KiB",
            ),
            (
                "shmipc.directory",
                self.directory.is_absolute() && !path.contains(&0) && path.len() <= DIRECTORY_MAX,
                "an absolute path of at most 4,000 bytes",
            ),
        ])
    }

    pub(crate) fn region_len(&self) -> u32 {
        self.buffer_len
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::plan(self.buffer_len, &self.slices).expect("the settings were checked")
    }

    pub(crate) const fn queue_plan(&self) -> QueuePlan {
        QueuePlan::new(self.queue_len)
    }

    pub(crate) const fn how_mapped(&self) -> ShmipcMapping {
        self.mapping
    }

    pub(crate) const fn longest_message(&self) -> u32 {
        self.message_max
    }

    pub(crate) fn longest_region(&self) -> u32 {
        self.region_max.max(self.buffer_len)
    }

    pub(crate) fn where_files_lie(&self) -> &Path {
        &self.directory
    }

    /// What to ask of a server, which may be one of our own user.
    pub(crate) fn asked_wakes(&self, is_own_user: bool) -> Wakes {
        match self.wakes {
            ShmipcWakes::Polling(interval) => Wakes::Polling(interval),
            ShmipcWakes::EventFd if is_own_user && self.mapping == ShmipcMapping::Memfd => {
                Wakes::EventFd
            }
            ShmipcWakes::EventFd | ShmipcWakes::Socket => Wakes::Socket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn limits_that_would_let_nothing_through_are_refused() {
        let built = |shmipc| Config::builder().shmipc(shmipc).build();
        for (shmipc, setting) in [
            (Shmipc::default().message_max(1023), "shmipc.message_max"),
            (Shmipc::default().region_max(65_535), "shmipc.region_max"),
        ] {
            assert_eq!(built(shmipc).unwrap_err().setting, setting);
        }
        let least = Shmipc::default().message_max(1024).region_max(65_536);
        let config = built(least).unwrap();
        assert_eq!(config.shmipc().longest_message(), 1024);
        assert_eq!(
            config.shmipc().longest_region(),
            32 << 20,
            "as long as our own"
        );
    }

    #[test]
    fn directories_of_which_no_peer_could_be_told_are_refused() {
        let built = |directory: &str| {
            let shmipc = Shmipc::default().directory(directory);
            Config::builder().shmipc(shmipc).build()
        };
        let long = |len: usize| format!("/{}", "d/".repeat(len / 2))[..len].to_owned();
        for directory in [
            "",
            "files",
            "./files",
            "/dev/\0shm",
            &long(4001),
            &long(70_000),
        ] {
            let refused = built(directory).unwrap_err();
            assert_eq!(refused.setting, "shmipc.directory", "{directory:.20}");
        }
        for directory in ["/", "/dev/shm", "/dev/shm/", "/dev/shm/ours", &long(4000)] {
            built(directory).unwrap_or_else(|error| panic!("{directory:.20}: {error}"));
        }
    }
}
