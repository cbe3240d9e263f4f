//! A listening Unix socket and its file.

use super::ServerError;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a process that has the socket may take to accept a connection into its backlog before it counts as alive
/// but stuck.
const PROBE: Duration = Duration::from_secs(1);

/// How often a socket file that somebody replaces under our hands is looked at again.
const ATTEMPTS: usize = 3;

/// Tells one file from another that was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

/// The file of a socket; removed on drop if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if FileId::of(&self.path).is_ok_and(|found| found == self.id)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            let path = self.path.display();
            log::warn!(target: super::TARGET, err:% = error; "remove socket {path}");
        }
    }
}

/// A bound socket. The file goes before the listener does, so that nobody is refused by a socket that is still there.
#[derive(Debug)]
pub(crate) struct Socket {
    file: SocketFile,
    listener: UnixListener,
}

/// A socket that the runtime watches.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Owns the path.
    pub(crate) file: SocketFile,
    /// Accepts.
    pub(crate) listener: tokio::net::UnixListener,
}

impl Socket {
    pub(crate) fn bind(path: &Path) -> Result<Self, ServerError> {
        make_folder(path)?;
        let failed = |source| ServerError::Bind { path: path.to_owned(), source };
        for _ in 0..ATTEMPTS {
            match UnixListener::bind(path) {
                Ok(listener) => {
                    let file = SocketFile { path: path.to_owned(), id: FileId::of(path).map_err(failed)? };
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
                    listener.set_nonblocking(true).map_err(failed)?;
                    return Ok(Self { file, listener });
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => remove_stale(path)?,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(ServerError::Busy(path.to_owned()))
    }

    pub(crate) fn listen(self) -> Result<Listener, ServerError> {
        let Self { file, listener } = self;
        match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => Ok(Listener { file, listener }),
            Err(source) => Err(ServerError::Bind { path: file.path.clone(), source }),
        }
    }
}

/// As dockerd makes `/run/docker/plugins`: for root only.
fn make_folder(path: &Path) -> Result<(), ServerError> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| ServerError::Folder { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Removes what is in the socket's place if it is a socket on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Bind { path: path.to_owned(), source };
    let gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.to_owned()));
    }
    match probe(path) {
        Some(Err(error)) if gone(&error) => return Ok(()),
        Some(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
        Some(Err(error)) => return Err(failed(error)),
        Some(Ok(_)) | None => return Err(ServerError::Busy(path.to_owned())),
    }
    // A process that started together with us may have replaced the stale file in the meantime.
    let stale = FileId { device: found.dev(), inode: found.ino() };
    if FileId::of(path).is_ok_and(|now| now == stale) {
        match std::fs::remove_file(path) {
            Err(error) if !gone(&error) => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Connects; nothing after [`PROBE`]. A Unix socket whose backlog is full makes connect(2) wait without end
/// (unix(7)), hence the thread; it ends with the connect, or with the process that gives up its start.
fn probe(path: &Path) -> Option<std::io::Result<UnixStream>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = path.to_owned();
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    receiver.recv_timeout(PROBE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_mode_0600_and_its_missing_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/calico.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calico.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, ServerError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_put_in_the_place_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calico.sock");
        let ours = Socket::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Socket::bind(&dir.path().join("x".repeat(120))).unwrap_err();
        assert!(matches!(error, ServerError::Bind { .. }), "{error}");
    }
}
