//! BIRD's control socket.

use super::reach::routers;
use super::reply::Reply;
use super::status::{SessionStatus, sessions};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
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

type Stream = BufReader<UnixStream>;

/// A connection. One on which an answer did not come whole is given up, and made anew for the next question: what comes late
/// would be taken for the answer to that.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    stream: Option<Stream>,
}

impl Control {
    /// Connects, and waits for BIRD's greeting.
    pub(super) async fn connect(path: &Path) -> Result<Self, ControlError> {
        let stream = greeted(path).await?;
        Ok(Self { path: path.to_owned(), stream: Some(stream) })
    }

    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Reply, ControlError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => greeted(&self.path).await?,
        };
        let line = format!("{command}\n");
        stream.get_mut().write_all(line.as_bytes()).await.map_err(broken)?;
        let reply = answer(&mut stream, command).await?;
        self.stream = Some(stream);
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
}

async fn greeted(path: &Path) -> Result<Stream, ControlError> {
    let mut stream = BufReader::new(UnixStream::connect(path).await.map_err(ControlError::Absent)?);
    answer(&mut stream, "connect").await?;
    Ok(stream)
}

async fn answer(stream: &mut Stream, command: &str) -> Result<Reply, ControlError> {
    match tokio::time::timeout(PATIENCE, read(stream)).await {
        Ok(reply) => reply,
        Err(_) => Err(ControlError::Silent(command.to_owned())),
    }
}

async fn read(stream: &mut Stream) -> Result<Reply, ControlError> {
    let mut reply = Reply::default();
    let mut bounded = stream.take(MOST_BYTES);
    let mut line = Vec::new();
    while !reply.is_complete() {
        line.clear();
        bounded.read_until(b'\n', &mut line).await.map_err(broken)?;
        if line.last() != Some(&b'\n') {
            return Err(ControlError::Broken(match bounded.limit() {
                0 => format!("an answer has more than {MOST_BYTES} bytes"),
                _ => "it was closed".to_owned(),
            }));
        }
        // What a peer said stands in answers as it said it.
        let line = String::from_utf8_lossy(&line);
        reply.push(line.trim_end_matches('\n')).map_err(ControlError::Broken)?;
    }
    Ok(reply)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
fn broken(error: std::io::Error) -> ControlError {
    ControlError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const GREETING: &[u8] = b"0001 BIRD 2.0.12 ready.\n";

    /// A BIRD that answers each connection's only question with the next text, and closes it after the time.
    fn answers(texts: Vec<(&'static [u8], Duration)>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bird.ctl");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            for (text, after) in texts {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                tokio::spawn(async move {
                    stream.get_mut().write_all(GREETING).await.unwrap();
                    stream.read_line(&mut String::new()).await.unwrap();
                    tokio::time::sleep(after).await;
                    let _ = stream.get_mut().write_all(text).await;
                });
            }
        });
        (folder, path)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_is_not_taken_for_the_next_one() {
        let (late, soon) = (PATIENCE * 2, Duration::ZERO);
        let (_folder, path) = answers(vec![(b"0003 Reconfigured\n", late), (b"1002-x BGP\n0000 \n", soon)]);
        let mut control = Control::connect(&path).await.unwrap();
        let error = control.ask("configure").await.unwrap_err();
        assert_eq!(error.to_string(), "BIRD does not answer \"configure\" within 10s");
        assert_eq!(control.ask("show protocols").await.unwrap().lines[0], (1002, "x BGP".to_owned()));
    }

    #[tokio::test]
    async fn what_a_peer_said_is_read_in_whatever_encoding() {
        let (_folder, path) = answers(vec![(b"1006-  Message:   down \xff\xfe\n0000 \n", Duration::ZERO)]);
        let reply = Control::connect(&path).await.unwrap().ask("show protocols all").await.unwrap();
        assert!(reply.lines[0].1.contains("down"), "{reply:?}");
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_made_anew() {
        let (_folder, path) = answers(vec![(b"1002-x", Duration::ZERO), (b"0000 \n", Duration::ZERO)]);
        let mut control = Control::connect(&path).await.unwrap();
        let error = control.ask("show protocols").await.unwrap_err();
        assert_eq!(error.to_string(), "BIRD's control socket: it was closed");
        control.ask("show protocols").await.unwrap();
    }
}
