//! `get`, `create`, `apply`, `replace`, `delete`: Calico's resources, in calicoctl's words.

use super::session::{Failure, Session, complain};
use super::{print, table};
use crate::model::ORCHESTRATOR;
use crate::resource::{self, Document, KindInfo, Stored, Verb, Writer, kind_of_word};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::io::Read as _;
use std::time::SystemTime;

/// Bytes of a file with resources.
const MAX_FILE: u64 = 64 << 20;

/// The form of what `get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// YAML, which apply takes
    Yaml,
    /// JSON, which apply takes
    Json,
    /// A table with more columns
    Wide,
    /// Kind and name only
    Name,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// Kind of resource: IPPool, GlobalNetworkPolicy, ... or a short name: ipp, gnp, np, wep, ...
    kind: String,
    /// Names; without any, all are printed
    names: Vec<String>,
    /// Form of the answer; a table if it is left out
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Namespace; lists are of all namespaces without it, single resources of `libnetwork`
    #[arg(short, long)]
    namespace: Option<String>,
    /// All namespaces, which a list is of anyway
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    all_namespaces: bool,
}

/// Where resources to be written come from.
#[derive(Debug, Args)]
pub(super) struct Write {
    /// File with YAML or JSON; - for standard input
    #[arg(short, long)]
    filename: String,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Kind of resource
    #[arg(required_unless_present = "filename", requires = "names")]
    kind: Option<String>,
    /// Names
    names: Vec<String>,
    /// Delete what a file with YAML or JSON names; - for standard input
    #[arg(short, long, conflicts_with = "kind")]
    filename: Option<String>,
    /// Namespace, if it is not `libnetwork`
    #[arg(short, long)]
    namespace: Option<String>,
    /// What does not exist is no error
    #[arg(long)]
    skip_not_exists: bool,
}

/// Arguments of `label`, as calicoctl has them.
#[derive(Debug, Args)]
pub(super) struct Label {
    /// Kind of resource
    kind: String,
    /// Name
    name: String,
    /// KEY=VALUE; with --remove only KEY
    label: String,
    /// Another value gives way
    #[arg(long)]
    overwrite: bool,
    /// Take the label away
    #[arg(long, conflicts_with = "overwrite")]
    remove: bool,
    /// Namespace, if it is not `libnetwork`
    #[arg(short, long)]
    namespace: Option<String>,
}

fn kind(word: &str) -> Result<&'static KindInfo, Failure> {
    kind_of_word(word).map_err(Failure::Usage)
}

/// The namespace of a resource that is named: containers' endpoints stand in `libnetwork`.
fn namespace_of<'a>(kind: &KindInfo, given: Option<&'a str>) -> Result<Option<&'a str>, Failure> {
    match (kind.namespaced, given) {
        (true, given) => Ok(Some(given.unwrap_or(ORCHESTRATOR))),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Failure::Usage(format!("{} has no namespaces; leave -n out", kind.word))),
    }
}

pub(super) async fn get(session: Session, arguments: Get) -> Result<(), Failure> {
    let kind = kind(&arguments.kind)?;
    let namespace = namespace_of(kind, arguments.namespace.as_deref())?;
    if arguments.all_namespaces && !kind.namespaced {
        return Err(Failure::Usage(format!("{} has no namespaces; leave -A out", kind.word)));
    }
    let mut missing = Vec::new();
    let found = if arguments.names.is_empty() {
        let (found, unreadable) = resource::list(&*session.store, kind, arguments.namespace.as_deref())
            .await
            .map_err(|error| Failure::of(&error))?;
        unreadable.iter().for_each(|sentence| complain(sentence));
        found
    } else {
        let mut found = Vec::new();
        for name in &arguments.names {
            match resource::find(&*session.store, kind, namespace, name).await {
                Ok(Some(stored)) => found.push(stored),
                Ok(None) => missing.push(format!("there is no {} {name}", kind.word)),
                Err(error) => missing.push(error.to_string()),
            }
        }
        found
    };
    let single = arguments.names.len() == 1;
    if !found.is_empty() || arguments.names.is_empty() {
        print(shown(kind, &found, arguments.output, single)?.trim_end());
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::Failed(missing.join("\n"))) }
}

fn shown(kind: &KindInfo, found: &[Stored], output: Option<Output>, single: bool) -> Result<String, Failure> {
    match output {
        None => Ok(table::table(kind, found, false)),
        Some(Output::Wide) => Ok(table::table(kind, found, true)),
        Some(Output::Name) => {
            let names: Vec<String> = found.iter().map(|it| format!("{}/{}", kind.word, it.name)).collect();
            Ok(names.join("\n"))
        }
        Some(Output::Json) => {
            serde_json::to_string_pretty(&documents(kind, found, single)).map_err(|error| Failure::of(&error))
        }
        Some(Output::Yaml) => Ok(resource::yaml(&documents(kind, found, single))),
    }
}

