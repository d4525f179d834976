//! Settings of sessions and listeners.
#![expect(
    unsafe_code,
    reason = "the choice to trust a foreign user carries the contract, once, where it is made"
)]

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Keepalive, LinkKind, Peer, Shmipc,
    core::{mem::Trust, outbox::Windows},
};

/// How a session waits for its peer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Wait {
    /// Look at shared memory for as long as recent waits say that it pays, at most for
    /// [`spin_budget`](ConfigBuilder::spin_budget); then sleep in the kernel. The default.
    ///
    /// Fastest where calls follow each other; an idle session uses no CPU.
    #[default]
    Adaptive,
    /// Always sleep in the kernel: the least CPU, and the latency of a context switch each way.
    Block,
    /// Never sleep while something is awaited. Occupies a CPU for as long as anybody waits, which on a server is always.
    Busy,
}

/// Whether received payloads are lent in place or copied out first.
///
/// A payload lies in memory that its *sender* owns and can write to. Lending it as `&[u8]` is sound only while the sender
/// leaves it alone until it is returned, which this crate does and a hostile process need not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Payloads(PayloadsKind);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum PayloadsKind {
    #[default]
    Auto,
    Guarded,
    Lent,
}

impl Payloads {
    /// Lends from a peer with our own user id, copies from any other. The default.
    ///
    /// The kernel draws the boundary there: a process with our uid could change our memory by `ptrace` anyway.
    #[expect(
        non_upper_case_globals,
        reason = "reads as the enum variant that it stands in for"
    )]
    pub const Auto: Self = Self(PayloadsKind::Auto);

    /// Copies each message out once before anybody looks at it, whoever the peer is.
    ///
    /// Costs a copy, and private memory for what was received. Messages that wait to be received lie in the peer's memory until then.
    /// Those that are longer than our own [`memory_max`](ConfigBuilder::memory_max) are misbehaviour.
    #[expect(
        non_upper_case_globals,
        reason = "reads as the enum variant that it stands in for"
    )]
    pub const Guarded: Self = Self(PayloadsKind::Guarded);

    /// Lends from every peer, whatever its user id.
    ///
    /// # Safety
    ///
    /// No peer of the session or listener may write to a block between sending it and getting it back; nor, over shmipc's own
    /// link, to a slice that this side has taken out of a list and not sent yet. Nothing on this
    /// side can check that: use it only between programs that you ship yourself and that cannot be taken over.
    #[must_use]
    pub const unsafe fn trusting_foreign_users() -> Self {
        Self(PayloadsKind::Lent)
    }

    /// Whether payloads of `peer` are lent in place that lie in a memory file of the user `owner`.
    ///
    /// Both count: the peer may pass memory on that another made (O24), or may not be who it was when the kernel took down
    /// its credentials.
    pub(crate) fn trust(self, peer: &Peer, owner: Option<u32>) -> Option<Trust> {
        let lends = match self.0 {
            PayloadsKind::Auto => is_own_user(peer) && owner.is_some_and(is_own_uid),
            PayloadsKind::Guarded => false,
            PayloadsKind::Lent => true,
        };
        // SAFETY: a process with our own effective uid may change our memory by `ptrace` as it is; for any other, the
        // caller of `trusting_foreign_users` has promised what is asked here.
        lends.then(|| unsafe { Trust::in_the_peer() })
    }
}

/// Decides who may talk to us. See [`ConfigBuilder::authorize`].
#[derive(Clone, Default)]
pub(crate) struct Authorize(Option<Arc<Allows>>);

type Allows = dyn Fn(&Peer) -> bool + Send + Sync;

impl Authorize {
    pub(crate) fn allows(&self, peer: &Peer) -> bool {
        match &self.0 {
            Some(allows) => allows(peer),
            // Over TCP everybody is unknown, and the files tell more.
            None => is_own_user(peer) || peer.uid() == Some(0) || peer.is_unknown(),
        }
    }
}

impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorize(..)")
    }
}

/// Whether the peer runs as the user that we run as, who may look into us and change us at will.
pub(crate) fn is_own_user(peer: &Peer) -> bool {
    peer.uid().is_some_and(is_own_uid)
}

/// Whether it is the user that we run as.
pub(crate) fn is_own_uid(uid: u32) -> bool {
    uid == nix::unistd::geteuid().as_raw()
}

