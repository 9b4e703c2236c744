// SPDX-License-Identifier: GPL-2.0
//! The driver's source: which function, of what, each line is in.
//!
//! That is seen by indentation, which rustfmt sees to.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use regex::Regex;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Line {
    /// What it says, without the spaces around it.
    pub text: String,
    /// What it is in, outermost first, such as `Type::function`; empty if it is in nothing.
    pub scope: String,
}

/// All files, by their names from the directory of the source.
pub struct Source(BTreeMap<String, Vec<Line>>);

impl Source {
    /// Reads all files below `directory`.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(inner) = directories.pop() {
            for entry in fs::read_dir(&inner).with_context(|| format!("{}", inner.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text =
                    fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
                let name = path.strip_prefix(directory)?;
                files.insert(name.to_string_lossy().into_owned(), lines(&text));
            }
        }
        ensure!(!files.is_empty(), "nothing in {}", directory.display());
        Ok(Self(files))
    }

    /// One that consists of these files.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(name, text): &(&str, &str)| (name.to_owned(), lines(text));
        Self(files.iter().map(file).collect())
    }

    /// The lines of a file; none if there is no such file.
    pub fn file(&self, name: &str) -> &[Line] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// All lines, with the names of their files.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &Line)> {
        self.0
            .iter()
            .flat_map(|(name, lines)| lines.iter().map(move |line| (name.as_str(), line)))
    }

    /// A line by its number, from 1 on.
    pub fn line(&self, name: &str, number: u32) -> Option<&Line> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.file(name).get(index)
    }
}

/// A function, or what functions are in.
struct Scope {
    name: String,
    indent: usize,
    /// Whether its head is over.
    has_body: bool,
}

/// The name of the type that an `impl` is of.
fn type_of(head: &str) -> String {
    let mut depth = 0_usize;
    let mut last = ' ';
    let mut flat = String::new();
    for letter in head.chars() {
        match letter {
            '<' => depth += 1,
            // Not of an arrow.
            '>' if last != '-' => depth = depth.saturating_sub(1),
            _ if depth == 0 => flat.push(letter),
            _ => {}
        }
        last = letter;
    }
    let flat = flat.split('{').next().unwrap_or(&flat);
    let flat = flat.split(" where ").next().unwrap_or(flat);
    let flat = flat.rsplit(" for ").next().unwrap_or(flat);
    let path = flat.trim().trim_start_matches("unsafe ");
    let path = path.trim_start_matches("impl").trim();
    path.rsplit("::").next().unwrap_or(path).to_owned()
}

/// Takes a file apart.
fn lines(text: &str) -> Vec<Line> {
    let head = Regex::new(
        r#"^(?:pub(?:\([^)]*\))? )?(?:(?:const|async|unsafe|extern "[^"]*") )*(?:impl\b|(?:fn|mod|trait|struct|enum|union|macro_rules!) (\$?\w+))"#,
    )
    .expect("constant");
    let all: Vec<&str> = text.lines().collect();
    let mut scopes: Vec<Scope> = Vec::new();
    let mut lines = Vec::new();
    for (index, line) in all.iter().enumerate() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if let Some(found) = head.captures(text) {
            let name = match found.get(1) {
                Some(name) => name.as_str().to_owned(),
                None => {
                    let rest = all.iter().skip(index).map(|line| line.trim());
                    let end = rest.clone().position(|line| line.ends_with(['{', '}']));
                    let rest: Vec<&str> = rest.take(end.map_or(1, |end| end + 1)).collect();
                    type_of(&rest.join(" "))
                }
            };
            scopes.push(Scope {
                name,
                indent,
                has_body: false,
            });
        }
        let names: Vec<&str> = scopes.iter().map(|scope| scope.name.as_str()).collect();
        lines.push(Line {
            text: text.to_owned(),
            scope: names.join("::"),
        });
        let Some(last) = scopes.last_mut() else {
            continue;
        };
        if last.has_body {
            if last.indent == indent && text.starts_with('}') {
                scopes.pop();
            }
        } else if text.ends_with('{') {
            last.has_body = true;
        } else if text.ends_with([';', '}']) {
            scopes.pop();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::type_of;
    use super::Source;

    const TEXT: &str = "\
//! fn no_function() {
use a::b;

struct Unit(u32);

pub(crate) struct Type<'a> {
    field: &'a u32,
}

impl<'a, T: Fn() -> u32> Trait<T> for inner::Type<'a>
where
    T: Send,
{
    const X: u32 = 1;

    pub(crate) fn first(
        &self,
        f: impl FnOnce(u32) -> u32,
    ) -> u32 {
        let closure = || {
            1
        };
        fn nested() {}
        closure()
    }

    const unsafe fn second(self) -> u32 {
        2
    }
}

unsafe extern \"C\" fn outer() {
    three();
}

mod deep {
    fn declared(x: u32);

    macro_rules! four {
        () => {
            pub(crate) fn $name(dev: &Device) {
                5
            }
        };
    }
}
last
";

    #[test]
    fn each_line_is_in_something() {
        let source = Source::of(&[("a.rs", TEXT)]);
        let scope = |text: &str| {
            let mut found = source.file("a.rs").iter().filter(|line| line.text == text);
            let line = found.next().unwrap_or_else(|| panic!("{text}"));
            line.scope.clone()
        };
        for (text, expected) in [
            ("//! fn no_function() {", ""),
            ("use a::b;", ""),
            ("struct Unit(u32);", "Unit"),
            ("field: &'a u32,", "Type"),
            ("T: Send,", "Type"),
            ("const X: u32 = 1;", "Type"),
            ("&self,", "Type::first"),
            ("f: impl FnOnce(u32) -> u32,", "Type::first"),
            (") -> u32 {", "Type::first"),
            ("1", "Type::first"),
            ("};", "Type::first"),
            ("fn nested() {}", "Type::first::nested"),
            ("closure()", "Type::first"),
            ("2", "Type::second"),
            ("three();", "outer"),
            ("fn declared(x: u32);", "deep::declared"),
            ("5", "deep::four::$name"),
            ("last", ""),
        ] {
            assert_eq!(scope(text), expected, "{text}");
        }
    }

    #[test]
    fn a_closing_brace_is_of_what_it_closes() {
        let source = Source::of(&[("a.rs", "impl A {\n    fn f() {\n    }\n}\n")]);
        let scopes: Vec<&str> = source
            .file("a.rs")
            .iter()
            .map(|line| line.scope.as_str())
            .collect();
        assert_eq!(scopes, ["A", "A::f", "A::f", "A"]);
        assert_eq!(source.line("a.rs", 2).unwrap().text, "fn f() {");
        assert_eq!(source.line("a.rs", 0), None);
        assert_eq!(source.line("a.rs", 5), None);
        assert_eq!(source.line("b.rs", 1), None);
    }

    #[test]
    fn an_impl_is_of_a_type() {
        for (head, name) in [
            ("impl Plain {", "Plain"),
            ("impl<T: Deref<Target = U>> Drop for Data<'_, T> {", "Data"),
            ("unsafe impl Send for a::B {", "B"),
            ("impl<F: Fn(u32) -> u32> Call<F> where F: Send {", "Call"),
        ] {
            assert_eq!(type_of(head), name);
        }
    }
}
