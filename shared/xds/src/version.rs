//! Versions made from content, so that a restarted or second server gives the same resource the same version.

use std::fmt;

use twox_hash::XxHash3_128;

/// The hash of the bytes of a resource, or of a set of named versions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u128);

impl Version {
    /// The version of one resource: the hash of its encoded bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// The version of a set; the pairs must come sorted by name.
    pub fn of_set<'a>(sorted: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut hasher = XxHash3_128::new();
        for (name, version) in sorted {
            hasher.write(&(name.len() as u64).to_le_bytes());
            hasher.write(name.as_bytes());
            hasher.write(&version.0.to_le_bytes());
        }
        Self(hasher.finish_128())
    }

    /// The version behind a wire string; `None` when another server wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        let ours = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ours { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_back_and_foreign_text_does_not() {
        let version = Version::of(b"x");
        assert_eq!(Version::parse(&version.to_string()), Some(version));
        for foreign in ["", "7", "0000000000000000000000000000000g", "+0000000000000000000000000000001"] {
            assert_eq!(Version::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_set_version_tells_where_a_name_ends() {
        let one = Version::of(b"1");
        assert_ne!(Version::of_set([("ab", one), ("c", one)]), Version::of_set([("a", one), ("bc", one)]));
        assert_ne!(Version::of_set([]), Version::of_set([("", one)]));
    }
}