/// Settings of a session or listener, known to make sense.
///
/// ```
/// use std::time::Duration;
/// use shmipc_transport::{Config, Wait};
///
/// let config = Config::builder().wait(Wait::Block).handshake_timeout(Duration::from_secs(2)).build()?;
/// # Ok::<(), shmipc_transport::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    wait: Wait,
    spin_budget: Duration,
    payloads: Payloads,
    memory_max: u32,
    memory_idle: Duration,
    windows: Windows,
    handshake_timeout: Duration,
    handshakes_max: usize,
    authorize: Authorize,
    keepalive: Option<Keepalive>,
    #[cfg(feature = "metrics")]
    pub(crate) reports: crate::metrics::Reports,
    /// `None` if nobody has named any.
    links: Option<Arc<[LinkKind]>>,
    shmipc: Arc<Shmipc>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait: Wait::default(),
            spin_budget: Duration::from_micros(250),
            payloads: Payloads::default(),
            memory_max: 1 << 30,
            memory_idle: Duration::from_secs(1),
            windows: Windows {
                streams_max: 1024,
                messages: 32,
                bytes: 4 << 20,
            },
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 64,
            authorize: Authorize::default(),
            keepalive: None,
            #[cfg(feature = "metrics")]
            reports: crate::metrics::Reports::default(),
            links: None,
            shmipc: Arc::default(),
        }
    }
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder {
            config: Self::default(),
        }
    }

    /// A builder that starts from these settings.
    pub fn to_builder(&self) -> ConfigBuilder {
        ConfigBuilder {
            config: self.clone(),
        }
    }

    /// Returns these settings with another [`keepalive`](ConfigBuilder::keepalive).
    #[must_use]
    pub fn with_keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// How sessions wait. See [`ConfigBuilder::wait`].
    #[must_use]
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// See [`ConfigBuilder::memory_max`].
    #[must_use]
    pub fn memory_max(&self) -> u32 {
        self.memory_max
    }

    /// The most streams that the peer may have opened at once.
    #[must_use]
    pub fn streams_max(&self) -> u32 {
        self.windows().streams_max
    }

    /// See [`ConfigBuilder::handshake_timeout`].
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// The same, but that a handshake which begins now has no more time than until `deadline`.
    pub(crate) fn hurried(&self, deadline: Option<Instant>) -> Self {
        let mut config = self.clone();
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let least = Duration::from_millis(1);
            config.handshake_timeout = config.handshake_timeout.min(left.max(least));
        }
        config
    }

    /// See [`ConfigBuilder::handshakes_max`].
    #[must_use]
    pub fn handshakes_max(&self) -> usize {
        self.handshakes_max
    }

    /// See [`ConfigBuilder::keepalive`].
    #[must_use]
    pub fn keepalive(&self) -> Option<Keepalive> {
        self.keepalive
    }

    /// See [`ConfigBuilder::links`].
    #[must_use]
    pub fn links(&self) -> &[LinkKind] {
        match &self.links {
            Some(links) => links,
            // Nobody is met who could not do worse.
            None if self.authorize.0.is_none() => &LinkKind::ALL,
            None => &[LinkKind::Outbox],
        }
    }

    /// Whether a link is used where descriptors can be passed, or where they cannot: over TCP, where anybody may be met.
    pub(crate) fn has_link(&self, link: LinkKind, passes_descriptors: bool) -> bool {
        let is_possible = passes_descriptors || link != LinkKind::Outbox && self.links.is_some();
        is_possible && self.links().contains(&link)
    }

    pub(crate) fn shmipc(&self) -> &Shmipc {
        &self.shmipc
    }

    pub(crate) fn spin_budget(&self) -> Duration {
        self.spin_budget
    }

    pub(crate) fn payloads(&self) -> Payloads {
        self.payloads
    }

    pub(crate) fn memory_idle(&self) -> Duration {
        self.memory_idle
    }

    pub(crate) fn windows(&self) -> Windows {
        self.windows
    }

    /// Whether this peer is admitted; see [`ConfigBuilder::authorize`]. For sockets that carry another protocol than this crate's.
    #[must_use]
    pub fn admits(&self, peer: &Peer) -> bool {
        self.authorize.allows(peer)
    }
}

/// Collects settings; [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
#[must_use = "settings take effect in the `Config` that `build` returns"]
pub struct ConfigBuilder {
    pub(crate) config: Config,
}

/// A setting outside its accepted range.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{setting}` must be {accepted}")]
pub struct InvalidConfig {
    /// The setting at fault, as its method of the builder is called; those of a [`Shmipc`] begin with `shmipc.`.
    pub setting: &'static str,
    /// What it may be.
    pub accepted: &'static str,
}

impl InvalidConfig {
    /// Checks settings: the name of each, whether it is accepted, and what is. The first that is not is at fault.
    pub(crate) fn check<const N: usize>(
        checks: [(&'static str, bool, &'static str); N],
    ) -> Result<(), Self> {
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((setting, _, accepted)) => Err(Self { setting, accepted }),
            None => Ok(()),
        }
    }
}

impl ConfigBuilder {
    /// How sessions wait for their peer. Default: [`Wait::Adaptive`].
    pub fn wait(mut self, wait: Wait) -> Self {
        self.config.wait = wait;
        self
    }

