//! The thread that owns the state file. It takes all transactions that wait, writes them in one redb transaction
//! with one fsync, shows the result to readers, and answers: twenty commits at once cost about as much as one.

use super::digest;
use super::failure::Failure;
use super::file::{Content, StateFile};
use crate::store::draft::{Changes, Draft};
use crate::store::mirror::Publisher;
use crate::store::state::State;
use crate::store::{Revision, StoreError, Txn};
use tokio::sync::{mpsc, oneshot};

/// How many transactions one write takes at most, which bounds how long its callers wait.
const GROUP: usize = 256;

/// A transaction and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

/// Owns the file and the writing side of the memory.
#[derive(Debug)]
pub(super) struct Writer {
    file: StateFile,
    publisher: Publisher,
    /// The digest of the publisher's state.
    digest: u64,
    /// What was being written when the file failed: it may or may not be in there.
    doubtful: Option<Written>,
}

/// Changes as they are written.
#[derive(Debug)]
struct Written {
    changes: Changes,
    digest: u64,
}

impl Writer {
    pub(super) fn new(file: StateFile, publisher: Publisher, digest: u64) -> Self {
        Self { file, publisher, digest, doubtful: None }
    }

    /// Serves until all senders are gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(request) = queue.try_recv()
            {
                group.push(request);
            }
            self.serve(group);
        }
    }

    fn serve(&mut self, group: Vec<Request>) {
        if let Err(failure) = self.recover() {
            let error = failure.of(self.file.path());
            return refuse(group.into_iter().map(|request| request.answer), &error);
        }
        let (answers, written) = self.draft(group);
        if written.changes.events.is_empty() {
            return answer(answers);
        }
        match self.file.write(&written.changes, written.digest) {
            Ok(()) => {
                self.digest = written.digest;
                self.publisher.publish(written.changes);
                answer(answers);
            }
            Err(failure) => {
                let error = failure.of(self.file.path());
                self.doubtful = Some(written);
                // A refused guard too: what it was held against may not have happened.
                refuse(answers.into_iter().map(|(answer, _)| answer), &error);
                if let Err(failure) = self.recover() {
                    log::warn!("will be tried again with the next change: {}", failure.of(self.file.path()));
                }
            }
        }
    }

    /// Checks each transaction against the state that the ones before it leave.
    fn draft(&self, group: Vec<Request>) -> (Vec<Answer>, Written) {
        let state = self.publisher.state();
        let mut draft = Draft::new(&state);
        let answers = group.into_iter().map(|request| (request.answer, draft.add(request.txn))).collect();
        let changes = draft.finish();
        let digest = digest::after(self.digest, &state, &changes.keys);
        (answers, Written { changes, digest })
    }

    /// Opens the file again if it was closed after an error, and makes memory and file one again.
    fn recover(&mut self) -> Result<(), Failure> {
        if self.file.is_open() {
            return Ok(());
        }
        let content = self.file.reopen()?;
        self.reconcile(content)?;
        self.doubtful = None;
        log::info!("state file {} is usable again", self.file.path().display());
        Ok(())
    }

    fn reconcile(&mut self, content: Content) -> Result<(), Failure> {
        let revision = self.publisher.state().revision();
        let path = self.file.path().display();
        if (content.revision, content.digest) == (revision, self.digest) {
            return Ok(());
        }
        match self.doubtful.take() {
            Some(Written { changes, digest })
                if (changes.revision, digest) == (content.revision, content.digest) =>
            {
                log::warn!(
                    "changes up to revision {} were written to {path} in spite of the error",
                    changes.revision
                );
                self.publisher.publish(changes);
                self.digest = digest;
            }
            _ if content.revision > revision => {
                log::warn!(
                    "state file {path} was changed by someone else: it is at revision {}",
                    content.revision
                );
                self.digest = content.digest;
                self.publisher.replace(State::new(content.keys, content.revision));
            }
            _ => {
                log::warn!("state file {path} went back to revision {}: written anew", content.revision);
                let state = self.publisher.state();
                self.file.restore(state.keys(), revision, self.digest)?;
            }
        }
        Ok(())
    }
}

/// Who waits, and for what.
type Answer = (oneshot::Sender<Result<Revision, StoreError>>, Result<Revision, StoreError>);

fn answer(answers: Vec<Answer>) {
    for (waiting, result) in answers {
        // Whoever has stopped waiting does not need the answer.
        let _ = waiting.send(result);
    }
}

fn refuse(waiting: impl Iterator<Item = oneshot::Sender<Result<Revision, StoreError>>>, error: &StoreError) {
    for waiting in waiting {
        let _ = waiting.send(Err(StoreError::Unavailable { why: inner(error) }));
    }
}

