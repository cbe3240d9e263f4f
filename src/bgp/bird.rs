//! The BIRD process: checks and writes its configuration, starts it, takes over one that is left, ends it.
//!
//! BIRD outlives this process where it can: a plain daemon that is killed leaves it behind, and the next finds it by its
//! control socket. In a managed plugin it dies with the plugin. In both cases its routes stay in the kernel and its peers
//! keep theirs for as long as graceful restart lets them (RFC 4724).

use super::control::{Control, ControlError};
use super::reach::Reach;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep, timeout};

/// Longest check of a configuration.
const CHECK: Duration = Duration::from_secs(20);
/// Longest wait for the control socket of a new BIRD.
const START: Duration = Duration::from_secs(10);
/// Longest wait for BIRD's end after it was asked.
const END: Duration = Duration::from_secs(4);
/// Pause between two looks at something that is about to happen.
const LOOK: Duration = Duration::from_millis(20);

/// Where BIRD's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The program.
    pub program: PathBuf,
    /// Folder of the configuration file; it survives a reboot.
    pub folder: PathBuf,
    /// Folder of the control socket; it does not.
    pub run: PathBuf,
}

impl Places {
    /// The configuration that BIRD runs with.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("bird.conf")
    }

    /// The control socket; `birdc -s` takes it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("bird.ctl")
    }

    pub(super) fn has_run(&self) -> bool {
        self.configuration().exists() || self.mark().exists()
    }

    /// Exists if BIRD has run since the host was started.
    fn mark(&self) -> PathBuf {
        self.run.join("bird.started")
    }

    /// Where routes of this BIRD may lead.
    pub(super) fn reach(&self) -> PathBuf {
        self.run.join("bird.reach")
    }
}

/// Why BIRD does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum BirdError {
    /// Its file or folder.
    #[error("{what}: {source}")]
    File {
        /// What was attempted.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The program does not run at all.
    #[error(
        "run {program}: {source}; is it installed (Debian's package bird2), or was the plugin built with WITH_BIRD=0?"
    )]
    Program {
        /// Its path.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// A bug in what this plugin writes.
    #[error("BIRD refuses the configuration made for it: {0}")]
    Configuration(String),
    /// It ended before it was ready.
    #[error("BIRD ended at its start: {0}")]
    Start(String),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn file(what: &str, path: &Path) -> impl FnOnce(io::Error) -> BirdError {
    let what = format!("{what} {}", path.display());
    move |source| BirdError::File { what, source }
}

/// Puts a configuration where BIRD reads it, if BIRD takes it; what was there before stays otherwise.
pub(super) async fn write(places: &Places, text: &str) -> Result<(), BirdError> {
    tokio::fs::create_dir_all(&places.folder).await.map_err(file("make folder", &places.folder))?;
    let new = places.folder.join("bird.conf.new");
    tokio::fs::write(&new, text).await.map_err(file("write", &new))?;
    let mut command = Command::new(&places.program);
    command.arg("-p").arg("-c").arg(&new).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(CHECK, command.output()).await {
        Ok(output) => output.map_err(|source| program_error(places, source))?,
        Err(_) => return Err(BirdError::Configuration(format!("it has not been read after {CHECK:?}"))),
    };
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(BirdError::Configuration(String::from_utf8_lossy(&said).trim().replace('\n', "; ")));
    }
    let path = places.configuration();
    tokio::fs::rename(&new, &path).await.map_err(file("rename to", &path))
}

fn program_error(places: &Places, source: io::Error) -> BirdError {
    BirdError::Program { program: places.program.display().to_string(), source }
}

/// A BIRD that runs.
#[derive(Debug)]
pub(super) struct Bird {
    /// Asks it.
    pub(super) control: Control,
    /// Absent if another process started it.
    child: Option<Child>,
}

impl Bird {
    /// Takes over the BIRD that a former process of this plugin left behind.
    pub(super) async fn adopt(places: &Places) -> Result<Self, ControlError> {
        Control::connect(&places.socket()).await.map(|control| Self { control, child: None })
    }

