//! Why a command failed, and the exit code that says so.

use std::fmt;
use std::io;

use ezq::error::error_chain;
use ezq::{Error, ErrorKind};

/// The exit codes, as docs/cli.md promises them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Error,
    Usage,
    NotFound,
    Refused,
    /// All is said already.
    Silent(u8),
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    text: String,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::new(Code::Error, text)
    }

    /// The command line, or a file that it names, is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Code::Usage, text)
    }

    /// What the command names does not exist.
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Code::NotFound, text)
    }

    /// Nobody confirmed what the command would destroy.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::new(Code::Refused, text)
    }

    /// Nothing more is to be said, but the exit code.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new(Code::Silent(code), "")
    }

    /// Whether the command line, or a file that it names, is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        self.code == Code::Usage
    }

    fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// The exit code that says so.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.code {
            Code::Error => 1,
            Code::Usage => 2,
            Code::NotFound => 3,
            Code::Refused => 4,
            Code::Silent(code) => code,
        }
    }

    /// What is still to be said.
    pub(crate) fn text(&self) -> Option<&str> {
        (!matches!(self.code, Code::Silent(_))).then_some(&*self.text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::QueueMissing | ErrorKind::ScheduleMissing | ErrorKind::OperationMissing => {
                Code::NotFound
            }
            ErrorKind::Configuration
            | ErrorKind::InvalidEvent
            | ErrorKind::InvalidPattern
            | ErrorKind::InvalidQueueName
            | ErrorKind::ReservedHeader => Code::Usage,
            _ => Code::Error,
        };
        Self::new(code, error_chain(&error))
    }
}

/// Writing to stdout failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever reads the output has closed it: nothing is wrong.
            io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::error(format!("cannot write the output: {error}")),
        }
    }
}
