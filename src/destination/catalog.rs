//! The destinations of this build: one line each.

use super::Driver;

/// All drivers that were compiled in.
pub const DRIVERS: &[Driver] = &[
    #[cfg(feature = "postgres")]
    super::sql::postgres::DRIVER,
    #[cfg(feature = "mysql")]
    super::sql::mysql::DRIVER,
    #[cfg(feature = "sqlserver")]
    super::sql::sqlserver::DRIVER,
    #[cfg(feature = "snowflake")]
    super::sql::snowflake::DRIVER,
    #[cfg(feature = "snowflake")]
    super::sql::snowflake::KEY_PAIR_DRIVER,
    #[cfg(feature = "s3")]
    super::objects::s3::DRIVER,
    #[cfg(feature = "kafka")]
    super::messages::kafka::DRIVER,
    #[cfg(feature = "eventhubs")]
    super::messages::eventhubs::DRIVER,
    #[cfg(feature = "sqlite")]
    super::sql::sqlite::DRIVER,
    #[cfg(feature = "file")]
    super::objects::file::DRIVER,
];
