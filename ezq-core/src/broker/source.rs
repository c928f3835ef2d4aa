//! [`Source`]: where messages come from that ezq takes in.

use async_trait::async_trait;

use crate::broker::{Inbound, SourcePosition};
use crate::error::Result;

/// A broker that gives messages. One ingest owns it, and calls one method at a time.
///
/// The database remembers how far each partition is stored, in the transaction that stores the messages.
/// So a message is stored once, if the source keeps two rules:
///
/// - **[`seek`](Self::seek) decides.** A partition goes on right after the position that it was given,
///   whatever the broker itself remembers.
/// - **[`next`](Self::next) leaves no gap.** It gives the messages of a partition in the order of their
///   positions, and leaves none out that the broker still has.
///
/// ```
/// use std::fs::File;
/// use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
/// use std::time::Duration;
///
/// use ezq_core::async_trait;
/// use ezq_core::broker::{Arrival, Inbound, Source, SourceCapabilities, SourcePosition};
/// use ezq_core::{Error, ErrorKind, Result};
///
/// /// Gives the lines of a file that grows. The position of a line is where it ends.
/// struct Lines {
///     path: String,
///     reader: Option<BufReader<File>>,
/// }
///
/// impl Lines {
///     fn failed(&self, error: std::io::Error) -> Error {
///         let text = format!("the file `{}` cannot be read", self.path);
///         Error::new(ErrorKind::Transient, text).with_source(error)
///     }
/// }
///
/// #[async_trait]
/// impl Source for Lines {
///     fn name(&self) -> &str {
///         &self.path
///     }
///
///     fn capabilities(&self) -> &SourceCapabilities {
///         const { &SourceCapabilities::new("lines") }
///     }
///
///     async fn next(&mut self, max: usize) -> Result<Arrival> {
///         let Some(mut reader) = self.reader.take() else {
///             return Ok(Arrival::Assigned(vec!["0".to_owned()]));
///         };
///         let mut messages = Vec::new();
///         while messages.len() < max {
///             let start = reader.stream_position().map_err(|error| self.failed(error))?;
///             let mut line = Vec::new();
///             reader.read_until(b'\n', &mut line).map_err(|error| self.failed(error))?;
///             if line.pop() != Some(b'\n') {
///                 // Its writer is not done with it.
///                 reader.seek(SeekFrom::Start(start)).map_err(|error| self.failed(error))?;
///                 break;
///             }
///             let end = start + line.len() as u64 + 1;
///             messages.push(Inbound::new("0", SourcePosition::from(end), line));
///         }
///         self.reader = Some(reader);
///         if messages.is_empty() {
///             tokio::time::sleep(Duration::from_millis(100)).await;
///         }
///         Ok(Arrival::Messages(messages))
///     }
///
///     async fn seek(
///         &mut self,
///         _partition: &str,
///         after: Option<SourcePosition>,
///     ) -> Result<Option<SourcePosition>> {
///         let mut file = File::open(&self.path).map_err(|error| self.failed(error))?;
///         let start = after.map_or(0, SourcePosition::major);
///         file.seek(SeekFrom::Start(start)).map_err(|error| self.failed(error))?;
///         self.reader = Some(BufReader::new(file));
///         Ok(after)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let path = std::env::temp_dir().join(format!("lines-{}", std::process::id()));
/// # std::fs::write(&path, "{\"order\":1}\n{\"order\":2}\n{\"ord").unwrap();
/// # let mut lines = Lines { path: path.to_string_lossy().into_owned(), reader: None };
/// # let Arrival::Assigned(partitions) = lines.next(10).await? else { panic!() };
/// # lines.seek(&partitions[0], None).await?;
/// # let Arrival::Messages(all) = lines.next(10).await? else { panic!() };
/// # assert_eq!(all.len(), 2);
/// # let Arrival::Messages(none) = lines.next(10).await? else { panic!() };
/// # assert!(none.is_empty());
/// # lines.seek("0", Some(all[0].position())).await?;
/// # let Arrival::Messages(second) = lines.next(10).await? else { panic!() };
/// # assert_eq!(second[0].body(), b"{\"order\":2}");
/// # std::fs::remove_file(path).unwrap();
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Source: Send + 'static {
    /// What names the source for good. Positions are stored under it, so it must not change between two
    /// runs, and no two sources may share it. It is the `source` of events that name none themselves, and
    /// must hold no secret. A broker's address without credentials is a good name.
    fn name(&self) -> &str;

    /// What the source can do. It must not change.
    fn capabilities(&self) -> &SourceCapabilities;

    /// Waits up to about a second, and answers what has come: partitions, up to `max` messages, or no
    /// messages.
    ///
    /// # Errors
    /// When the broker could not be asked. The caller waits, [seeks](Self::seek) every partition again and
    /// goes on. An error that is not [transient](crate::Error::is_transient) ends an ingest that has read
    /// nothing yet.
    ///
    /// # Cancel safety
    /// It need not be cancel safe: after a dropped call, the caller seeks again or closes.
    async fn next(&mut self, max: usize) -> Result<Arrival>;

    /// Makes a partition go on right after a position, which is the last one that is stored. The message at
    /// the position itself may be gone. Nothing that was buffered of the partition comes any more.
    ///
    /// `None` means that nothing of the partition is stored yet. The source then begins where it was
    /// configured to. It answers the position after which it goes on, or `None` for the very beginning.
    /// The answer is stored at once, so that another start in the meantime changes nothing: a source that
    /// begins at the end would otherwise leave out what came between two attempts.
    ///
    /// It is called when the partition is [assigned](Arrival::Assigned), and after every failure. For a
    /// partition that the broker has taken away since, it does nothing and answers `after`.
    ///
    /// # Errors
    /// When the broker could not be asked. [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if
    /// the partition ends before the position: then it is not the one that was read before.
    async fn seek(
        &mut self,
        partition: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>>;

    /// Tells the broker that partitions are stored up to these positions, so that it may acknowledge or
    /// drop them. Nothing rests on it: it may come late, twice, or never. By default it does nothing.
    ///
    /// # Errors
    /// When the broker could not be told. That is logged, and not repeated.
    async fn commit(&mut self, stored: &[(String, SourcePosition)]) -> Result<()> {
        let _ = stored;
        Ok(())
    }

    /// Checks whether the broker answers. It is asked while nothing comes. By default it does, which is
    /// right if [`next`](Self::next) fails where the broker is away.
    ///
    /// # Errors
    /// What keeps the broker from answering.
    async fn health_check(&mut self) -> Result<()> {
        Ok(())
    }

    /// Gives partitions back and closes connections. By default it does nothing.
    async fn close(&mut self) {}
}

/// What [`Source::next`] answers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Arrival {
    /// Partitions that are this source's to read from now on. Each is [sought](Source::seek) before the
    /// next call, and gives no message before that. A source of fixed partitions answers it to its first
    /// call; one whose broker divides partitions, whenever it got some, those that it had before included
    /// if they were taken away in between.
    Assigned(Vec<String>),
    /// Messages, those of each partition in the order of their positions. None if nothing came.
    Messages(Vec<Inbound>),
}

/// What a source can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceCapabilities {
    /// The kind of source in logs and errors.
    pub name: &'static str,
    /// The broker divides the partitions between several sources of one group. Without it, one ingest of
    /// several of the same name works, and the others wait for it to end.
    pub divided: bool,
    /// [`Source::commit`] tells the broker something.
    pub commits: bool,
}

impl SourceCapabilities {
    /// The capabilities of a source that can do nothing optional.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            divided: false,
            commits: false,
        }
    }

    /// The broker divides the partitions between several sources of one group.
    #[must_use]
    pub const fn divided(mut self) -> Self {
        self.divided = true;
        self
    }

    /// [`Source::commit`] tells the broker something.
    #[must_use]
    pub const fn commits(mut self) -> Self {
        self.commits = true;
        self
    }
}
