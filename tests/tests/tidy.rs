//! The rules of this house that no compiler knows: ranks of modules, doors to the outside, licences, headers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of node by rank; a module imports modules of lower rank only, and never a sibling.
const RANKS: [(&str, u8); 15] = [
    ("wiring", 5),
    ("cli", 5),
    ("main", 5),
    ("api", 4),
    ("http", 4),
    ("join", 4),
    ("partition", 3),
    ("controller", 3),
    ("raft", 2),
    ("storage", 1),
    ("metadata", 1),
    ("env", 0),
    ("config", 0),
    ("telemetry", 0),
    ("lib", 9),
];

/// Asked at run time: checkouts that share a target folder share this binary too.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
    Path::new(&here).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// Every Rust file under `folder`, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder of the repository can be read") {
            let path = entry.expect("a folder entry can be read").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    let relative = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a source is text"))).collect()
}

/// The text without line comments and without what follows the unit tests' head.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]").next().unwrap_or("");
    product.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Modules of the crate that this code names as `crate::module`.
fn imports(code: &str) -> Vec<String> {
    let name =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or("");
            found.extend(group.split(',').map(|part| name(part.trim())));
        } else {
            found.push(name(rest));
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// `node/src/raft/group.rs` is of module `raft`, `node/src/wiring.rs` of `wiring`.
fn module_of(path: &str) -> String {
    let inner = path.strip_prefix("node/src/").expect("a source of node");
    let first = inner.split('/').next().expect("a path has a first part");
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_import_lower_ranks_only() {
    let ranks: BTreeMap<&str, u8> = RANKS.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("node/src") {
        let module = module_of(&path);
        let Some(rank) = ranks.get(module.as_str()) else {
            wrong.push(format!(
                "{path}: module {module} has no rank; give it one here and in ARCHITECTURE.md"
            ));
            continue;
        };
        for import in imports(&code(&text)) {
            let lower = ranks.get(import.as_str()).is_none_or(|other| other < rank);
            if import != module && !lower {
                wrong.push(format!("{path}: {module} (rank {rank}) imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn foreign_types_stop_where_they_should() {
    // The crate, and the only places of node and client that may name it.
    let fences: [(&str, &[&str]); 5] = [
        ("openraft::", &["node/src/raft/"]),
        ("redb::", &["node/src/storage/", "node/src/env/"]),
        ("prometheus_client::", &["node/src/env/metrics.rs"]),
        ("axum::", &["node/src/http.rs"]),
        (
            "tonic::",
            &[
                "node/src/env/grpc",
                "node/src/api/grpc",
                "client/src/channel",
                "node/src/cli/",
                "node/src/wiring.rs",
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources("node/src").into_iter().chain(sources("client/src")) {
        let code = code(&text);
        for (word, places) in fences {
            if code.contains(word) && !places.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{path} names {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn client_is_imported_by_the_command_line_alone() {
    let wrong: Vec<String> = sources("node/src")
        .into_iter()
        .filter(|(path, text)| !path.starts_with("node/src/cli/") && code(text).contains("quorate_client"))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "only node/src/cli/ may use quorate-client: {wrong:?}");
}

#[test]
fn every_select_is_biased() {
    let mut wrong = Vec::new();
    for (path, text) in
        sources("node/src").into_iter().chain(sources("client/src")).chain(sources("proto/src"))
    {
        if path.contains("/env/") {
            continue;
        }
        let code = code(&text);
        for (at, _) in code.match_indices("select! {") {
            if !code[at + "select! {".len()..].trim_start().starts_with("biased;") {
                wrong.push(path.clone());
            }
        }
    }
    assert!(wrong.is_empty(), "an unbiased select! takes its order from an unseeded source: {wrong:?}");
}

#[test]
fn every_file_says_what_it_owns() {
    let all = ["proto/src", "client/src", "node/src", "sim/src", "tests/src"];
    let wrong: Vec<String> = all
        .into_iter()
        .flat_map(sources)
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "no module header: {wrong:?}");
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let words = ["todo!(", "unimplemented!(", "#[ignore", concat!("FIX", "ME"), concat!("XX", "X")];
    let mut wrong = Vec::new();
    for folder in ["proto/src", "client/src", "node/src", "sim/src", "sim/tests", "tests/src"] {
        for (path, text) in sources(folder) {
            wrong.extend(
                words.iter().filter(|word| text.contains(**word)).map(|word| format!("{path}: {word}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn licences_of_all_dependencies_are_permissive() {
    let fine = [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "CC0-1.0",
        "0BSD",
        "Unlicense",
        "BSL-1.0",
        "MIT-0",
        "CDLA-Permissive-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ];
    // Those of other platforms too, which no build here has brought: cargo gets what is missing.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let licence = package["license"].as_str().unwrap_or("").replace('/', " OR ");
        // Every term that is joined by AND must hold one alternative that is fine.
        let permissive = licence.split(" AND ").all(|term| {
            let term = term.trim_matches(['(', ')']);
            term.split(" OR ").any(|one| fine.contains(&one.trim().trim_matches(['(', ')'])))
        });
        if !permissive {
            wrong.push(format!("{} {}: {licence:?}", package["name"], package["version"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
