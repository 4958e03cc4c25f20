//! Schemas that the program itself has: the demo's and the tests'.

/// Schemas of the program itself.
#[derive(Clone, Debug, Default)]
pub struct FixedSchemas {
    /// As JSON texts.
    pub texts: Vec<String>,
    /// They cannot be had now, as if they were elsewhere.
    pub is_away: bool,
}

impl From<Vec<String>> for FixedSchemas {
    fn from(texts: Vec<String>) -> FixedSchemas {
        FixedSchemas { texts, is_away: false }
    }
}
