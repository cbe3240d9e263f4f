//! Netlink attributes: type, length, value, padded to four bytes. Numbers of nf_tables are big-endian.

use super::NftError;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Writes attributes one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A value as it is. A value that the 16-bit length cannot hold is cut to nothing, which the kernel refuses;
    /// callers keep lists shorter than that.
    pub(crate) fn raw(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(4);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        if len > 4 {
            self.bytes.extend_from_slice(value);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// Text with its closing NUL.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.raw(kind, &value);
    }

    /// A list of attributes. As in [`Writer::raw`], one that is too long for its length is cut to nothing.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.raw(kind | NESTED, &[]);
        let inner = self.bytes.len();
        fill(self);
        let len = self.bytes.len() - start;
        match (u16::try_from(len), self.bytes.get_mut(start..).and_then(<[u8]>::first_chunk_mut)) {
            (Ok(len), Some(head)) => *head = len.to_ne_bytes(),
            _ => self.bytes.truncate(inner),
        }
    }
}

/// Attributes of one level, in their order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of that type.
    pub(crate) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn nested(self, kind: u16) -> Option<Reader<'a>> {
        self.get(kind).map(Reader::new)
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|v| v.try_into().ok()).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// As [`Reader::text`], for an attribute that each such message has.
    pub(crate) fn name(self, kind: u16, what: &'static str) -> Result<String, NftError> {
        self.text(kind).ok_or(NftError::Malformed { what })
    }
}

/// Text up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(self.rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.rest.get(2..4)?.try_into().ok()?);
        let value = self.rest.get(4..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_nested_and_found_again() {
        let mut writer = Writer::default();
        writer.text(1, "abc");
        writer.nest(2, |inner| {
            inner.u32(1, 7);
            inner.u64(2, 9);
        });
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let reader = Reader::new(&bytes);
        assert_eq!(reader.text(1).as_deref(), Some("abc"));
        assert_eq!(reader.nested(2).unwrap().u32(1), Some(7));
        assert_eq!(reader.nested(2).unwrap().u64(2), Some(9));
        assert_eq!(reader.get(3), None);
    }

    #[test]
    fn a_list_that_is_too_long_for_its_length_is_cut_to_nothing() {
        let written = |count| {
            let mut writer = Writer::default();
            writer.nest(1, |inner| (0..count).for_each(|_| inner.u32(1, 7)));
            writer.u32(2, 9);
            writer.into_bytes()
        };
        let (fits, long) = (written(8191), written(8192));
        assert_eq!(Reader::new(&fits).nested(1).unwrap().count(), 8191);
        assert_eq!(Reader::new(&long).nested(1).unwrap().count(), 0);
        assert_eq!([fits, long].map(|bytes| Reader::new(&bytes).u32(2)), [Some(9); 2]);
    }

    #[test]
    fn cut_and_hostile_lengths_end_the_list() {
        assert_eq!(Reader::new(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(Reader::new(&[255, 255, 1, 0, 1]).count(), 0);
        assert_eq!(Reader::new(&[3]).count(), 0);
    }
}
