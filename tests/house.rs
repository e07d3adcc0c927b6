//! The rules of the house that no lint knows: imports go down, each dependency has its room, the project
//! speaks of itself alone.
#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms from the top down; a room imports only rooms below it. Rooms on one line do not import each other.
const ORDER: [&[&str]; 11] = [
    &["cli"],
    &["bench", "doctor", "compare"],
    &["tui"],
    &["report"],
    &["run"],
    &["methods"],
    &["optim"],
    &["model"],
    &["kernels"],
    &["device"],
    &["data", "runlog", "series", "formats", "linalg", "config", "random", "error"],
];

/// What leaves may import of each other.
const LEAVES: [(&str, &[&str]); 8] = [
    ("data", &["formats", "random", "error"]),
    ("runlog", &["error"]),
    ("formats", &["error"]),
    ("series", &[]),
    ("linalg", &[]),
    ("config", &["error"]),
    ("random", &[]),
    ("error", &[]),
];

/// Crates that stay in the named rooms.
const KEPT: [(&str, &[&str]); 10] = [
    ("burn", &["device", "kernels", "bench"]),
    ("wgpu", &["device"]),
    ("pollster", &["device"]),
    ("burn_flex", &["kernels"]),
    ("gemm", &["kernels"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    // Programs of the GPU, and chat templates.
    ("minijinja", &["kernels", "formats"]),
    ("minijinja_contrib", &["formats"]),
    ("ratatui", &["tui"]),
];

/// Crates that stay in one file.
const IN_ONE_FILE: [(&str, &str); 1] = [("cubecl", "kernels/launch.rs")];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The room of a file: its first folder below `src`, or the file's own name there.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Lines of code: no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or(""))
}

/// Rooms that a line names as `crate::room`.
fn imported(line: &str) -> Vec<String> {
    let rooms = line.split("crate::").skip(1).map(|rest| {
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    });
    rooms.filter(|room| !room.is_empty()).collect()
}

#[test]
fn imports_point_down() {
    let levels: BTreeMap<&str, usize> = ORDER
        .iter()
        .enumerate()
        .flat_map(|(level, rooms)| rooms.iter().map(move |room| (*room, level)))
        .collect();
    let leaf_level = ORDER.len() - 1;
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = room(&path);
        if matches!(from.as_str(), "main" | "lib") {
            continue;
        }
        let Some(&level) = levels.get(from.as_str()) else {
            panic!("{} is in no room of the order", path.display());
        };
        for to in code(&text).flat_map(imported).filter(|to| *to != from) {
            let Some(&below) = levels.get(to.as_str()) else { continue };
            let allowed = if level == leaf_level {
                LEAVES.iter().any(|(leaf, may)| *leaf == from && may.contains(&to.as_str()))
            } else {
                below > level
            };
            if !allowed {
                wrong.push(format!("{}: {from} imports {to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the code names something of a crate.
fn uses(text: &str, name: &str) -> bool {
    code(text).any(|line| {
        line.match_indices(&format!("{name}::")).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

#[test]
fn some_crates_stay_in_one_file() {
    for (name, file) in IN_ONE_FILE {
        let users: Vec<_> = sources()
            .into_iter()
            .filter(|(_, text)| uses(text, name))
            .map(|(path, _)| path)
            .collect();
        assert!(users.iter().all(|path| path.ends_with(file)), "{name} is used in {users:?}");
        assert!(!users.is_empty(), "{name} is not used at all");
    }
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let from = room(&path);
        for (name, rooms) in KEPT {
            let used = uses(&text, name);
            if used && !rooms.contains(&from.as_str()) {
                wrong.push(format!("{}: {name} belongs to {rooms:?}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_method_never_names_another() {
    for (path, text) in sources().into_iter().filter(|(path, _)| room(path) == "methods") {
        let below = path.components().skip_while(|c| c.as_os_str() != "methods").nth(1).unwrap();
        let own = below.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        if matches!(
            own.as_str(),
            "mod"
                | "factors"
                | "footprint"
                | "given"
                | "warm_start"
                | "projection"
                | "singular"
                | "starts"
        ) {
            continue;
        }
        for other in fullrank::methods::NAMES
            .iter()
            .map(|name| name.replace('-', "_"))
            .filter(|name| *name != own)
        {
            let names = |line: &str| {
                ["methods::", "super::"].into_iter().any(|room| {
                    let named = format!("{room}{other}");
                    // `super::factors` belongs to all, and `super::lora_ga` is not `super::lora`.
                    line.match_indices(&named).any(|(at, _)| {
                        let next = line[at + named.len()..].chars().next();
                        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
                    })
                })
            };
            assert!(!code(&text).any(names), "{} names {other}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let with_unsafe: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| {
            code(text).any(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(
        with_unsafe.iter().all(|path| path.ends_with("kernels/gemm.rs")),
        "unsafe code in {with_unsafe:?}"
    );
}

#[test]
fn files_are_not_longer_than_six_hundred_lines() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter_map(|(path, text)| {
            // Tests in a file do not count.
            let lines = text.lines().take_while(|line| *line != "mod tests {").count();
            (lines > 600).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "split by idea: {long:?}");
}
