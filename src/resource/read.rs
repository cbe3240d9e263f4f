//! Text to documents: JSON or YAML, several documents in one text, lists of resources.

use super::document::Document;
use serde::Deserialize;
use serde_json::Value;

/// Resources of one text; a list may stand for many.
const MOST: usize = 10_000;

/// Reads all resources of a text. YAML's documents are divided by `---`; a `List`, or Calico's `<Kind>List`, stands
/// for its items.
///
/// # Errors
/// A sentence that tells the place: the line, or the number of the document.
pub fn read(text: &str) -> Result<Vec<Document>, String> {
    let mut found = Vec::new();
    for (index, part) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = format!("document {}", index + 1);
        // Through YAML's own value, which refuses a key that stands twice.
        let value = serde_yaml_ng::Value::deserialize(part).map_err(|error| format!("{place}: {error}"))?;
        if value.is_null() {
            continue;
        }
        let value: Value =
            serde_json::to_value(&value).map_err(|error| format!("{place}: {}", no_json(&error)))?;
        collect(value, &place, &mut found)?;
        if found.len() > MOST {
            return Err(format!("there are more than {MOST} resources; divide the file"));
        }
    }
    if found.is_empty() { Err("there is no resource in it".to_owned()) } else { Ok(found) }
}

fn no_json(error: &serde_json::Error) -> String {
    format!("it has no form in JSON: {error}")
}

fn collect(value: Value, place: &str, found: &mut Vec<Document>) -> Result<(), String> {
    match value {
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                collect(item, &format!("{place}, item {}", index + 1), found)?;
            }
            Ok(())
        }
        Value::Object(mut map) if is_list(map.get("kind")) => match map.remove("items") {
            Some(items @ Value::Array(_)) => collect(items, place, found),
            _ => Err(format!("{place}: items: a list of resources is expected")),
        },
        value @ Value::Object(_) => {
            found.push(Document::of(value).map_err(|why| format!("{place}: {why}"))?);
            Ok(())
        }
        _ => Err(format!(
            "{place}: a resource is expected: an object with kind, apiVersion, metadata and spec"
        )),
    }
}

fn is_list(kind: Option<&Value>) -> bool {
    kind.and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str =
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/16}\n";

    fn titles(text: &str) -> Vec<String> {
        read(text).unwrap().iter().map(Document::title).collect()
    }

    #[test]
    fn documents_lists_and_json_are_read() {
        assert_eq!(titles(&format!("---\n{POOL}---\n# nothing\n---\n{POOL}")), ["IPPool a", "IPPool a"]);
        let list = r#"{"kind":"List","apiVersion":"v1","items":[
            {"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},"spec":{}},
            {"kind":"NetworkSet","apiVersion":"projectcalico.org/v3","metadata":{"name":"s","namespace":"x"}}]}"#;
        assert_eq!(titles(list), ["NetworkPolicy libnetwork/p", "NetworkSet x/s"]);
    }

    #[test]
    fn what_is_no_resource_is_refused_with_its_place() {
        for (text, part) in [
            ("", "no resource"),
            ("---\n---\n", "no resource"),
            ("just a text", "document 1: a resource is expected"),
            ("a: [1", "document 1: "),
            ("kind: Pod\napiVersion: v1\n", r#"kind: "Pod" cannot be managed here"#),
            ("kind: 5\n", "kind: a text is expected"),
            ("kind: Tier\nmetadata: {name: a}\n", "Tier: apiVersion: projectcalico.org/v3 is expected"),
            ("kind: Tier\napiVersion: v1\nmetadata: {name: a}\n", r#"apiVersion: "v1" is not known"#),
            ("kind: Tier\napiVersion: projectcalico.org/v3\n", "metadata: an object"),
            ("kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: 7}\n", "metadata.name: a text"),
            ("kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: ''}\n", "metadata.name: a name"),
            (
                "kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: a, namespace: b}\n",
                "metadata.namespace: Tier has none",
            ),
            ("kind: Tier\nkind: Tier\n", "duplicate"),
            ("kind: List\nitems: 7\n", "items: a list"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_text_that_multiplies_itself_is_refused() {
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (one, next) in ["a", "b", "c", "d", "e", "f", "g", "h"].windows(2).map(|w| (w[0], w[1])) {
            bomb += &format!("{next}: &{next} [{}]\n", vec![format!("*{one}"); 10].join(","));
        }
        assert!(read(&bomb).is_err());
    }
}