    /// The longest that [`Wait::Adaptive`] looks at shared memory before it sleeps. Default: 250 µs; at most 10 ms.
    ///
    /// Costs up to this much CPU time per wait that ends asleep; waits that repeatedly end so are not spun for at all.
    pub fn spin_budget(mut self, budget: Duration) -> Self {
        self.config.spin_budget = budget;
        self
    }

    /// Whether received payloads are lent in place. Default: [`Payloads::Auto`].
    pub fn payloads(mut self, payloads: Payloads) -> Self {
        self.config.payloads = payloads;
        self
    }

    /// The most memory for payloads under way, in bytes, for this side of each session. Default: 1 GiB.
    ///
    /// Also the longest message, and the longest that is received where payloads are [`Guarded`](Payloads::Guarded). Costs address
    /// space; real memory only as far as it is used, and that is given back after [`memory_idle`](Self::memory_idle). From 64 KiB
    /// to just under 4 GiB: a power of two below 16 MiB, a multiple of 16 MiB above.
    pub fn memory_max(mut self, bytes: u32) -> Self {
        self.config.memory_max = bytes;
        self
    }

    /// How long payload memory may lie unused before it goes back to the system. Default: 1 s; at least 1 ms.
    ///
    /// Shorter saves memory; memory that has gone costs page faults when it is needed again (about 0.1 ms per MiB).
    pub fn memory_idle(mut self, idle: Duration) -> Self {
        self.config.memory_idle = idle;
        self
    }

    /// Streams that the peer may have open at once. Default: 1,024; from 1 to 65,536.
    ///
    /// The peer's further streams wait on its side. Costs about 300 bytes per open stream, and what its
    /// [window](Self::stream_window) holds. Over shmipc's own link, where the end of one stream may arrive after what opens the next, up to
    /// twice as many may be open for a moment.
    pub fn streams_max(mut self, streams: u32) -> Self {
        self.config.windows.streams_max = streams;
        self
    }

    /// How far a peer may send ahead of the reader on each stream. Default: 32 messages, 4 MiB.
    ///
    /// A message may be sent while both are above zero, however long it is. A message that waits to be received costs up
    /// to 2 KiB of private memory. From 1 to 65,536 messages, from 1 byte to 1 GiB.
    pub fn stream_window(mut self, messages: u32, bytes: u32) -> Self {
        self.config.windows.messages = messages;
        self.config.windows.bytes = bytes;
        self
    }