    /// Starts it with the configuration that was written.
    pub(super) async fn start(places: &Places) -> Result<Self, BirdError> {
        tokio::fs::create_dir_all(&places.run).await.map_err(file("make folder", &places.run))?;
        let mark = places.mark();
        let mut command = Command::new(&places.program);
        command.arg("-f").arg("-c").arg(places.configuration()).arg("-s").arg(places.socket());
        // Only a BIRD that ran before has routes to recover, in the kernel and at its peers.
        if mark.exists() {
            command.arg("-R");
        }
        // A process group of its own: what ends this process must not end BIRD.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .env_clear();
        let mut child = command.spawn().map_err(|source| program_error(places, source))?;
        let said = child.stderr.take().map(|stderr| tokio::spawn(relay(stderr)));
        let deadline = Instant::now() + START;
        loop {
            match Control::connect(&places.socket()).await {
                Ok(control) => {
                    tokio::fs::write(&mark, "").await.map_err(file("write", &mark))?;
                    return Ok(Self { control, child: Some(child) });
                }
                Err(error) => {
                    if let Ok(Some(status)) = child.try_wait() {
                        let last = match said {
                            Some(said) => said.await.unwrap_or_default(),
                            None => String::new(),
                        };
                        return Err(BirdError::Start(format!("{status} {last}").trim().to_owned()));
                    }
                    if Instant::now() > deadline {
                        let _ = child.start_kill();
                        return Err(error.into());
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Whether this process started it.
    pub(super) fn is_adopted(&self) -> bool {
        self.child.is_none()
    }

    /// Lets it read its file again.
    pub(super) async fn configure(&mut self) -> Result<(), ControlError> {
        self.control.ask("configure").await.map(drop)
    }

    /// Waits for its end; for ever if it was taken over, because then only the control socket tells.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it so that its routes stay in the kernel, and its own at its peers.
    pub(super) async fn leave(self) {
        self.end("graceful restart").await;
    }

    /// Ends it for good: peers hear of it, and forget its routes.
    pub(super) async fn down(self) {
        self.end("down").await;
    }

    async fn end(mut self, command: &str) {
        if let Err(error) = self.control.ask(command).await {
            log::warn!("{error}");
        }
        let gone = async {
            match &mut self.child {
                Some(child) => drop(child.wait().await),
                // The connection closes with the process.
                None => {
                    while self.control.ask("show status").await.is_ok() {
                        sleep(LOOK).await;
                    }
                }
            }
        };
        if timeout(END, gone).await.is_err() {
            log::warn!("BIRD did not end within {END:?} after {command:?}");
            if let Some(mut child) = self.child {
                let _ = child.kill().await;
            }
        }
    }
}

/// What was noted last of where the routes of a BIRD in these places may lead; nowhere if nothing was.
pub(super) async fn noted(places: &Places) -> Result<Reach, BirdError> {
    let path = places.reach();
    match tokio::fs::read_to_string(&path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Reach::default()),
        read => Ok(Reach::read(&read.map_err(file("read", &path))?)),
    }
}

/// Notes where the routes of a BIRD in these places may lead, for when they are to go.
pub(super) async fn note(places: &Places, reach: &Reach) -> Result<(), BirdError> {
    let (path, new) = (places.reach(), places.run.join("bird.reach.new"));
    tokio::fs::create_dir_all(&places.run).await.map_err(file("make folder", &places.run))?;
    tokio::fs::write(&new, reach.text()).await.map_err(file("write", &new))?;
    tokio::fs::rename(&new, &path).await.map_err(file("rename to", &path))
}

/// Forgets where the routes of a BIRD in these places may lead: they are gone, or another's.
pub(super) async fn disown(places: &Places) -> Result<(), BirdError> {
    remove(&places.reach()).await
}

/// Removes the folder, and what is in `/run`.
pub(super) async fn forget(places: &Places) -> Result<(), BirdError> {
    for path in [places.mark(), places.reach(), places.socket()] {
        remove(&path).await?;
    }
    gone(tokio::fs::remove_dir_all(&places.folder).await).map_err(file("remove", &places.folder))
}

async fn remove(path: &Path) -> Result<(), BirdError> {
    gone(tokio::fs::remove_file(path).await).map_err(file("remove", path))
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Hands on what BIRD says; gives back its last words.
async fn relay(stderr: ChildStderr) -> String {
    // What a peer said is among it, in whatever encoding.
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut last = String::new();
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let (class, text) = class_of(&line);
        match class {
            "WARN" | "REMOTE" | "AUTH" => log::warn!("BIRD: {text}"),
            "ERR" | "BUG" => log::error!("BIRD: {text}"),
            "FATAL" if text != "Shutdown completed" => log::error!("BIRD: {text}"),
            _ => log::debug!("BIRD: {text}"),
        }
        text.clone_into(&mut last);
    }
    last
}

/// `2026-11-26 22:06:08.181 <INFO> Started`: the class and the text.
fn class_of(line: &str) -> (&str, &str) {
    let marked = line.split_once('<').and_then(|(_, rest)| rest.split_once("> "));
    marked.filter(|(class, _)| class.bytes().all(|byte| byte.is_ascii_uppercase())).unwrap_or(("ERR", line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_from_birds_lines() {
        assert_eq!(class_of("2026-11-26 22:06:08.181 <INFO> Started"), ("INFO", "Started"));
        assert_eq!(class_of("bird: Unable to open <x> file"), ("ERR", "bird: Unable to open <x> file"));
    }
}
