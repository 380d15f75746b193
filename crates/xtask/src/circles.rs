//! Finds import circles: modules of one crate that name each other, directly or by way of others. A module and those below it
//! count as one room, so a parent and its children may name each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Result;
use crate::source_files::{is_test_file, production_part, read_files};

/// A module's path within its crate; the root is empty.
type Module = Vec<String>;

/// Modules with the modules that each of them names.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

/// Looks at the production code of each crate and returns the circles.
pub(crate) fn find_circles() -> Result<Vec<String>> {
    let mut crates: BTreeMap<String, BTreeMap<Module, String>> = BTreeMap::new();
    for (file, text) in read_files(&["crates/*/src/*.rs"])? {
        let within = file.strip_prefix("crates/");
        let Some((name, path)) = within.and_then(|rest| rest.split_once("/src/")) else {
            continue;
        };
        if !is_test_file(&file) {
            let modules = crates.entry(name.to_owned()).or_default();
            modules.insert(module_of(path), text);
        }
    }
    let circles = crates.iter().filter_map(|(name, modules)| {
        let found = find_circle(&draw_graph(modules));
        found.map(|circle| format!("crate {name} has an import circle: {}", circle.join(" → ")))
    });
    Ok(circles.collect())
}

/// `a/b.rs` is the module `a::b`; `lib.rs` and `main.rs` are the root.
fn module_of(path: &str) -> Module {
    let path = Path::new(path).with_extension("");
    let parts: Module = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.len() == 1 && matches!(parts[0].as_str(), "lib" | "main") {
        Vec::new()
    } else {
        parts
    }
}

fn draw_graph(modules: &BTreeMap<Module, String>) -> Graph {
    let draw = |(module, text): (&Module, &String)| {
        let production = production_part(text);
        let code: Vec<&str> = production
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let named = list_paths(&code.join("\n"), module)
            .into_iter()
            .filter_map(|path| resolve(&path, modules));
        let apart =
            named.filter(|target| !target.starts_with(module) && !module.starts_with(target));
        (module.clone(), apart.collect())
    };
    modules.iter().map(draw).collect()
}

/// The longest beginning of a path that is a module.
fn resolve(path: &[String], modules: &BTreeMap<Module, String>) -> Option<Module> {
    (1..=path.len())
        .rev()
        .map(|length| path[..length].to_vec())
        .find(|module| modules.contains_key(module))
}

/// Paths that begin with `crate::` or `super::`, each from the root; groups in braces are unfolded.
fn list_paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        unfold(&code[at + "crate::".len()..], &[], &mut paths);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let (mut rest, mut base) = (&code[at..], module);
        while let Some(further) = rest.strip_prefix("super::") {
            (rest, base) = (
                further,
                base.split_last().map_or(base, |(_, parents)| parents),
            );
        }
        unfold(rest, base, &mut paths);
    }
    paths
}

fn unfold(text: &str, base: &[String], paths: &mut Vec<Vec<String>>) {
    if let Some(inside) = text.strip_prefix('{') {
        for part in split_group(inside) {
            unfold(part.trim(), base, paths);
        }
        return;
    }
    let word: String = text
        .chars()
        .take_while(|next| next.is_alphanumeric() || *next == '_')
        .collect();
    if word.is_empty() {
        return;
    }
    let path = [base, std::slice::from_ref(&word)].concat();
    match text[word.len()..].strip_prefix("::") {
        Some(rest) => unfold(rest, &path, paths),
        None => paths.push(path),
    }
}

/// The parts of a group whose opening brace has been read, up to its closing one.
fn split_group(inside: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (at, next) in inside.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                parts.push(&inside[from..at]);
                return parts;
            }
            ',' if depth == 0 => {
                parts.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts
}

/// One circle, where there is one, as names of modules with the first one repeated at the end.
fn find_circle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|module| follow_imports(module, graph, &mut Vec::new(), &mut done))
}

fn follow_imports<'a>(
    module: &'a Module,
    graph: &'a Graph,
    trail: &mut Vec<&'a Module>,
    done: &mut BTreeSet<&'a Module>,
) -> Option<Vec<String>> {
    if let Some(start) = trail.iter().position(|earlier| *earlier == module) {
        let circle = trail[start..].iter().copied().chain([module]);
        return Some(circle.map(|module| module.join("::")).collect());
    }
    if !done.insert(module) {
        return None;
    }
    trail.push(module);
    let found = graph
        .get(module)
        .into_iter()
        .flatten()
        .find_map(|next| follow_imports(next, graph, trail, done));
    trail.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle_of(files: &[(&str, &str)]) -> Option<Vec<String>> {
        let modules = files
            .iter()
            .map(|(path, text)| (module_of(path), (*text).to_owned()))
            .collect();
        find_circle(&draw_graph(&modules))
    }

    #[test]
    fn modules_that_name_each_other_are_a_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::{Item, other};\n"),
            ("b.rs", "use crate::{c, Root};\n"),
            ("c.rs", "fn read() { super::a::write() }\n"),
        ];
        assert_eq!(
            circle_of(&files),
            Some(vec!["a".into(), "b".into(), "c".into(), "a".into()])
        );
        assert_eq!(circle_of(&files[..3]), None);
    }

    #[test]
    fn a_parent_and_its_children_may_name_each_other() {
        let files = [
            ("a.rs", "mod b;\nuse crate::a::b::Item;\n"),
            ("a/b.rs", "use super::Other;\nuse crate::a::more;\n"),
        ];
        assert_eq!(circle_of(&files), None);
    }

    #[test]
    fn tests_and_comments_draw_no_import() {
        let files = [
            (
                "a.rs",
                "// crate::b\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n",
            ),
            ("b.rs", "use crate::a;\n"),
        ];
        assert_eq!(circle_of(&files), None);
    }
}
