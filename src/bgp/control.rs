//! BIRD's control socket.

use super::reach::routers;
use super::reply::Reply;
use super::status::{SessionStatus, sessions};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest wait for an answer: BIRD has one thread, and a reconfiguration of hundreds of sessions takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer: thousands of sessions.
const MOST_BYTES: u64 = 8 << 20;

/// Why BIRD was not asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no BIRD answers at its control socket: {0}")]
    Absent(std::io::Error),
    /// The connection broke.
    #[error("BIRD's control socket: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("BIRD does not answer {0:?} within {PATIENCE:?}")]
    Silent(String),
    /// BIRD says no.
    #[error("BIRD refuses {command:?}: {why}")]
    Refused {
        /// What was asked.
        command: String,
        /// What BIRD said.
        why: String,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects, and waits for BIRD's greeting.
    pub(super) async fn connect(path: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(path).await.map_err(ControlError::Absent)?;
        let mut control = Self { stream: BufReader::new(stream) };
        control.answer("connect").await?;
        Ok(control)
    }

    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Reply, ControlError> {
        let line = format!("{command}\n");
        self.stream.get_mut().write_all(line.as_bytes()).await.map_err(broken)?;
        let reply = self.answer(command).await?;
        match reply.refusal() {
            None => Ok(reply),
            Some(why) => Err(ControlError::Refused { command: command.to_owned(), why: why.to_owned() }),
        }
    }

    /// How all sessions stand.
    pub(super) async fn sessions(&mut self) -> Result<Vec<SessionStatus>, ControlError> {
        Ok(sessions(&self.ask("show protocols all").await?))
    }

    /// By which routers the routes go that BIRD has in the kernel.
    pub(super) async fn routers(&mut self) -> Result<BTreeSet<IpAddr>, ControlError> {
        let v4 = routers(&self.ask("show route export kernel4").await?);
        Ok(&v4 | &routers(&self.ask("show route export kernel6").await?))
    }

    async fn answer(&mut self, command: &str) -> Result<Reply, ControlError> {
        match tokio::time::timeout(PATIENCE, self.read()).await {
            Ok(reply) => reply,
            Err(_) => Err(ControlError::Silent(command.to_owned())),
        }
    }

    async fn read(&mut self) -> Result<Reply, ControlError> {
        let mut reply = Reply::default();
        let mut bounded = (&mut self.stream).take(MOST_BYTES);
        let mut line = String::new();
        while !reply.is_complete() {
            line.clear();
            if bounded.read_line(&mut line).await.map_err(broken)? == 0 {
                return Err(ControlError::Broken("it was closed".to_owned()));
            }
            reply.push(line.trim_end_matches('\n')).map_err(ControlError::Broken)?;
        }
        Ok(reply)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
fn broken(error: std::io::Error) -> ControlError {
    ControlError::Broken(error.to_string())
}
