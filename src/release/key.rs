//! The key for releases, and what it has signed: neither may be revoked or past its time.

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{Duration, KeyDetails, Timestamp};

/// Whether the owner of `key`, an armored OpenPGP key, signed `content`; `now`: Unix seconds.
pub fn verify(key: &str, signature: &[u8], content: &[u8], now: u64) -> Result<(), String> {
    let (key, _) = SignedPublicKey::from_string(key)
        .map_err(|e| format!("the key for releases cannot be read: {e}"))?;
    key.verify_bindings().map_err(|e| format!("the key for releases is broken: {e}"))?;
    let name = key.fingerprint();
    if !key.details.revocation_signatures.is_empty() {
        return Err(format!("key {name} was revoked by its owner: --release-key names its heir"));
    }
    if is_over(key.created_at(), expiry_by(own_signatures(&key)), now) {
        return Err(format!("key {name} has expired: --release-key names its heir"));
    }
    let (signature, _) = DetachedSignature::from_reader_single(signature)
        .map_err(|e| format!("its signature cannot be read: {e}"))?;
    let by_subkey = key.public_subkeys.iter().filter(|subkey| may_sign(subkey, now));
    let good = signature.verify(&key, content).is_ok()
        || by_subkey.into_iter().any(|subkey| signature.verify(&subkey.key, content).is_ok());
    let of = &signature.signature;
    match (good, of.created()) {
        (true, Some(at)) if !is_over(at, of.signature_expiration_time(), now) => Ok(()),
        (true, _) => Err("its signature has expired".into()),
        (false, _) => Err(format!("its signature is not by key {name}")),
    }
}

/// What the key says about itself.
fn own_signatures(key: &SignedPublicKey) -> impl Iterator<Item = &Signature> {
    let of_users = key.details.users.iter().flat_map(|user| &user.signatures);
    key.details.direct_signatures.iter().chain(of_users)
}

/// How long a key holds, as the last of these signatures says; `None`: for ever.
fn expiry_by<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<Duration> {
    let last = signatures.max_by_key(|signature| signature.created().map(Timestamp::as_secs))?;
    last.key_expiration_time()
}

/// Whether `life` after `begun` is over; a life of 0 is one without an end.
fn is_over(begun: Timestamp, life: Option<Duration>, now: u64) -> bool {
    life.map(|life| u64::from(life.as_secs()))
        .is_some_and(|life| life > 0 && u64::from(begun.as_secs()) + life <= now)
}

fn may_sign(subkey: &SignedPublicSubKey, now: u64) -> bool {
    let is =
        |wanted: SignatureType| subkey.signatures.iter().filter(move |s| s.typ() == Some(wanted));
    is(SignatureType::SubkeyRevocation).next().is_none()
        && is(SignatureType::SubkeyBinding).any(|binding| binding.key_flags().sign())
        && !is_over(subkey.key.created_at(), expiry_by(is(SignatureType::SubkeyBinding)), now)
}

#[cfg(test)]
mod tests {
    use pgp::composed::{ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
    use pgp::crypto::hash::HashAlgorithm;
    use pgp::packet::{SignatureConfig, Subpacket, SubpacketData};
    use pgp::types::Password;

    use super::*;

    type Tested = Result<(), Box<dyn std::error::Error>>;

    fn key() -> Result<SignedSecretKey, Box<dyn std::error::Error>> {
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("tests <tests@example.com>".into());
        Ok(params.build()?.generate(rand::thread_rng())?)
    }

    fn armored(key: &SignedPublicKey) -> Result<String, pgp::errors::Error> {
        key.to_armored_string(ArmorOptions::default())
    }

    /// A signature of the key about itself.
    fn about_itself(
        key: &SignedSecretKey,
        kind: SignatureType,
        more: Vec<SubpacketData>,
    ) -> Result<Signature, pgp::errors::Error> {
        let secret = &key.primary_key;
        let mut config = SignatureConfig::v4(kind, secret.algorithm(), HashAlgorithm::Sha256);
        let mut data = vec![
            SubpacketData::SignatureCreationTime(Timestamp::now()),
            SubpacketData::IssuerFingerprint(secret.fingerprint()),
        ];
        data.extend(more);
        config.hashed_subpackets =
            data.into_iter().map(Subpacket::regular).collect::<Result<_, _>>()?;
        config.sign_key(secret, &Password::empty(), &secret.public_key())
    }

    #[test]
    fn a_key_holds_until_it_expires_or_is_revoked() -> Tested {
        let key = key()?;
        let content = b"a release";
        let signature = DetachedSignature::sign_binary_data(
            rand::thread_rng(),
            &key.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha256,
            &content[..],
        )?;
        let signature = signature.to_armored_bytes(ArmorOptions::default())?;
        let now = u64::from(Timestamp::now().as_secs());
        let public = SignedPublicKey::from(key.clone());
        let said = |key: &SignedPublicKey, content: &[u8], now: u64| {
            armored(key).map(|key| verify(&key, &signature, content, now).err().unwrap_or_default())
        };
        assert_eq!(said(&public, content, now)?, "");
        assert!(said(&public, b"another", now)?.contains("is not by key"));

        let mut mortal = public.clone();
        let life = SubpacketData::KeyExpirationTime(Duration::from_secs(3_600));
        let sealed = about_itself(&key, SignatureType::Key, vec![life])?;
        mortal.details.users.clear();
        mortal.details.direct_signatures.push(sealed);
        assert_eq!(said(&mortal, content, now + 60)?, "");
        assert!(said(&mortal, content, now + 7_200)?.contains("has expired"));

        let mut revoked = public;
        let end = about_itself(&key, SignatureType::KeyRevocation, Vec::new())?;
        revoked.details.revocation_signatures.push(end);
        assert!(said(&revoked, content, now)?.contains("was revoked"));
        Ok(())
    }
}
