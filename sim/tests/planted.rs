//! The planted bugs are patches: they must go on applying, or nobody notices that they are not tried any more.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Asked at run time: checkouts that share a target folder share this binary too.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
    Path::new(&here).parent().expect("sim/ lies in the repository").to_path_buf()
}

/// Where the source of a crate lies that is built with.
fn source_of(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let told: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("cargo tells it in JSON");
    let packages = told["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == name);
    let package = package.unwrap_or_else(|| panic!("nothing is built with a crate {name}"));
    let manifest = package["manifest_path"].as_str().expect("a path");
    Path::new(manifest).parent().expect("a manifest lies in a folder").to_path_buf()
}

#[test]
fn every_planted_patch_still_applies() {
    let folder = root().join("sim/planted");
    let mut names = Vec::new();
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("sim/planted is there") {
        let path = entry.expect("a folder entry can be read").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch")) else {
            continue;
        };
        names.push(name.to_owned());
        let text = std::fs::read_to_string(&path).expect("a patch is text");
        if !text.starts_with(&format!("{name}: ")) {
            wrong.push(format!("{name}.patch does not begin with \"{name}: \" and what it plants"));
        }
        if name.starts_with('K') && !text.lines().any(|line| line.starts_with("Fits: O-")) {
            wrong.push(format!("{name}.patch has no line \"Fits: O-..\" with the oracles that fit"));
        }
        let of_crate = text.lines().find_map(|line| line.strip_prefix("Crate: "));
        let source = of_crate.map_or_else(root, source_of);
        let mut check = Command::new("git");
        check.args(["apply", "--check"]).arg(&path).current_dir(&source);
        if of_crate.is_some() {
            // Where crates lie is nobody's repository.
            check.env("GIT_CEILING_DIRECTORIES", source.parent().expect("a crate lies in a folder"));
        }
        let checked = check.output().expect("git runs");
        if !checked.status.success() {
            let said = String::from_utf8_lossy(&checked.stderr);
            wrong.push(format!("{name}.patch does not apply any more: {}", said.trim()));
        }
    }
    names.sort();
    let bugs = ["K01", "K02", "K03", "K04", "K06", "K07", "K09", "K10", "K11", "K12", "K13", "K14", "K15"]
        .map(str::to_owned);
    assert!(bugs.iter().all(|bug| names.contains(bug)), "a planted bug is missing: {names:?}");
    assert_eq!(names.iter().filter(|name| name.starts_with('H')).count(), 10, "{names:?}");
    assert!(
        wrong.is_empty(),
        "{}\nTo refresh one, follow sim/planted/README.md; to throw one away is to weaken a goal.",
        wrong.join("\n")
    );
}
