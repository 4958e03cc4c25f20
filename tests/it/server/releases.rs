//! Releases: what is fetched is genuine, and exactly the program.

use std::path::{Path, PathBuf};

use eds::release::archive_name;
use pgp::composed::{
    ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::types::Password;

use crate::services::hq::said;
use crate::services::site::Site;

/// Somebody who publishes releases, with a key of their own.
pub struct Publisher {
    key: SignedSecretKey,
    pub key_file: PathBuf,
    pub folder: PathBuf,
}

impl Publisher {
    pub fn new(dir: &Path) -> Publisher {
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("tests <tests@example.com>".into());
        let params = params.build().unwrap_or_else(|e| panic!("{e}"));
        let key = params.generate(rand::thread_rng()).unwrap_or_else(|e| panic!("{e}"));
        let public = SignedPublicKey::from(key.clone())
            .to_armored_string(ArmorOptions::default())
            .unwrap_or_else(|e| panic!("{e}"));
        let key_file = dir.join("release-key.asc");
        std::fs::write(&key_file, public).unwrap_or_else(|e| panic!("{e}"));
        Publisher { key, key_file, folder: dir.join("releases") }
    }

    /// A program that says that version, and is `program` in everything else.
    pub fn passing_on(&self, version: &str, program: &str) -> String {
        format!(
            "#!/bin/sh\nif [ \"$1\" = version ]; then echo {version}; exit 0; fi\nexec \
             '{program}' \"$@\"\n"
        )
    }

    pub fn release(&self, version: &str, program: &(impl AsRef<[u8]> + ?Sized)) {
        self.publish(version, &archive(&[("eds", program.as_ref())]));
    }

    /// An archive and its signature.
    pub fn publish(&self, version: &str, archive: &[u8]) {
        let folder = self.folder.join("download").join(format!("v{version}"));
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{e}"));
        let signature = DetachedSignature::sign_binary_data(
            rand::thread_rng(),
            &self.key.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha256,
            archive,
        );
        let signature = signature
            .and_then(|s| s.to_armored_string(ArmorOptions::default()))
            .unwrap_or_else(|e| panic!("{e}"));
        let write = |name: String, content: &[u8]| {
            std::fs::write(folder.join(name), content).unwrap_or_else(|e| panic!("{e}"));
        };
        write(archive_name(), archive);
        write(format!("{}.asc", archive_name()), signature.as_bytes());
    }
}

pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, name, *content).unwrap_or_else(|e| panic!("{e}"));
    }
    tar.into_inner().and_then(|gzip| gzip.finish()).unwrap_or_else(|e| panic!("{e}"))
}

/// Only what the owner of the key signed, of exactly the expected form, is taken.
#[tokio::test(flavor = "multi_thread")]
async fn only_genuine_releases_are_taken() {
    let site = Site::new("releases", 63).await;
    let publisher = Publisher::new(site.dir.path());
    let elsewhere = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let stranger =
        Publisher { folder: publisher.folder.clone(), ..Publisher::new(elsewhere.path()) };
    publisher.release("1.0.0", "#!/bin/sh\necho 1.0.0\n");
    stranger.release("1.0.1", "#!/bin/sh\necho 1.0.1\n");
    publisher.publish("1.0.2", &archive(&[("eds", b"x"), ("install.sh", b"y")]));
    publisher.release("1.0.3", "#!/bin/sh\necho 1.0.3\n");
    let changed = publisher.folder.join("download/v1.0.3").join(archive_name());
    std::fs::write(&changed, archive(&[("eds", b"#!/bin/sh\necho changed\n")]))
        .unwrap_or_else(|e| panic!("{e}"));
    site.hq.serve_releases(publisher.folder.clone());
    let to = site.dir.path().join("new");
    let (url, key, to_word) = (
        format!("{}/releases", site.hq.url()),
        publisher.key_file.display().to_string(),
        to.display().to_string(),
    );
    let download = |version: &'static str, key: Option<String>| {
        let mut words: Vec<String> = ["download", version, &to_word, "--release-url", &url]
            .into_iter()
            .map(str::to_owned)
            .collect();
        words.extend(key.into_iter().flat_map(|key| ["--release-key".to_owned(), key]));
        let site = &site;
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = site.run(&words).await;
            (output.status.code(), said(&output))
        }
    };
    for (version, expected) in [
        ("1.0.1", "is not genuine: its signature is not by key"),
        ("1.0.2", "where only the file \"eds\" belongs"),
        ("1.0.3", "is not genuine: its signature is not by key"),
        ("2.0.0", "it answered 404"),
        ("../1.0.0", "is not a version such as 1.2.3"),
    ] {
        let (code, said) = download(version, Some(key.clone())).await;
        assert!(code == Some(1) && said.contains(expected), "{version}: {said}");
        assert!(!to.exists(), "{version}");
    }
    // The built-in key is another one.
    let (code, said) = download("1.0.0", None).await;
    assert!(code == Some(1) && said.contains("is not genuine"), "{said}");
    let (code, said) = download("v1.0.0", Some(key)).await;
    assert!(code == Some(0) && said.contains("its signature is good"), "{said}");
    let output =
        std::process::Command::new(&to).arg("version").output().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1.0.0\n");
}

/// HQ cannot have the program replaced where its owner does not want it, by a release that lies
/// about its version, or by one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_refused_says_why() {
    let site = Site::new("updates", 64).await;
    let publisher = Publisher::new(site.dir.path());
    publisher.release("1.0.0", "#!/bin/sh\necho 0.9.0\n");
    site.hq.serve_releases(publisher.folder.clone());
    site.enroll().await;
    let (url, key) =
        (format!("{}/releases", site.hq.url()), publisher.key_file.display().to_string());
    let never = site.server(&["--self-update", "never", "--release-url", &url]);
    let answer = site
        .order(&site.session(0).await, "upgrade", serde_json::json!({"version": "1.0.0"}))
        .await;
    assert!(
        answer["success"] == false
            && answer["message"].as_str().is_some_and(|m| m.contains("--self-update never")),
        "{answer}"
    );
    assert!(never.stop().status.success());
    let always =
        site.server(&["--self-update=always", "--release-url", &url, "--release-key", &key]);
    let session = site.session(1).await;
    for (version, expected) in
        [("1.0.0", "says that it is version \"0.9.0\""), ("1.0.1", "it answered 404")]
    {
        let answer =
            site.order(&session, "upgrade", serde_json::json!({ "version": version })).await;
        assert!(
            answer["success"] == false
                && answer["message"].as_str().is_some_and(|m| m.contains(expected)),
            "{answer}"
        );
    }
    assert!(always.stop().status.success());
}
