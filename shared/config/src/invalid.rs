//! Why a resource is refused: every problem, each with its field path.
//!
//! Decoders collect problems and go on, so that an operator sees all of what is wrong at once.

use std::fmt::{self, Display, Write};

/// One thing that is wrong with a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: proto field names and list indexes, as in `filter_chains[0].filters[1].typed_config.codec_type`.
    pub path: String,
    /// What is wrong and, where one is known, what to write instead. Lower case, no full stop.
    pub reason: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.path, self.reason) }
    }
}

/// All that is wrong with one resource; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<Problem>);

impl Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects problems while a resource is decoded, and knows where in it we are.
#[derive(Debug, Default)]
pub struct Problems {
    path: String,
    list: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Problems {
    /// Decodes the field `name` (a proto field name) inside `read`.
    pub fn at<R>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        if length > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = read(self);
        self.path.truncate(length);
        result
    }

    /// Decodes element `index` of the list or map field we are at.
    pub fn index<R>(&mut self, index: impl Display, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "[{index}]");
        let result = read(self);
        self.path.truncate(length);
        result
    }

    /// Decodes each element of the repeated field `name`, leaving out those that have problems.
    pub fn each<T, R>(&mut self, name: &str, list: &[T], mut read: impl FnMut(&mut Self, &T) -> Option<R>) -> Vec<R> {
        self.at(name, |p| list.iter().enumerate().filter_map(|(i, item)| p.index(i, |p| read(p, item))).collect())
    }

    /// Says that the field we are at is wrong.
    pub fn refuse(&mut self, reason: impl Display) {
        self.list.push(Problem { path: self.path.clone(), reason: reason.to_string() });
    }

    /// Says that the field `name` is wrong, and answers `None` so that a decoder can end with it.
    pub fn refuse_at<T>(&mut self, name: &str, reason: impl Display) -> Option<T> {
        self.at(name, |p| p.refuse(reason));
        None
    }

    /// Says that the field `name` is set but nothing here implements it.
    pub fn unimplemented(&mut self, name: &str) {
        self.at(name, |p| p.refuse("not implemented by weir-proxy"));
    }

    /// Refuses the field `name` when `set`.
    pub fn unimplemented_if(&mut self, name: &str, set: bool) {
        if set {
            self.unimplemented(name);
        }
    }

    /// Notes something that is accepted but should be changed, such as a deprecated field.
    pub fn warn(&mut self, name: &str, reason: impl Display) {
        self.at(name, |p| p.warnings.push(Problem { path: p.path.clone(), reason: reason.to_string() }));
    }

    /// The number of problems so far; a decoder compares two calls to learn whether its part is sound.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// What was accepted with a warning.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The decoded value if nothing was refused.
    ///
    /// # Errors
    /// All problems that were collected.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            None if self.list.is_empty() => {
                Err(Invalid(vec![Problem { path: String::new(), reason: "the resource is empty".into() }]))
            }
            _ => Err(Invalid(self.list)),
        }
    }
}

/// Refuses each named proto field that differs from its default: the list of what a decoder does not implement.
#[macro_export]
macro_rules! refuse_set {
    ($problems:expr, $proto:expr; $($field:ident),+ $(,)?) => {
        {
            $( $problems.unimplemented_if(
                stringify!($field).trim_start_matches("r#"),
                $crate::invalid::is_set(&$proto.$field),
            ); )+
        }
    };
}

/// Whether a proto field holds something other than its default.
pub fn is_set<T: Default + PartialEq>(field: &T) -> bool {
    *field != T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let mut problems = Problems::default();
        let odd = problems.each("hosts", &[1, 2, 3], |p, n| {
            if n % 2 == 0 { p.refuse_at("port", format!("{n} is even")) } else { Some(*n) }
        });
        problems.unimplemented("vhds");
        assert_eq!(odd, [1, 3]);
        let text = problems.finish(Some(())).unwrap_err().to_string();
        assert_eq!(text, "hosts[1].port: 2 is even; vhds: not implemented by weir-proxy");
    }
}
