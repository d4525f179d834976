//! A whole handshake, in both of its parts, moved on without ever waiting.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Advance, Attach, Attempt, Conversation, Drive, Established, Joined, Strangers, Wants,
    drive::{Clock, Line},
};
use crate::{
    Config,
    core::handshake::Shmipc,
    error::{ConnectError, HandshakeError},
    sys::socket::ControlSocket,
};

/// What a handshake came to.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// Our own link.
    Outbox(Established<T>),
    /// One of shmipc's.
    Shmipc(Box<Joined>),
}

/// A handshake under way. It [advances](Self::advance), and says [what for](Self::wants) it waits then, and [how
/// long](Self::deadline).
#[derive(Debug)]
pub(crate) struct Shaking<A: Attach> {
    stage: Stage<A::Attached>,
    attach: A,
    config: Config,
    is_client: bool,
    wants: Wants,
}

/// How far it has come.
#[derive(Debug)]
enum Stage<T> {
    /// In the part that all links have in common.
    Common(Box<Drive<T>>),
    /// In the part that is shmipc's own.
    Shmipc(Box<Conversation>),
}

impl<A: Attach> Shaking<A> {
    /// Begins as the client, over a connection to the server.
    pub(crate) fn client(
        socket: ControlSocket,
        clock: Clock,
        config: &Config,
        attempt: Attempt,
        attach: A,
    ) -> Result<Self, ConnectError> {
        let line = Line::to_server(socket, clock, config)?;
        let stage = match attempt {
            Attempt::Negotiate { patience } => {
                Stage::Common(Box::new(Drive::client(line, config, &attach, patience)))
            }
            Attempt::Ask(goes_on) => {
                Stage::Shmipc(Box::new(Conversation::asking(line, config, goes_on)?))
            }
            Attempt::Version2 => {
                Stage::Shmipc(Box::new(Conversation::client(line, config, 2, None)?))
            }
        };
        Ok(Self::new(stage, attach, config, true))
    }

    /// Begins as the server, with a client that has connected.
    pub(crate) fn server(
        socket: ControlSocket,
        config: &Config,
        attach: A,
        strangers: &Strangers,
    ) -> Result<Self, HandshakeError> {
        let drive = Drive::server(socket, config, &attach, strangers)?;
        let stage = Stage::Common(Box::new(drive));
        Ok(Self::new(stage, attach, config, false))
    }

    fn new(stage: Stage<A::Attached>, attach: A, config: &Config, is_client: bool) -> Self {
        Self {
            stage,
            attach,
            config: config.clone(),
            is_client,
            wants: Wants::Writable,
        }
    }

    /// Goes on as far as that takes no waiting. Returns itself if it is not done.
    pub(crate) fn advance(mut self) -> Result<Result<Outcome<A::Attached>, Self>, HandshakeError> {
        loop {
            let (stage, wants) = match self.stage {
                Stage::Common(mut drive) => match drive.advance(&mut self.attach)? {
                    Advance::Done(attached) => {
                        let established = Established::new(*drive, attached);
                        return Ok(Ok(Outcome::Outbox(established)));
                    }
                    Advance::Shmipc(shmipc) => {
                        let conversation =
                            switch(drive.line, shmipc, &self.config, self.is_client)?;
                        (Stage::Shmipc(Box::new(conversation)), None)
                    }
                    Advance::Wants(wants) => (Stage::Common(drive), Some(wants)),
                },
                Stage::Shmipc(mut conversation) => match conversation.advance(&self.config)? {
                    None => {
                        let joined = Box::new(conversation.into_joined());
                        return Ok(Ok(Outcome::Shmipc(joined)));
                    }
                    wants => (Stage::Shmipc(conversation), wants),
                },
            };
            self.stage = stage;
            if let Some(wants) = wants {
                self.wants = wants;
                return Ok(Err(self));
            }
        }
    }

    /// What it waits for.
    pub(crate) const fn wants(&self) -> Wants {
        self.wants
    }

    /// The socket that it waits for.
    pub(crate) fn socket(&self) -> &ControlSocket {
        match &self.stage {
            Stage::Common(drive) => &drive.line.socket,
            Stage::Shmipc(conversation) => &conversation.line.socket,
        }
    }

    /// The moment at which all is over.
    pub(crate) fn deadline(&self) -> Instant {
        match &self.stage {
            Stage::Common(drive) => drive.deadline(),
            Stage::Shmipc(conversation) => conversation.deadline(),
        }
    }

    /// Does not count so much time, in which nobody has looked after it.
    pub(crate) fn forgive(&mut self, time: Duration) {
        match &mut self.stage {
            Stage::Common(drive) => drive.line.clock.forgive(time),
            Stage::Shmipc(conversation) => conversation.line.clock.forgive(time),
        }
    }

    /// Takes note that the deadline has passed.
    pub(crate) fn elapsed(&mut self) {
        match &mut self.stage {
            Stage::Common(drive) => drive.elapsed(),
            Stage::Shmipc(conversation) => conversation.elapsed(),
        }
    }
}

/// Goes on with shmipc's own part.
fn switch(
    line: Line,
    shmipc: Shmipc,
    config: &Config,
    is_client: bool,
) -> Result<Conversation, HandshakeError> {
    match shmipc {
        Shmipc::Negotiated(terms) if is_client => {
            Conversation::client(line, config, 4, Some(terms))
        }
        shmipc => Ok(Conversation::server(line, config, shmipc)),
    }
}

#[cfg(test)]
impl<T> Outcome<T> {
    /// What there is if nothing but our own link was agreed on.
    pub(crate) fn unwrap_outbox(self) -> Established<T> {
        match self {
            Self::Outbox(established) => established,
            Self::Shmipc(_) => panic!("it went on with shmipc's protocol"),
        }
    }
}
