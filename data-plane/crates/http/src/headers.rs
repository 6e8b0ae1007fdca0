//! Header fields: one byte buffer and a small index, so that a head costs no allocation a field.
//!
//! Names are lower case always. Well-known names have a number, which makes a look-up a comparison of bytes.

use std::fmt;

use bytes::Bytes;

use crate::h1::is_value;
use crate::names::{Key, NameSet, id_of};
use crate::spare::Spare;

/// The header fields of a message, in order.
#[derive(Clone, Default)]
pub struct Headers {
    buf: Vec<u8>,
    entries: Vec<Entry>,
    /// The names that may be among the entries: most look-ups end here. Names without a number count as number 0.
    known: NameSet,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u8,
    name: Span,
    value: Span,
}

/// A piece of the buffer of one head.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

thread_local! {
    static SPARE: Spare<Entry> = const { Spare::new() };
}

// === impl Headers ===

impl Headers {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values, with 4 for the separators of each (as Envoy counts header bytes).
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|e| e.name.len as usize + e.value.len as usize + 4).sum()
    }

    /// The value of the first field called `key`.
    #[inline]
    pub fn get<K: Key + ?Sized>(&self, key: &K) -> Option<&[u8]> {
        if self.may_contain(key) { self.find(key) } else { None }
    }

    /// The value of the first field called `key`, if it is UTF-8.
    #[inline]
    pub fn text<K: Key + ?Sized>(&self, key: &K) -> Option<&str> {
        if self.may_contain(key) { self.find_text(key) } else { None }
    }

    // What is looked for and not there is decided where it is asked for; the rest is one piece of code.

    #[inline(never)]
    fn find<K: Key + ?Sized>(&self, key: &K) -> Option<&[u8]> {
        self.first(key).map(|at| self.bytes(self.entries[at].value))
    }

    #[inline(never)]
    fn find_text<K: Key + ?Sized>(&self, key: &K) -> Option<&str> {
        self.find(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The values of all fields called `key`, in order.
    pub fn all<'a, K: Key + ?Sized>(&'a self, key: &'a K) -> impl Iterator<Item = &'a [u8]> + 'a {
        let entries = if self.may_contain(key) { &self.entries[..] } else { &[] };
        entries.iter().filter(move |e| self.is(e, key)).map(|e| self.bytes(e.value))
    }

    #[inline]
    pub fn contains<K: Key + ?Sized>(&self, key: &K) -> bool {
        self.may_contain(key) && self.first(key).is_some()
    }

    /// Whether there is a field of any of these names.
    #[inline]
    pub fn contains_any(&self, names: NameSet) -> bool {
        self.known.meets(names) && self.entries.iter().any(|e| names.has(e.id))
    }

    #[inline]
    fn may_contain<K: Key + ?Sized>(&self, key: &K) -> bool {
        self.known.has(key.id())
    }

    /// All fields in order: lower-case name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + '_ {
        self.entries.iter().map(|e| (self.name_text(e), self.bytes(e.value)))
    }

    /// Adds a field after those that are there. `key` must be lower case; the caller checked the value.
    pub fn append<K: Key + ?Sized>(&mut self, key: &K, value: &[u8]) {
        let name = self.store(key.text().as_bytes());
        self.append_stored((key.id(), name), value);
    }

    /// Adds a field whose name comes from a peer: the codec lowers it here. The caller checked name and value.
    pub(crate) fn append_raw(&mut self, name: &[u8], value: &[u8]) {
        let stored = self.store_name(name);
        self.append_stored(stored, value);
    }

    /// Keeps a name in lower case, for [`Headers::append_stored`], and says its number.
    pub(crate) fn store_name(&mut self, name: &[u8]) -> (u8, Span) {
        let start = self.buf.len();
        self.buf.extend(name.iter().map(u8::to_ascii_lowercase));
        let id = id_of(&self.buf[start..]);
        (id, Span { start: start as u32, len: name.len() as u32 })
    }

    pub(crate) fn append_stored(&mut self, (id, name): (u8, Span), value: &[u8]) {
        let value = self.store(value);
        self.known.insert(id);
        self.entries.push(Entry { id, name, value });
    }

    /// All fields with the number of their name, 0 for one that is not well known.
    pub(crate) fn iter_ids(&self) -> impl Iterator<Item = (u8, &[u8], &[u8])> + '_ {
        self.entries.iter().map(|e| (e.id, self.bytes(e.name), self.bytes(e.value)))
    }

    /// Whether no value, not even one that was replaced, holds what RFC 9110 §5.5 forbids.
    pub(crate) fn is_clean(&self) -> bool {
        is_value(&self.buf)
    }

    /// The buffer as it can be shared, for [`Headers::iter_shared`].
    pub(crate) fn to_shared(&self) -> Bytes {
        Bytes::copy_from_slice(&self.buf)
    }

    /// All fields as [`Headers::iter_ids`] gives them, with values that share one buffer.
    pub(crate) fn iter_shared<'a>(&'a self, shared: &'a Bytes) -> impl Iterator<Item = (u8, &'a [u8], Bytes)> + 'a {
        self.entries.iter().map(|e| {
            let (start, end) = (e.value.start as usize, (e.value.start + e.value.len) as usize);
            (e.id, self.bytes(e.name), shared.slice(start..end))
        })
    }

    /// Makes room for a head at once.
    pub(crate) fn reserve(&mut self, bytes: usize, fields: usize) {
        if self.buf.capacity() == 0
            && let Ok(Some((buf, entries))) = SPARE.try_with(Spare::take)
        {
            (self.buf, self.entries) = (buf, entries);
        }
        self.buf.reserve(bytes);
        self.entries.reserve(fields);
    }

    /// Makes `value` the only value of `key`, at the place of the first field of that name.
    pub fn set<K: Key + ?Sized>(&mut self, key: &K, value: &[u8]) {
        let first = if self.may_contain(key) { self.first(key) } else { None };
        match first {
            None => self.append(key, value),
            Some(first) => {
                self.entries[first].value = self.store(value);
                let mut index = 0;
                self.retain_entries(|headers, entry| {
                    index += 1;
                    index - 1 <= first || !headers.is(entry, key)
                });
            }
        }
    }

    /// The same with a decimal number.
    pub fn set_number<K: Key + ?Sized>(&mut self, key: &K, number: u64) {
        self.set(key, itoa::Buffer::new().format(number).as_bytes());
    }

    /// Removes all fields called `key`; says whether there were any.
    #[inline]
    pub fn remove<K: Key + ?Sized>(&mut self, key: &K) -> bool {
        self.may_contain(key) && self.remove_found(key)
    }

    fn remove_found<K: Key + ?Sized>(&mut self, key: &K) -> bool {
        if self.first(key).is_none() {
            return false;
        }
        self.retain_entries(|headers, entry| !headers.is(entry, key));
        if key.id() != 0 {
            self.known = self.known.without(NameSet::one(key.id()));
        }
        true
    }

    /// Removes all fields of these names.
    #[inline]
    pub fn remove_all(&mut self, names: NameSet) {
        if self.known.meets(names) {
            self.retain_entries(|_, entry| !names.has(entry.id));
            self.known = self.known.without(names);
        }
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        self.retain_entries(|headers, entry| keep(headers.name_text(entry), headers.bytes(entry.value)));
    }

    pub(crate) fn retain_ids(&mut self, mut keep: impl FnMut(u8, &[u8]) -> bool) {
        self.retain_entries(|headers, entry| keep(entry.id, headers.bytes(entry.name)));
    }

    fn retain_entries(&mut self, mut keep: impl FnMut(&Self, &Entry) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| keep(self, entry));
        self.entries = entries;
    }

    #[inline(never)]
    fn first<K: Key + ?Sized>(&self, key: &K) -> Option<usize> {
        self.entries.iter().position(|e| self.is(e, key))
    }

    fn is<K: Key + ?Sized>(&self, entry: &Entry, key: &K) -> bool {
        let id = key.id();
        entry.id == id && (id != 0 || self.bytes(entry.name) == key.text().as_bytes())
    }

    fn name_text(&self, entry: &Entry) -> &str {
        // Names are checked tokens, so this never fails.
        std::str::from_utf8(self.bytes(entry.name)).unwrap_or_default()
    }

    pub(crate) fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.buf.len() as u32;
        self.buf.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        self.buf.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default()
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if self.buf.capacity() > 0 && self.entries.capacity() > 0 {
            let (buf, entries) = (std::mem::take(&mut self.buf), std::mem::take(&mut self.entries));
            // A thread that ends keeps nothing.
            let _ = SPARE.try_with(|spare| spare.give(buf, entries));
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (n.to_owned(), String::from_utf8_lossy(v)))).finish()
    }
}

