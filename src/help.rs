//! The codes of errors that a user can meet, and the page about each: `eds explain` shows it.

/// Defines the codes with their numbers; each has its page in `docs/errors`.
macro_rules! help_codes {
    ($($(#[$meaning:meta])* $variant:ident = $number:literal,)*) => {
        /// What a user can do about an error: errors with the same cure have the same code.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum HelpCode {
            $($(#[$meaning])* $variant,)*
        }

        impl HelpCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &[HelpCode] = &[$(HelpCode::$variant,)*];

            /// The code as errors end with it: `EDS-303`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(HelpCode::$variant => concat!("EDS-", $number),)*
                }
            }

            /// Its page, in Markdown.
            pub const fn page(self) -> &'static str {
                match self {
                    $(HelpCode::$variant => {
                        include_str!(concat!("../docs/errors/EDS-", $number, ".md"))
                    })*
                }
            }
        }
    };
}

help_codes! {
    /// An argument or a setting is wrong.
    Arguments = 101,
    /// There is no destination URL, or it cannot be used.
    DestinationUrl = 102,
    /// The rules of `--schema-validator` cannot be read.
    Rules = 103,
    /// This build lacks what was asked for.
    NotInBuild = 104,
    /// config.toml cannot be read or written.
    ConfigFile = 105,
    /// What was asked for does not exist.
    NotThere = 106,
    /// The command did not come to its end, for another reason.
    Failed = 107,
    /// The file of a secret cannot be read.
    SecretFile = 108,
    /// The server is not enrolled, or does not know where HQ is.
    NotEnrolled = 109,
    /// The doctor has found problems.
    DoctorProblems = 110,
    /// No running EDS answers at the port, or it is not well.
    NotServing = 111,
    /// Another EDS uses the data directory.
    DataDirInUse = 201,
    /// The data directory or its state cannot be used.
    DataDir = 202,
    /// A file cannot be written.
    FileUnwritable = 203,
    /// The machine does not let the program run.
    Machine = 204,
    /// The destination cannot be reached, or ends sessions.
    DestinationUnavailable = 301,
    /// The destination's settings are wrong.
    DestinationSettings = 302,
    /// The destination refuses the login.
    DestinationLogin = 303,
    /// A right is missing at the destination.
    DestinationRight = 304,
    /// The database, schema or warehouse is missing.
    DatabaseMissing = 305,
    /// The destination only reads.
    DestinationReadOnly = 306,
    /// The destination's disk is full, or a quota used up.
    DestinationFull = 307,
    /// A pooler shares sessions.
    Pooler = 308,
    /// No encrypted connection to the destination.
    DestinationTls = 309,
    /// Another process writes with the same checkpoint.
    TakenOver = 310,
    /// The destination has another consumer's checkpoint.
    OtherCheckpoint = 311,
    /// A table cannot be written now.
    TableUnavailable = 401,
    /// A table that EDS did not make.
    TableNotOurs = 402,
    /// A table in which rows would not be safe.
    TableUnsafe = 403,
    /// A table's primary key is another one now.
    TableKey = 404,
    /// A table does not fit into the destination.
    TableDoesNotFit = 405,
    /// Another session holds a lock on a table.
    TableLocked = 406,
    /// A table has another shape than EDS needs.
    TableShape = 407,
    /// A row that others refer to is missing.
    ForeignKey = 408,
    /// A schema change waits for a person.
    SchemaChangeHeld = 409,
    /// Rows differ from the export.
    RowsDiffer = 410,
    /// Dead letter: a message is no change event.
    LetterMalformed = 501,
    /// Dead letter: nobody knows the schema.
    LetterUnknownSchema = 502,
    /// Dead letter: the event does not fit its schema.
    LetterInvalidRow = 503,
    /// Dead letter: the destination refuses the row.
    LetterRefused = 504,
    /// No more dead letters may be kept.
    LettersFull = 505,
    /// Dead letters were not applied when they were retried.
    LettersNotApplied = 506,
    /// Too many held changes are kept.
    HeldFull = 507,
    /// NATS cannot be reached.
    NatsUnavailable = 601,
    /// NATS refuses the login.
    NatsLogin = 602,
    /// The stream or consumer cannot be used.
    NatsStream = 603,
    /// Another process reads with the same consumer.
    ConsumerTaken = 604,
    /// A journal cannot be read.
    Journal = 605,
    /// HQ refuses the server, or the enrolment.
    HqRefused = 701,
    /// Schemas are needed and there are none.
    SchemasMissing = 702,
    /// A release cannot be downloaded or verified.
    Release = 703,
    /// The worker of a server failed.
    WorkerFailed = 704,
    /// The place of the schemas cannot be read, or has none.
    SchemasUnreadable = 705,
    /// An import cannot be done as asked.
    ImportRefused = 801,
    /// An import ended before its end.
    ImportFailed = 802,
    /// A row of an export cannot be read.
    ImportBadRow = 803,
    /// An export's file is damaged.
    ImportDamagedFile = 804,
}

/// How a code begins behind a text.
const OPENING: &str = " [EDS-";

impl HelpCode {
    /// The code that a user names: `EDS-303`, `eds-303`, `303`, with or without brackets.
    pub fn named(text: &str) -> Option<HelpCode> {
        let word = text.trim().trim_start_matches('[').trim_end_matches(']').to_uppercase();
        let is_it = |code: &&HelpCode| {
            code.as_str() == word || code.as_str().strip_prefix("EDS-") == Some(&*word)
        };
        HelpCode::ALL.iter().find(is_it).copied()
    }

    /// The text with the code behind it. A text that ends with a code keeps that: it says more than
    /// what is known further out.
    pub fn tag(self, text: &str) -> String {
        match ends_with_code(text) {
            true => text.to_owned(),
            false => format!("{text} [{}]", self.as_str()),
        }
    }

    /// The page's title without the code: what the error is, in one line.
    pub fn title(self) -> &'static str {
        let first = self.page().lines().next().unwrap_or_default();
        first.split_once(": ").map_or(first, |(_, title)| title)
    }
}

fn ends_with_code(text: &str) -> bool {
    taken_apart(text).1.is_some()
}

/// A text and the code that it ends with.
pub fn taken_apart(text: &str) -> (&str, Option<HelpCode>) {
    let parts = text.rsplit_once(OPENING).and_then(|(before, code)| {
        let code = HelpCode::named(code.strip_suffix(']')?)?;
        Some((before, Some(code)))
    });
    parts.unwrap_or((text, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_gets_one_code_the_innermost() {
        let inner = HelpCode::DestinationLogin.tag("no entry");
        assert_eq!(inner, "no entry [EDS-303]");
        assert_eq!(taken_apart(&inner), ("no entry", Some(HelpCode::DestinationLogin)));
        assert_eq!(HelpCode::Failed.tag(&inner), inner);
        assert_eq!(HelpCode::Failed.tag("see [EDS-999]"), "see [EDS-999] [EDS-107]");
        assert_eq!(HelpCode::Failed.tag("[EDS-303] said so"), "[EDS-303] said so [EDS-107]");
    }

    #[test]
    fn codes_are_found_as_people_write_them() {
        for text in ["EDS-303", "eds-303", "303", "[EDS-303]", " 303 "] {
            assert_eq!(HelpCode::named(text), Some(HelpCode::DestinationLogin), "{text}");
        }
        for text in ["", "EDS", "3030", "EDS303", "99"] {
            assert_eq!(HelpCode::named(text), None, "{text}");
        }
    }

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        assert!(HelpCode::ALL.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
    }
}
