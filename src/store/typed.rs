//! Documents in the store: bytes to model types and back.

use super::{Entry, Listing, Revision, Store, StoreError};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A document with the key and revision it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// Full key.
    pub key: String,
    /// Revision of the key's last change.
    pub revision: Revision,
    /// The document.
    pub value: T,
}

/// Reads one document, or `None` if the key does not exist.
pub async fn get<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Versioned<T>>, StoreError> {
    store.get(key).await?.as_ref().map(decode).transpose()
}

/// Reads all documents under a prefix. One that cannot be read is left out and named in a warning: it must not take
/// the others down with it.
pub async fn list<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<Versioned<T>>, StoreError> {
    Ok(decode_listing(&store.list(prefix).await?))
}

/// The readable documents of a listing; see [`list`].
#[must_use]
pub fn decode_listing<T: DeserializeOwned>(listing: &Listing) -> Vec<Versioned<T>> {
    let readable = |entry| match decode(entry) {
        Ok(document) => Some(document),
        Err(error) => {
            log::warn!("skipped: {error}");
            None
        }
    };
    listing.entries.iter().filter_map(readable).collect()
}

/// Reads one entry's document.
pub fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<Versioned<T>, StoreError> {
    let value = serde_json::from_slice(&entry.value)
        .map_err(|error| StoreError::Corrupt { key: entry.key.clone(), why: error.to_string() })?;
    Ok(Versioned { key: entry.key.clone(), revision: entry.revision, value })
}

/// A document's bytes: one compact JSON object.
pub fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes, StoreError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| StoreError::Corrupt { key: key.to_owned(), why: error.to_string() })?;
    Ok(bytes.into())
}
