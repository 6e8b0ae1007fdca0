//! Which routes of a virtual host can match a path: an index, so that 10,000 prefixes are not tried one by one.
//!
//! The index narrows down, it never decides: whoever asks still checks every condition, in the order of the routes.

use std::collections::HashMap;

use shared_config::route::PathMatcher;
use smallvec::SmallVec;

/// Routes, by what their paths start with or are. Each list of routes is in ascending order.
#[derive(Debug, Default)]
pub(crate) struct PathIndex {
    sensitive: Keys,
    /// The same in lower case, for routes that do not tell upper from lower case.
    insensitive: Keys,
    /// Routes whose path cannot be indexed.
    others: Vec<u32>,
}

#[derive(Debug, Default)]
struct Keys {
    exact: HashMap<Box<str>, Vec<u32>>,
    prefixes: Prefixes,
}

/// Distinct prefixes in sorted order. The longest prefix of a path is the last one not greater than the path, or an
/// ancestor of it: what sorts between a prefix and a longer text that starts with it starts with it too.
#[derive(Debug, Default)]
struct Prefixes {
    text: String,
    entries: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    start: u32,
    end: u32,
    /// The longest other prefix that this one starts with.
    parent: Option<u32>,
    routes: Vec<u32>,
}

/// The lists of routes that may match one path, to be read in ascending order of routes.
pub(crate) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 12]>,
}

impl PathIndex {
    pub(crate) fn new<'a>(routes: impl Iterator<Item = (&'a PathMatcher, bool)>) -> Self {
        let mut index = Self::default();
        let mut prefixes: [HashMap<Box<str>, Vec<u32>>; 2] = Default::default();
        for (number, (path, case_sensitive)) in routes.enumerate() {
            let number = number as u32;
            let key = |text: &str| if case_sensitive { text.into() } else { text.to_ascii_lowercase().into() };
            let keys = if case_sensitive { &mut index.sensitive } else { &mut index.insensitive };
            let prefix = match path {
                PathMatcher::Exact(exact) => {
                    keys.exact.entry(key(exact)).or_default().push(number);
                    continue;
                }
                PathMatcher::Prefix(prefix) | PathMatcher::SeparatedPrefix(prefix) => prefix,
                PathMatcher::Regex(_) | PathMatcher::Template(_) | PathMatcher::Connect => {
                    index.others.push(number);
                    continue;
                }
            };
            prefixes[usize::from(!case_sensitive)].entry(key(prefix)).or_default().push(number);
        }
        let [sensitive, insensitive] = prefixes;
        index.sensitive.prefixes = Prefixes::new(sensitive);
        index.insensitive.prefixes = Prefixes::new(insensitive);
        index
    }

    /// The routes that may match `path`, and all that do.
    pub(crate) fn candidates<'a>(&'a self, path: &str) -> Candidates<'a> {
        let mut lists = SmallVec::new();
        self.sensitive.add(path, &mut lists);
        if !self.insensitive.is_empty() {
            self.insensitive.add(&path.to_ascii_lowercase(), &mut lists);
        }
        if !self.others.is_empty() {
            lists.push(&self.others[..]);
        }
        Candidates { lists }
    }
}

impl Keys {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.entries.is_empty()
    }

    fn add<'a>(&'a self, path: &str, lists: &mut SmallVec<[&'a [u32]; 12]>) {
        if !self.exact.is_empty()
            && let Some(routes) = self.exact.get(path)
        {
            lists.push(routes);
        }
        self.prefixes.add(path, lists);
    }
}

impl Prefixes {
    fn new(prefixes: HashMap<Box<str>, Vec<u32>>) -> Self {
        let mut sorted: Vec<_> = prefixes.into_iter().collect();
        sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut this = Self::default();
        for (text, routes) in sorted {
            let mut parent = this.entries.len().checked_sub(1).map(|last| last as u32);
            while let Some(index) = parent
                && !text.starts_with(this.prefix(index))
            {
                parent = this.entries[index as usize].parent;
            }
            let start = this.text.len() as u32;
            this.text.push_str(&text);
            this.entries.push(Prefix { start, end: this.text.len() as u32, parent, routes });
        }
        this
    }

    fn prefix(&self, index: u32) -> &str {
        let entry = &self.entries[index as usize];
        &self.text[entry.start as usize..entry.end as usize]
    }

    fn add<'a>(&'a self, path: &str, lists: &mut SmallVec<[&'a [u32]; 12]>) {
        let bytes = self.text.as_bytes();
        let after =
            self.entries.partition_point(|entry| &bytes[entry.start as usize..entry.end as usize] <= path.as_bytes());
        let mut at = after.checked_sub(1).map(|last| last as u32);
        while let Some(index) = at
            && !path.starts_with(self.prefix(index))
        {
            at = self.entries[index as usize].parent;
        }
        while let Some(index) = at {
            let entry = &self.entries[index as usize];
            lists.push(&entry.routes[..]);
            at = entry.parent;
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        // There are few lists, so that looking at all their heads is cheaper than a heap.
        let first = self.lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
        let (route, rest) = first.split_first()?;
        *first = rest;
        Some(*route)
    }
}