/// The sentence without the prefix that [`StoreError::Unavailable`] puts before it.
fn inner(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable { why } => why.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mirror::{Mirror, mirror};
    use std::path::Path;

    fn writer(path: &Path) -> (Writer, Mirror) {
        let (file, content) = StateFile::open(path).unwrap();
        let digest = content.digest;
        let (publisher, mirror) = mirror(State::new(content.keys, content.revision));
        (Writer::new(file, publisher, digest), mirror)
    }

    fn request(txn: Txn) -> (Request, oneshot::Receiver<Result<Revision, StoreError>>) {
        let (answer, answered) = oneshot::channel();
        (Request { txn, answer }, answered)
    }

    fn commit(writer: &mut Writer, txn: Txn) -> Result<Revision, StoreError> {
        let (request, mut answered) = request(txn);
        writer.serve(vec![request]);
        answered.try_recv().unwrap()
    }

    /// Changes that are drafted but not written.
    fn drafted(writer: &Writer, key: &str) -> Written {
        writer.draft(vec![request(Txn::new().put(key.to_owned(), "doubtful")).0]).1
    }

    #[test]
    fn a_group_is_answered_one_by_one_and_a_refused_guard_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, mirror) = writer(&folder.path().join("state.redb"));
        let txns = (0..20).map(|n| Txn::new().create("/same", "x").put(format!("/{n:02}"), "x"));
        let (requests, answers): (Vec<_>, Vec<_>) = txns.map(request).unzip();
        writer.serve(requests);
        let answers: Vec<_> = answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
        assert_eq!(*answers[0].as_ref().unwrap(), Revision(1));
        assert!(answers[1..].iter().all(|answer| answer.as_ref().unwrap_err().is_conflict()));
        let keys: Vec<_> = mirror.list("").entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["/00", "/same"]);
    }

    #[test]
    fn a_doubtful_write_that_is_in_the_file_appears_after_recovery() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, mirror) = writer(&folder.path().join("state.redb"));
        commit(&mut writer, Txn::new().put("/a", "1")).unwrap();
        let written = drafted(&writer, "/doubtful");
        writer.file.write(&written.changes, written.digest).unwrap();
        writer.doubtful = Some(written);
        writer.file.fail();
        assert_eq!(mirror.get("/doubtful"), None);
        writer.recover().unwrap();
        assert_eq!(mirror.get("/doubtful").unwrap().revision, Revision(2));
        assert_eq!(commit(&mut writer, Txn::new().put("/b", "2")).unwrap(), Revision(3));
    }

    #[test]
    fn a_doubtful_write_that_is_not_in_the_file_never_appears() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut writer, mirror) = writer(&path);
        commit(&mut writer, Txn::new().put("/a", "1")).unwrap();
        writer.doubtful = Some(drafted(&writer, "/doubtful"));
        writer.file.fail();
        assert_eq!(commit(&mut writer, Txn::new().put("/b", "2")).unwrap(), Revision(2));
        assert_eq!(mirror.get("/doubtful"), None);
        drop(writer);
        assert_eq!(StateFile::open(&path).unwrap().1.keys.len(), 2);
    }

    #[test]
    fn a_file_that_went_back_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut writer, mirror) = writer(&path);
        commit(&mut writer, Txn::new().put("/a", "1")).unwrap();
        writer.file.fail();
        let older = std::fs::read(&path).unwrap();
        writer.recover().unwrap();
        commit(&mut writer, Txn::new().put("/a", "2").put("/b", "2")).unwrap();
        writer.file.fail();
        std::fs::write(&path, older).unwrap();
        assert_eq!(commit(&mut writer, Txn::new().put("/c", "3")).unwrap(), Revision(3));
        let before = mirror.list("");
        drop(writer);
        let content = StateFile::open(&path).unwrap().1;
        assert_eq!(State::new(content.keys, content.revision).list(""), before);
        assert_eq!(before.entries.len(), 3);
    }

    #[test]
    fn a_file_that_someone_else_changed_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut writer, mirror) = writer(&path);
        commit(&mut writer, Txn::new().put("/a", "1")).unwrap();
        writer.file.fail();
        {
            let (mut other, _) = self::writer(&path);
            commit(&mut other, Txn::new().put("/other", "1")).unwrap();
            commit(&mut other, Txn::new().put("/other", "2")).unwrap();
        }
        let refused = commit(&mut writer, Txn::new().update("/a", Revision(9), "2"));
        assert!(refused.unwrap_err().is_conflict());
        assert_eq!(mirror.get("/other").unwrap().revision, Revision(3));
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (mut writer, mirror) = writer(&path);
        commit(&mut writer, Txn::new().put("/a", "1")).unwrap();
        writer.file.fail();
        let aside = folder.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let error = commit(&mut writer, Txn::new().put("/b", "2")).unwrap_err();
        assert!(error.to_string().contains("is gone"), "{error}");
        assert!(!path.exists());
        assert!(mirror.get("/a").is_some(), "reads go on");
        std::fs::rename(&aside, &path).unwrap();
        commit(&mut writer, Txn::new().put("/b", "2")).unwrap();
    }
}
