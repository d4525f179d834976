//! What the two sides of a call are to do.

use shmipc_rpc::{Code, Method};
use tests::streams::{CHAT, Item, LIST, ONE, RECORD};

/// The longest message.
const LEN_MAX: usize = 1 << 20;

/// Numbers that look random, and are the same each time.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.next(times) == 0
    }

    /// A length: none, or of an order of magnitude that is as likely as any other.
    pub(super) fn len(&mut self) -> usize {
        if self.once_in(8) {
            return 0;
        }
        let magnitude = self.next(LEN_MAX.ilog2() as usize + 1);
        self.next(2 << magnitude).min(LEN_MAX)
    }

    /// The lengths of the messages of a stream. If there are many, they are short.
    pub(super) fn lens(&mut self) -> Vec<usize> {
        let count = [0, 1, 2, 12, 300][self.next(5)];
        let count = self.next(count + 1);
        let shorten = if count < 20 { 1 } else { 64 };
        (0..count).map(|_| self.len() / shorten).collect()
    }
}

/// What the server does with a call.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Takes so many requests, if there are.
    Read(usize),
    /// Takes all requests.
    ReadAll,
    /// Sends so many responses of those that there are.
    Send(usize),
    /// Lets others run.
    Pause,
    /// Never goes on.
    Hang,
}

/// How the caller gives up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum GiveUp {
    Never,
    /// When it has so many responses.
    After(usize),
    /// After so many polls, wherever it is then.
    Polls(usize),
    /// After so many requests, because the next cannot be made.
    Failing(usize),
}

/// A call: what both sides do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: Method,
    pub(super) requests: Vec<usize>,
    pub(super) responses: Vec<usize>,
    pub(super) steps: Vec<Step>,
    pub(super) status: Result<(), Code>,
    pub(super) give_up: GiveUp,
    /// The caller sends through a sender, and not from a stream.
    pub(super) caller_pushes: bool,
    /// The caller is slow to read.
    pub(super) caller_pauses: bool,
}

impl Plan {
    pub(super) fn random(numbers: &mut Numbers) -> Self {
        let kind = [ONE, LIST, RECORD, CHAT][numbers.next(4)];
        let asks_many = [RECORD, CHAT].contains(&kind);
        let answers_many = [LIST, CHAT].contains(&kind);
        let requests = match asks_many {
            true => numbers.lens(),
            false => vec![numbers.len()],
        };
        let mut responses = match answers_many {
            true => numbers.lens(),
            false => vec![numbers.len()],
        };
        let failures = [Code::Aborted, Code::NotFound, Code::Internal];
        let status = if numbers.once_in(4) {
            Err(failures[numbers.next(3)])
        } else {
            Ok(())
        };
        let mut steps = Vec::new();
        for _ in 0..numbers.next(6) {
            steps.push(match numbers.next(3) {
                0 => Step::Read(numbers.next(20)),
                1 => Step::Send(numbers.next(20)),
                _ => Step::Pause,
            });
        }
        if !numbers.once_in(3) {
            steps.push(Step::ReadAll);
        }
        steps.push(Step::Send(usize::MAX));
        let give_up = match numbers.next(10) {
            0 if answers_many => GiveUp::After(numbers.next(responses.len() + 1)),
            1 | 2 => {
                let magnitude = numbers.next(12);
                GiveUp::Polls(numbers.next(1 << magnitude))
            }
            3 if asks_many => GiveUp::Failing(numbers.next(requests.len() + 1)),
            _ => GiveUp::Never,
        };
        if matches!(give_up, GiveUp::Polls(_)) && numbers.once_in(2) {
            steps.insert(numbers.next(steps.len()), Step::Hang);
        }
        if !answers_many && status.is_err() {
            responses.clear();
        }
        Self {
            kind,
            requests,
            responses,
            steps,
            status,
            give_up,
            caller_pushes: matches!(give_up, GiveUp::Failing(_)) || numbers.once_in(2),
            caller_pauses: numbers.once_in(3),
        }
    }

    pub(super) fn request(&self, at: usize) -> Item {
        Item::new(at as u64, self.requests[at])
    }

    pub(super) fn response(&self, at: usize) -> Item {
        Item::new(1000 + at as u64, self.responses[at])
    }

    /// How many requests the server takes, if nobody gives up.
    pub(super) fn taken_max(&self) -> usize {
        let mut read = 0_usize;
        for step in &self.steps {
            match step {
                Step::Read(count) => read = read.saturating_add(*count),
                Step::ReadAll => read = usize::MAX,
                Step::Hang => break,
                Step::Send(_) | Step::Pause => {}
            }
        }
        read.min(self.requests.len())
    }
}
