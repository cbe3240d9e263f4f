//! What happens to containers, as the engine's event stream tells it: one JSON object a line, for as long as the
//! connection lasts. Only whose turn it is matters here; how the container is now is asked for afterwards, because an
//! event tells of a moment that is over.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `filters={"type":["container","network"],"event":["start","rename","connect"]}`. A start and a rename are the
/// container's, a `connect` is a network's and names the container; it comes before the `start`.
pub(super) const PATH: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C%22event%22%3A%5B%22start%22%2C%22rename%22%2C%22connect%22%5D%7D";
/// An event holds the labels of its container; no engine takes a megabyte of them.
const LONGEST_LINE: usize = 4 << 20;

/// A running stream of events.
#[derive(Debug)]
pub struct ContainerEvents {
    body: Incoming,
    read: BytesMut,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Event {
    r#type: String,
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

impl ContainerEvents {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// ID of the next container that something happened to; an error when the stream ended, after which events may have
    /// been missed. Cancel-safe.
    pub async fn next(&mut self) -> Result<String, String> {
        loop {
            while let Some(line) = take_line(&mut self.read) {
                if let Some(id) = container_of(&line) {
                    return Ok(id);
                }
            }
            if self.read.len() > LONGEST_LINE {
                return Err(format!("an event is longer than {LONGEST_LINE} bytes"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the engine ended it".to_owned()),
            }
        }
    }
}

fn take_line(read: &mut BytesMut) -> Option<Bytes> {
    let end = read.iter().position(|byte| *byte == b'\n')?;
    let line = read.split_to(end).freeze();
    read.advance(1);
    Some(line)
}

/// The container that an event is about.
fn container_of(line: &[u8]) -> Option<String> {
    let event = match serde_json::from_slice::<Event>(line) {
        Ok(event) => event,
        Err(error) => {
            log::debug!("an event of Docker's cannot be read: {error}");
            return None;
        }
    };
    let id = match event.r#type.as_str() {
        "container" => Some(event.actor.id),
        "network" => event.actor.attributes.get("container").cloned(),
        _ => None,
    };
    id.filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_name_their_container() {
        let of = |text: &str| container_of(text.as_bytes());
        let start = r#"{"status":"start","id":"c1","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"name":"x"}}}"#;
        let connect = r#"{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":"c2","name":"web"}}}"#;
        assert_eq!(of(start).as_deref(), Some("c1"));
        assert_eq!(of(connect).as_deref(), Some("c2"));
        for other in
            [r#"{"Type":"network","Actor":{"ID":"n1"}}"#, r#"{"Type":"volume","Actor":{"ID":"v"}}"#, "{", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(of(r#"{"Type":"container","Actor":{"ID":"../x"}}"#), None, "an ID becomes part of a path");
    }

    #[test]
    fn lines_are_taken_whole() {
        let mut read = BytesMut::from(&b"one\ntw"[..]);
        assert_eq!(take_line(&mut read).unwrap(), "one");
        assert_eq!(take_line(&mut read), None);
        read.extend_from_slice(b"o\n");
        assert_eq!(take_line(&mut read).unwrap(), "two");
        assert!(read.is_empty());
    }
}
