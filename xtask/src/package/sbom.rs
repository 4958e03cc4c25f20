//! What is in the program: a bill of its parts in the form of CycloneDX.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::archive::sha256;
use super::platform::Platform;
use crate::{output, root};

/// C libraries that crates bring, which have their own version behind a `+` in the crate's.
const BUNDLED: &[(&str, &str)] =
    &[("openssl-src", "openssl"), ("rdkafka-sys", "librdkafka"), ("zstd-sys", "zstd")];

/// A crate in the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BillPart {
    name: String,
    version: String,
    license: String,
}

/// The bill of `program`, which was built for `platform` with the default features.
pub fn bill(version: &str, platform: &Platform, program: &Path) -> Result<String, String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["tree", "--locked", "--package", "eds", "--edges", "normal,build"]);
    cargo.args(["--target", platform.target, "--prefix", "none", "--format", "{p}|{l}"]);
    let parts = parts(&output(&mut cargo)?);
    let lock = root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    let checksums = checksums(&lock);
    let components: Vec<String> = parts
        .iter()
        .map(|part| component(part, checksums.get(&(part.name.clone(), part.version.clone()))))
        .chain(parts.iter().filter_map(bundled))
        .collect();
    Ok(format!(
        "{{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.5\",\n  \"version\": 1,\n  \
         \"metadata\": {{\n    \"component\": {{\"type\": \"application\", \"name\": \"eds\", \
         \"version\": {}, \"purl\": {}, \"hashes\": [{{\"alg\": \"SHA-256\", \"content\": \
         {}}}]}}\n  }},\n  \"components\": [\n    {}\n  ]\n}}\n",
        text(version),
        text(&format!("pkg:generic/eds@{version}?platform={}", platform.target)),
        text(&sha256(program)?),
        components.join(",\n    ")
    ))
}

/// The crates that `cargo tree` lists, each once, but for those of the project.
fn parts(tree: &str) -> BTreeSet<BillPart> {
    let line = |line: &str| {
        let (package, license) = line.trim_end_matches(" (*)").split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        let is_own = words.any(|word| word.starts_with("(/"));
        let license = license.trim_end_matches(" (*)").replace('/', " OR ");
        (!is_own).then(|| BillPart { name: name.into(), version: version.into(), license })
    };
    tree.lines().filter_map(line).collect()
}

/// The checksums of the crates in `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key))?;
        line.strip_prefix(" = \"")?.strip_suffix('"').map(str::to_owned)
    };
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|p| Some(((value(p, "name")?, value(p, "version")?), value(p, "checksum")?)))
        .collect()
}

fn component(part: &BillPart, checksum: Option<&String>) -> String {
    let BillPart { name, version, license } = part;
    let mut fields = vec![
        "\"type\": \"library\"".to_owned(),
        format!("\"name\": {}", text(name)),
        format!("\"version\": {}", text(version)),
        format!("\"purl\": {}", text(&format!("pkg:cargo/{name}@{version}"))),
    ];
    if !license.is_empty() {
        fields.push(format!("\"licenses\": [{{\"expression\": {}}}]", text(license)));
    }
    if let Some(sum) = checksum {
        fields.push(format!("\"hashes\": [{{\"alg\": \"SHA-256\", \"content\": {}}}]", text(sum)));
    }
    format!("{{{}}}", fields.join(", "))
}

/// The C library that a crate brings.
fn bundled(part: &BillPart) -> Option<String> {
    let (_, name) = BUNDLED.iter().find(|(brings, _)| *brings == part.name)?;
    let version = part.version.split_once('+')?.1.trim_start_matches("zstd.");
    Some(format!(
        "{{\"type\": \"library\", \"name\": {}, \"version\": {}, \"purl\": {}}}",
        text(name),
        text(version),
        text(&format!("pkg:generic/{name}@{version}"))
    ))
}

/// A text as JSON has it.
fn text(plain: &str) -> String {
    let mut json = String::from("\"");
    for c in plain.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_is_listed_once() {
        let tree = "eds v0.1.0 (/home/ada/eds)|MIT\nserde v1.0.2|MIT OR Apache-2.0\nsyn v2.0.1 \
                    (proc-macro)|MIT/Apache-2.0\nserde v1.0.2|MIT OR Apache-2.0 (*)\n";
        let found: Vec<_> =
            parts(tree).into_iter().map(|p| (p.name, p.version, p.license)).collect();
        let expected =
            [("serde", "1.0.2", "MIT OR Apache-2.0"), ("syn", "2.0.1", "MIT OR Apache-2.0")]
                .map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_c_library_has_its_own_version() {
        let part = |name: &str, version: &str| BillPart {
            name: name.into(),
            version: version.into(),
            license: String::new(),
        };
        let found = bundled(&part("zstd-sys", "2.0.16+zstd.1.5.7")).unwrap_or_default();
        assert!(found.contains("\"zstd\", \"version\": \"1.5.7\""), "{found}");
        assert_eq!(bundled(&part("serde", "1.0.0+x")), None);
        assert_eq!(text("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }
}