fn documents(kind: &KindInfo, found: &[Stored], single: bool) -> Value {
    match found {
        [one] if single => one.shown(),
        _ => {
            let items: Vec<Value> = found.iter().map(Stored::shown).collect();
            json!({
                "kind": format!("{}List", kind.word),
                "apiVersion": "projectcalico.org/v3",
                "items": items,
            })
        }
    }
}

fn documents_of(file: &str) -> Result<Vec<Document>, Failure> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut text))
    };
    let place = if file == "-" { "standard input" } else { file };
    let size = read.map_err(|error| Failure::Failed(format!("read {place}: {error}")))?;
    if u64::try_from(size).is_ok_and(|size| size >= MAX_FILE) {
        return Err(Failure::Failed(format!("{place} is larger than {MAX_FILE} bytes")));
    }
    resource::read(&text).map_err(|why| Failure::Failed(format!("{place}: {why}")))
}

/// Nothing is written if any document is wrong by itself; then each is written, and told of, on its own.
pub(super) async fn write(session: Session, verb: Verb, arguments: Write) -> Result<(), Failure> {
    let documents = documents_of(&arguments.filename)?;
    let mut wrong = Vec::new();
    for document in &documents {
        let (title, problems) = (document.title(), resource::check(document));
        if problems.is_empty() {
            resource::doubts(document).iter().for_each(|doubt| complain(&format!("mind: {title} {doubt}")));
        }
        wrong.extend(problems.iter().map(|problem| format!("{title}: {problem}")));
    }
    if !wrong.is_empty() {
        return Err(Failure::Failed(format!("{}\nnothing was written", wrong.join("\n"))));
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let writer = Writer::new(session.store.clone(), now);
    let mut failed = Vec::new();
    for document in documents {
        let title = document.title();
        match writer.write(verb, document).await {
            Ok(done) => print(&format!("{done} {title}")),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Failed(failed.join("\n"))) }
}

pub(super) async fn delete(session: Session, arguments: Delete) -> Result<(), Failure> {
    let mut wanted: Vec<(&'static KindInfo, Option<String>, String)> = Vec::new();
    if let Some(file) = &arguments.filename {
        if arguments.namespace.is_some() {
            return Err(Failure::Usage("-n goes with names; a file tells its namespaces itself".to_owned()));
        }
        wanted.extend(documents_of(file)?.into_iter().map(|it| (it.kind, it.namespace, it.name)));
    } else if let Some(word) = &arguments.kind {
        let kind = kind(word)?;
        let namespace = namespace_of(kind, arguments.namespace.as_deref())?.map(str::to_owned);
        wanted.extend(arguments.names.into_iter().map(|name| (kind, namespace.clone(), name)));
    }
    let writer = Writer::new(session.store.clone(), String::new());
    let mut failed = Vec::new();
    for (kind, namespace, name) in wanted {
        let title = match &namespace {
            Some(namespace) => format!("{} {namespace}/{name}", kind.word),
            None => format!("{} {name}", kind.word),
        };
        match writer.delete(kind, namespace.as_deref(), &name).await {
            Ok(done) => print(&format!("{done} {title}")),
            Err(resource::WriteError::Missing(_)) if arguments.skip_not_exists => {
                print(&format!("there is no {title}"));
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Failed(failed.join("\n"))) }
}

pub(super) async fn label(session: Session, arguments: Label) -> Result<(), Failure> {
    let kind = kind(&arguments.kind)?;
    let namespace = namespace_of(kind, arguments.namespace.as_deref())?;
    let of = resource::Labelled { kind, namespace, name: &arguments.name };
    let (name, change) = match arguments.label.split_once('=') {
        None if arguments.remove => (arguments.label.as_str(), resource::LabelChange::Remove),
        Some((name, value)) if !arguments.remove => {
            (name, resource::LabelChange::Set { value, overwrite: arguments.overwrite })
        }
        _ => return Err(Failure::Usage("KEY=VALUE is expected, or KEY with --remove".to_owned())),
    };
    let done = resource::label(&*session.store, of, name, change).await;
    let done = done.map_err(|error| Failure::of(&error))?;
    print(&format!("{done} {} {}", kind.word, arguments.name));
    Ok(())
}