    /// How long connecting to, or being connected by, a peer may take in all, whatever is attempted. Default: 5 s; from 1 ms to 1 h.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.config.handshake_timeout = timeout;
        self
    }

    /// How many peers of a listener may be in the middle of a handshake. Default: 64; from 1 to 65,536.
    ///
    /// Further ones wait in the socket's backlog. Costs 3 descriptors and about 170 KiB of address space each.
    pub fn handshakes_max(mut self, handshakes: usize) -> Self {
        self.config.handshakes_max = handshakes;
        self
    }

    /// Decides, by the credentials that the kernel vouches for, whom to talk to. Default: our own user id, or root, and whoever is met
    /// over TCP.
    ///
    /// Asked on both sides, before anything is set up for the peer. Runs on the runtime, so it must not block.
    ///
    /// Clients that are not admitted are told so ([`RefusalCode::Unauthorized`](crate::RefusalCode)), or are hung up on if they begin with
    /// version 2 or 3 of shmipc's protocol, which have no words for it. For that a listener waits for the first message of up to 16 of them at
    /// a time, and hangs up on further ones at once; they count for nothing in [`handshakes_max`](Self::handshakes_max).
    ///
    /// Over TCP the kernel vouches for nobody, so that the peer's credentials are `None`. Whoever is admitted all the same must name
    /// files of our own user, see [`Address::Tcp`](crate::Address::Tcp). Who asks for a certain user id admits nobody there.
    pub fn authorize(mut self, allow: impl Fn(&Peer) -> bool + Send + Sync + 'static) -> Self {
        self.config.authorize = Authorize(Some(Arc::new(allow)));
        self
    }

    /// Ends sessions with peers that live and do not answer. Default: none; a peer that has died is noticed without.
    ///
    /// Costs a timer per session while streams are open, and a ping where nothing else is heard. Both sides may do it, each
    /// for itself. Sessions of [threads](crate::blocking) ignore it: there a deadline limits what a thread waits for.
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.config.keepalive = Some(keepalive);
        self
    }

    /// The links to use: for a client all that it tries, for a server all that it accepts. Default: [all](LinkKind::ALL), so that the best one
    /// that both sides know is had; but [`LinkKind::Outbox`] alone if [`authorize`](Self::authorize) is set, and none over TCP.
    ///
    /// Whatever the order, a client asks for our own link first, for version 4 of shmipc's in the same breath, and for the older
    /// versions if the server knows neither. One link alone pins it. With version 2 alone, connecting succeeds although the server may
    /// never have spoken: that version has no answer.
    ///
    /// Over any but our own, the peer can write to the memory that carries messages. It can then break its own session, and nothing
    /// else: see `SECURITY.md`. So those others are there by default among processes of one user, and root, who could do worse anyway. For
    /// whomever else you admit, and at an [`Address::Tcp`](crate::Address::Tcp), where our own cannot be had, name what you want.
    pub fn links(mut self, links: impl IntoIterator<Item = LinkKind>) -> Self {
        self.config.links = Some(links.into_iter().collect());
        self
    }

    /// Settings of shmipc's own link.
    pub fn shmipc(mut self, shmipc: Shmipc) -> Self {
        self.config.shmipc = Arc::new(shmipc);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidConfig`], which names the setting at fault and what it may be.
    pub fn build(self) -> Result<Config, InvalidConfig> {
        const SHARED_REGION: u32 = 16 << 20;
        let c = &self.config;
        c.shmipc.validate()?;
        let memory = c.memory_max;
        let memory_fits = (64 << 10 <= memory && memory.is_power_of_two())
            || (0 < memory && memory.is_multiple_of(SHARED_REGION));
        InvalidConfig::check([
            (
                "links",
                !c.links().is_empty(),
                "a list of at least one link",
            ),
            (
                "spin_budget",
                c.spin_budget <= Duration::from_millis(10),
                "at most 10 ms",
            ),
            (
                "memory_max",
                memory_fits,
                "a power of two from 64 KiB to 16 MiB, or a multiple of 16 MiB below 4 GiB",
            ),
            (
                "memory_idle",
                Duration::from_millis(1) <= c.memory_idle,
                "at least 1 ms",
            ),
            (
                "streams_max",
                (1..=65_536).contains(&c.windows.streams_max),
                "from 1 to 65,536",
            ),
            (
                "stream_window",
                (1..=65_536).contains(&c.windows.messages),
                "from 1 to 65,536 messages",
            ),
            (
                "stream_window",
                (1..=1 << 30).contains(&c.windows.bytes),
                "from 1 byte to 1 GiB",
            ),
            (
                "handshake_timeout",
                (Duration::from_millis(1)..=Duration::from_secs(3600))
                    .contains(&c.handshake_timeout),
                "from 1 ms to 1 h",
            ),
            (
                "handshakes_max",
                (1..=65_536).contains(&c.handshakes_max),
                "from 1 to 65,536",
            ),
        ])?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_acceptable() {
        assert!(Config::builder().build().is_ok());
    }

    #[test]
    fn all_links_are_for_those_who_are_admitted_by_default() {
        let [default, admitting, named] = [
            Config::builder(),
            Config::builder().authorize(|_| true),
            Config::builder()
                .authorize(|_| true)
                .links([LinkKind::Outbox, LinkKind::ShmipcV3]),
        ]
        .map(|builder| builder.build().unwrap());
        assert_eq!(default.links(), LinkKind::ALL);
        assert_eq!(admitting.links(), [LinkKind::Outbox]);
        assert_eq!(named.links(), [LinkKind::Outbox, LinkKind::ShmipcV3]);
        for link in LinkKind::ALL {
            assert!(default.has_link(link, true), "{link:?}");
            assert!(!default.has_link(link, false), "{link:?} over TCP");
            let is_named = link == LinkKind::ShmipcV3;
            assert_eq!(named.has_link(link, false), is_named, "{link:?} over TCP");
        }
    }

    #[test]
    fn nonsense_names_the_setting() {
        let nonsense = [
            (Config::builder().memory_max(0), "memory_max"),
            (Config::builder().memory_max((1 << 20) + 1), "memory_max"),
            (
                Config::builder().memory_max((16 << 20) + 4096),
                "memory_max",
            ),
            (
                Config::builder().spin_budget(Duration::from_secs(1)),
                "spin_budget",
            ),
            (Config::builder().memory_idle(Duration::ZERO), "memory_idle"),
            (Config::builder().links([]), "links"),
            (Config::builder().streams_max(0), "streams_max"),
            (Config::builder().stream_window(0, 1), "stream_window"),
            (Config::builder().stream_window(1, 0), "stream_window"),
            (
                Config::builder().handshake_timeout(Duration::ZERO),
                "handshake_timeout",
            ),
            (Config::builder().handshakes_max(0), "handshakes_max"),
        ];
        for (builder, setting) in nonsense {
            assert_eq!(builder.build().unwrap_err().setting, setting);
        }
    }
}