/// Two sets of fields are equal when they hold the same fields in the same order.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in fields {
            headers.append_raw(name.as_bytes(), value.as_bytes());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{HeaderName, name};

    fn headers() -> Headers {
        [("Host", "a"), ("x-a", "1"), ("X-A", "2"), ("set-cookie", "c")].into_iter().collect()
    }

    #[test]
    fn names_are_found_in_any_case_they_came_in() {
        let headers = headers();
        assert_eq!(headers.get(&name::HOST), Some(&b"a"[..]));
        assert_eq!(headers.text("host"), Some("a"));
        assert_eq!(headers.all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get(&HeaderName::new("X-A").unwrap()), Some(&b"1"[..]));
        assert!(!headers.contains("x-b"));
    }

    #[test]
    fn set_replaces_all_values_in_place() {
        let mut headers = headers();
        headers.set("x-a", b"3");
        headers.set("x-new", b"4");
        let text = format!("{headers:?}");
        assert_eq!(text, r#"{"host": "a", "x-a": "3", "set-cookie": "c", "x-new": "4"}"#);
    }

    #[test]
    fn remove_takes_every_field_of_that_name() {
        let mut headers = headers();
        assert!(headers.remove("x-a"));
        assert!(!headers.remove("x-a"));
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_set_of_names_goes_at_once() {
        let set = NameSet::of(&[&name::HOST, &name::SET_COOKIE, &name::DATE]);
        let mut headers = headers();
        assert!(headers.contains_any(set));
        headers.remove_all(set);
        assert!(!headers.contains_any(set) && !headers.contains(&name::HOST));
        assert_eq!(headers.len(), 2);
        headers.append(&name::HOST, b"b");
        assert_eq!(headers.text("host"), Some("b"));
    }
}
