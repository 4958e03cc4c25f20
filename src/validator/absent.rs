//! Stands for the user's rules in a build without the feature `validator`.

use std::path::Path;

/// No value exists.
#[cfg(not(feature = "validator"))]
pub enum Validator {}

#[cfg(not(feature = "validator"))]
impl Validator {
    /// Always an error, which names the feature.
    pub fn load(_dir: &Path) -> Result<Validator, String> {
        Err("this build has no validator (feature validator)".into())
    }

    /// Never called: there is no value of this type.
    pub fn wants(&self, _table: &str, _event: &str) -> bool {
        match *self {}
    }

    /// Never called: there is no value of this type.
    pub fn path(
        &self,
        _table: &str,
        _event: &str,
        _encode: impl Fn(&str) -> String,
    ) -> Option<String> {
        match *self {}
    }
}
