//! Memory that is passed on from one session to another, all ends in one process.

use std::{fs, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use shmipc_transport::{Config, ConfigBuilder, Flush, Listener, Payloads, Session, Stream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// Two ends of a session, over a socket in a directory of its own.
struct Pair {
    client: Session,
    server: Session,
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: ConfigBuilder) -> Self {
        let (config, dir) = (config.build().unwrap(), tempfile::tempdir().unwrap());
        let socket = dir.path().join("socket");
        let listener = Listener::bind_with(&*socket, config.clone()).unwrap();
        let (client, server) =
            tokio::join!(Session::connect_with(socket, config), listener.accept());
        Self {
            client: client.unwrap(),
            server: server.unwrap(),
            _dir: dir,
        }
    }
}

/// Little memory, so that what comes back is soon used again, and forgotten soon.
fn config() -> ConfigBuilder {
    Config::builder()
        .memory_max(8 << 20)
        .memory_idle(Duration::from_millis(20))
}

/// Owner, middle and reader: the middle has received from the owner, and sends to the reader.
struct Chain {
    owner: Pair,
    reader: Pair,
    /// A stream from the owner to the middle, both ends.
    out: Stream,
    inward: Stream,
    /// A stream from the middle to the reader, both ends.
    on: Stream,
    received: Option<Stream>,
}

impl Chain {
    async fn new() -> Self {
        Self::of(Pair::new().await, Pair::new().await).await
    }

    async fn of(owner: Pair, reader: Pair) -> Self {
        let mut out = owner.client.open_stream().unwrap();
        put(&mut out, Bytes::from_static(b"hello")).await;
        let mut inward = owner.server.accept_stream().await.unwrap();
        inward.recv().await.unwrap().unwrap();
        let on = reader.client.open_stream().unwrap();
        Self {
            owner,
            reader,
            out,
            inward,
            on,
            received: None,
        }
    }

    /// The middle's session with the owner.
    fn source(&self) -> &Session {
        &self.owner.server
    }

    /// The middle's session with the reader.
    fn sink(&self) -> &Session {
        &self.reader.client
    }

    /// Sends `len` bytes from the owner to the middle, and returns what each has.
    async fn lent(&mut self, len: usize, seed: usize) -> (Bytes, Bytes) {
        let mut block = wait(self.owner.client.alloc(len)).await.unwrap();
        fill(&mut block, seed);
        let sent = block.freeze();
        put(&mut self.out, sent.clone()).await;
        (sent, take(&mut self.inward).await)
    }

    /// Sends `bytes` from the middle to the reader, and returns what arrives.
    async fn pass(&mut self, bytes: Bytes) -> Bytes {
        put(&mut self.on, bytes).await;
        if self.received.is_none() {
            let stream = wait(self.reader.server.accept_stream()).await;
            self.received = Some(stream.unwrap());
        }
        take(self.received.as_mut().unwrap()).await
    }

    /// Waits until the middle and the reader together hold so many segments of the owner's, as far as the owner knows.
    async fn is_held(&self, segments: u32) {
        let owner = &self.owner.client;
        wait(async {
            loop {
                // It looks for what has come back when it needs memory.
                drop(owner.alloc(1).await.unwrap());
                if owner.stats().segments_under_way == segments {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

async fn wait<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it hangs")
}

async fn until(what: &str, check: impl Fn() -> bool) {
    wait(async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(check(), "{what}");
}

async fn put(stream: &mut Stream, bytes: Bytes) {
    let mut message = stream.buffer(bytes.len());
    message.put(bytes);
    wait(stream.send(message, Flush::More)).await.unwrap();
}

async fn take(stream: &mut Stream) -> Bytes {
    let mut message = wait(stream.recv()).await.unwrap().unwrap();
    message.copy_to_bytes(message.len())
}

fn fill(bytes: &mut [u8], seed: usize) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = expected(i, seed);
    }
}

fn expected(i: usize, seed: usize) -> u8 {
    u8::try_from((i * 31 + seed) % 251).unwrap()
}

#[track_caller]
fn assert_filled(bytes: &[u8], seed: usize) {
    let is_right = |(i, byte): (usize, &u8)| *byte == expected(i, seed);
    assert!(bytes.iter().enumerate().all(is_right), "it has changed");
}

/// The file that `bytes` is mapped from.
fn inode(bytes: &[u8]) -> String {
    let address = bytes.as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let (end, _) = rest.split_once(' ').unwrap();
        let [start, end] = [start, end].map(|word| usize::from_str_radix(word, 16).unwrap());
        (start..end).contains(&address)
    });
    let fields: Vec<_> = line.unwrap().split_whitespace().collect();
    format!("{} {}", fields[3], fields[4])
}

#[tokio::test]
async fn what_was_lent_is_passed_on_without_a_copy() {
    let mut chain = Chain::new().await;
    assert!(chain.sink().forward_from(chain.source()));
    for (seed, len) in [MIB, 4 * MIB, 128 << 10, 4 * MIB, MIB]
        .into_iter()
        .enumerate()
    {
        let (sent, lent) = chain.lent(len, seed).await;
        let received = chain.pass(lent.slice(10..)).await;
        assert_filled(&sent, seed);
        assert!(received == sent.slice(10..), "{len} bytes came out changed");
        assert_eq!(inode(&received), inode(&sent), "{len} bytes");
        assert_ne!(received.as_ptr(), lent.as_ptr(), "a mapping of its own");
        drop((sent, lent));
        chain.is_held(1).await;
        drop(received);
        chain.is_held(0).await;
    }
    let stats = chain.sink().stats();
    let bytes = (10 * MIB + (128 << 10) - 50) as u64;
    assert_eq!(
        (stats.segments_forwarded, stats.bytes_forwarded),
        (5, bytes)
    );
    assert_eq!(stats.bytes_linked, bytes);
    assert_eq!((stats.regions_added, stats.arena_used_max), (0, 0));
    assert_eq!(chain.reader.server.stats().bytes_lent, bytes);
}

#[tokio::test]
async fn what_nobody_has_allowed_for_is_copied() {
    let mut chain = Chain::new().await;
    let (sent, lent) = chain.lent(MIB, 1).await;
    assert_ne!(inode(&chain.pass(lent.clone()).await), inode(&sent));
    assert!(chain.sink().forward_from(chain.source()));
    // Short ranges go on to be copied, and so does what is of no session at all.
    let short = chain.pass(lent.slice(..10_000)).await;
    let ordinary = chain.pass(Bytes::from(lent.to_vec())).await;
    assert!(short == sent[..10_000] && ordinary == sent);
    assert_eq!(chain.sink().stats().segments_forwarded, 0);
    assert_eq!(inode(&chain.pass(lent).await), inode(&sent));
    assert!(
        !chain.source().forward_from(chain.source()),
        "a session is no source of its own"
    );
}

#[tokio::test]
async fn a_guarded_reader_copies_and_gives_back_at_once() {
    let reader = Pair::with(config().payloads(Payloads::Guarded)).await;
    let mut chain = Chain::of(Pair::new().await, reader).await;
    assert!(chain.sink().forward_from(chain.source()));
    let (sent, lent) = chain.lent(MIB, 1).await;
    let received = chain.pass(lent).await;
    assert_eq!(received, sent);
    assert_eq!(chain.sink().stats().segments_forwarded, 1);
    assert_eq!(chain.reader.server.stats().bytes_lent, 0);
    chain.is_held(0).await;
}

#[tokio::test]
async fn what_was_passed_on_to_us_is_not_passed_on_again() {
    let mut chain = Chain::new().await;
    assert!(chain.sink().forward_from(chain.source()));
    let (sent, lent) = chain.lent(MIB, 1).await;
    let received = chain.pass(lent).await;
    // The next in line is the reader of the first three.
    let next = Pair::new().await;
    assert!(next.client.forward_from(&chain.reader.server));
    let mut on = next.client.open_stream().unwrap();
    put(&mut on, received).await;
    let mut stream = wait(next.server.accept_stream()).await.unwrap();
    let copy = take(&mut stream).await;
    assert_eq!(copy, sent);
    assert_ne!(inode(&copy), inode(&sent));
    drop(sent);
    chain.is_held(0).await;
    assert_filled(&copy, 1);
}

#[tokio::test]
async fn what_comes_back_from_the_reader_goes_back_to_its_owner() {
    let mut chain = Chain::new().await;
    assert!(chain.sink().forward_from(chain.source()));
    let (sent, lent) = chain.lent(MIB, 1).await;
    let received = chain.pass(lent).await;
    let back = chain.received.as_mut().unwrap();
    put(back, received).await;
    let returned = take(&mut chain.on).await;
    assert_eq!(inode(&returned), inode(&sent));
    put(&mut chain.inward, returned).await;
    let home = take(&mut chain.out).await;
    assert_eq!(home.as_ptr(), sent.as_ptr(), "nothing was ever copied");
    chain.is_held(0).await;
    assert_filled(&home, 1);
}

/// Has the owner write into all of its memory that it takes for its own, again and again.
async fn overwrite(chain: &mut Chain) {
    for seed in 100..110 {
        let (sent, lent) = chain.lent(2 * MIB, seed).await;
        let (other, _) = chain.lent(MIB, seed).await;
        drop((sent, other, lent));
    }
}

#[tokio::test]
async fn what_the_reader_holds_outlives_its_session_and_is_not_used_before_it_lets_go() {
    for ended_by_reader in [true, false] {
        let mut chain = Chain::new().await;
        assert!(chain.sink().forward_from(chain.source()));
        let (_, lent) = chain.lent(MIB, 1).await;
        let part = lent.slice(64 << 10..);
        let held = [chain.pass(lent).await, chain.pass(part).await];
        // The segment of this one has come back before the end.
        let (_, lent) = chain.lent(MIB, 2).await;
        drop(chain.pass(lent).await);
        let end = if ended_by_reader {
            &chain.reader.server
        } else {
            &chain.reader.client
        };
        end.close();
        wait(chain.reader.client.closed()).await;
        wait(chain.reader.server.closed()).await;
        chain.is_held(1).await;
        overwrite(&mut chain).await;
        assert_filled(&held[0], 1);
        let [first, second] = held;
        drop(first);
        overwrite(&mut chain).await;
        assert_eq!(second[0], expected(64 << 10, 1));
        assert_eq!(second[MIB - (64 << 10) - 1], expected(MIB - 1, 1));
        drop(second);
        chain.is_held(0).await;
    }
}

#[tokio::test]
async fn a_reader_that_never_took_its_message_holds_nothing_in_the_end() {
    let mut chain = Chain::new().await;
    assert!(chain.sink().forward_from(chain.source()));
    let (_, lent) = chain.lent(MIB, 1).await;
    put(&mut chain.on, lent).await;
    chain.is_held(1).await;
    chain.reader.client.close();
    wait(chain.reader.server.closed()).await;
    // It was accepted by nobody, and lies in a queue of the session.
    let Pair { server, client, .. } = chain.reader;
    drop((server, client));
    let held = || chain.owner.server.stats().leases_held;
    until("the lease is over", || held() == 0).await;
}

#[tokio::test]
async fn what_the_reader_holds_outlives_the_owners_session() {
    for ended_by_owner in [true, false] {
        let mut chain = Chain::new().await;
        assert!(chain.sink().forward_from(chain.source()));
        let (sent, lent) = chain.lent(MIB, 1).await;
        let held = chain.pass(lent.clone()).await;
        let end = if ended_by_owner {
            &chain.owner.client
        } else {
            &chain.owner.server
        };
        end.close();
        wait(chain.owner.client.closed()).await;
        wait(chain.owner.server.closed()).await;
        assert!(chain.owner.client.alloc(MIB).await.is_err());
        assert_filled(&held, 1);
        // What is left of it is ordinary memory now.
        let copy = chain.pass(lent).await;
        assert_filled(&copy, 1);
        assert_ne!(inode(&copy), inode(&sent));
        drop((sent, held));
    }
}

#[tokio::test]
async fn a_session_that_is_over_writes_into_nothing_that_was_sent() {
    let chain = Chain::new().await;
    let mut stream = chain.owner.client.open_stream().unwrap();
    let mut block = wait(chain.owner.client.alloc(MIB)).await.unwrap();
    fill(&mut block, 1);
    put(&mut stream, block.freeze()).await;
    let mut inward = wait(chain.owner.server.accept_stream()).await.unwrap();
    let held = take(&mut inward).await;
    // Begun while the session was there, and written when it is not.
    let mut late = stream.buffer(4 * MIB);
    chain.owner.client.close();
    wait(chain.owner.server.closed()).await;
    for _ in 0..4 {
        late.put_slice(&[0xff; MIB]);
    }
    assert_filled(&held, 1);
    assert!(stream.send(late, Flush::More).await.is_err());
}

/// How often a file is mapped in this process.
fn mappings(inode: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(inode)).count()
}

#[tokio::test]
async fn what_is_passed_on_no_more_is_unmapped() {
    let mut chain = Chain::new().await;
    assert!(chain.sink().forward_from(chain.source()));
    let (sent, lent) = chain.lent(MIB, 1).await;
    let file = inode(&sent);
    assert_eq!(mappings(&file), 2);
    drop(chain.pass(lent).await);
    assert_eq!(mappings(&file), 3, "the reader keeps it for the next");
    until("the reader has unmapped it", || mappings(&file) == 2).await;
    // And maps it again when it is needed.
    let (_, lent) = chain.lent(MIB, 2).await;
    assert_eq!(inode(&chain.pass(lent).await), file);
    drop(sent);
    until("all have unmapped it", || mappings(&file) == 0).await;
}

#[tokio::test]
async fn more_regions_than_may_be_passed_on_are_copied_until_some_are_back() {
    const REGIONS: usize = 64;
    // Longer than what shares a region with others. Nobody looks at most of it, so it costs nothing.
    const LEN: usize = (16 << 20) + 4096;
    let large = || config().memory_max(2 << 30).stream_window(256, 1 << 30);
    let (owner, reader) = (Pair::with(large()).await, Pair::with(large()).await);
    let mut chain = Chain::of(owner, reader).await;
    assert!(chain.sink().forward_from(chain.source()));
    let mut held = Vec::new();
    for i in 0..REGIONS + 2 {
        let block = wait(chain.owner.client.alloc(LEN)).await.unwrap();
        let sent = block.freeze();
        put(&mut chain.out, sent.clone()).await;
        let lent = take(&mut chain.inward).await;
        let received = chain.pass(lent).await;
        assert_eq!(inode(&received) == inode(&sent), i < REGIONS, "number {i}");
        held.push(received);
    }
    held.clear();
    let mut block = wait(chain.owner.client.alloc(LEN)).await.unwrap();
    block[LEN - 1] = 7;
    let sent = block.freeze();
    put(&mut chain.out, sent.clone()).await;
    let lent = take(&mut chain.inward).await;
    let received = chain.pass(lent).await;
    assert_eq!((inode(&received), received[LEN - 1]), (inode(&sent), 7));
}

#[tokio::test]
async fn one_reader_may_have_many_sources() {
    let reader = Pair::new().await;
    let mut chain = Chain::of(Pair::new().await, reader).await;
    let mut others = Vec::new();
    for _ in 0..63 {
        let other = Pair::new().await;
        assert!(chain.sink().forward_from(&other.client));
        others.push(other);
    }
    assert!(chain.sink().forward_from(chain.source()));
    for other in &others {
        assert!(chain.sink().forward_from(&other.server), "once more");
    }
    // It is the last of those that are remembered.
    let (sent, lent) = chain.lent(MIB, 1).await;
    assert_eq!(inode(&chain.pass(lent).await), inode(&sent));
    assert!(chain.sink().forward_from(&others[0].client));
    let (sent, lent) = chain.lent(MIB, 2).await;
    assert_ne!(inode(&chain.pass(lent).await), inode(&sent));
}
