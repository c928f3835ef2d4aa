//! One run of an ingest: sessions, each from the stored positions to the next failure.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broker::Arrival;
use crate::consumer::stop::listener::{StopListener, StopRequest};
use crate::engine::SourceReader;
use crate::error::{Error, Result, error_chain};
use crate::ingest::partitions::Partitions;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::ingest::{IngestReport, IngestState};
use crate::observe::report::StopReason;

/// The pause after a failure. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an ingest that waits for another one looks whether that has ended, and how often one that
/// works looks whether it is still alone.
const SEAT_EVERY: Duration = Duration::from_secs(1);

/// A run of an ingest.
pub(super) struct Run {
    partitions: Partitions,
    queue: QueueName,
    batch_size: usize,
    until_idle: bool,
    /// The source has answered at least once.
    has_read: bool,
    seat: Option<Box<dyn SourceReader>>,
    confirmed: Instant,
}

impl Run {
    pub(super) fn new(
        partitions: Partitions,
        queue: QueueName,
        batch_size: usize,
        until_idle: bool,
    ) -> Self {
        Self {
            partitions,
            queue,
            batch_size,
            until_idle,
            has_read: false,
            seat: None,
            confirmed: Instant::now(),
        }
    }

    /// Runs until it is stopped.
    pub(super) async fn drive(mut self, mut stops: StopListener) -> Result<IngestReport> {
        let began = Instant::now();
        let ended = self.sessions(&mut stops).await;
        self.partitions.close().await;

        let status = &self.partitions.status;
        let report = IngestReport {
            reason: ended?,
            stored: status.stored(),
            dead_lettered: status.dead_lettered(),
            elapsed: began.elapsed(),
        };
        tracing::info!(source = status.source, queue = %self.queue, "ingest {report}");
        Ok(report)
    }

    /// Sessions, with a pause after each that failed.
    async fn sessions(&mut self, stops: &mut StopListener) -> Result<StopReason> {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let error = match self.session(stops).await {
                Ok(reason) => return Ok(reason),
                Err(error) => error,
            };
            // Nothing was read yet, and nothing will change by itself.
            if !self.has_read && !error.is_transient() {
                return Err(error);
            }

            self.note(&error);
            // A session that went well for a while begins the pauses anew.
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => {}
                request = stops.next() => return Ok(request.reason()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Logs a failure once, and keeps it for health.
    fn note(&self, error: &Error) {
        let status = &self.partitions.status;
        if status.fails(error) {
            let source = &status.source;
            let error = error_chain(error);
            warn!(
                source,
                error, "messages cannot be taken in at present: they wait at the broker"
            );
        }
    }

    /// Reads and stores until a stop or a failure.
    async fn session(&mut self, stops: &mut StopListener) -> Result<StopReason> {
        if let Some(reason) = self.take_seat(stops).await? {
            return Ok(reason);
        }
        // Somebody may have dropped the queue since the last session.
        self.partitions.engine.ensure_queue(&self.queue).await?;
        self.partitions.seek_all().await?;

        loop {
            if let Some(reason) = stops.requested() {
                return Ok(reason);
            }
            let arrival = tokio::select! {
                arrival = self.partitions.source.next(self.batch_size) => arrival?,
                // What the dropped call had read comes again: nothing of it is stored.
                request = stops.next() => return Ok(request.reason()),
            };

            match arrival {
                // The broker gave partitions, or this is the first call.
                Arrival::Assigned(partitions) => {
                    self.partitions.assign(partitions).await?;
                    continue;
                }
                // Nothing came: the time to ask whether the broker still answers.
                Arrival::Messages(messages) if messages.is_empty() => {
                    if self.until_idle {
                        return Ok(StopReason::Idle);
                    }
                    self.partitions.check().await?;
                }
                // What was read is stored even if a stop is asked for meanwhile.
                Arrival::Messages(messages) => {
                    let storing = self.partitions.take_in(messages);
                    if let Some(reason) = finish(storing, stops).await? {
                        return Ok(reason);
                    }
                }
            }
            self.works();
            self.confirm_seat().await?;
        }
    }

    fn works(&mut self) {
        self.has_read = true;
        let status = &self.partitions.status;
        status.set_state(IngestState::Running);
        if status.works() {
            tracing::info!(source = status.source, "messages are taken in again");
        }
    }

    /// Waits until no other ingest reads the source, unless its broker divides the partitions. Returns why it
    /// was stopped, if it was.
    async fn take_seat(&mut self, stops: &mut StopListener) -> Result<Option<StopReason>> {
        if self.partitions.source.capabilities().divided {
            return Ok(None);
        }
        self.confirmed = Instant::now();
        // It is kept across sessions that failed, unless the failure was that of the database.
        if let Some(seat) = &mut self.seat
            && seat.confirm().await.is_ok()
        {
            return Ok(None);
        }
        self.seat = None;

        let positions = Partitions::positions(&*self.partitions.engine)?;
        loop {
            self.seat = positions.elect_reader(&self.partitions.name).await?;
            if self.seat.is_some() {
                return Ok(None);
            }
            // A session that ended without notice gives its seat back when the server sees that.
            self.partitions.status.set_state(IngestState::Waiting);
            self.partitions.status.works();
            tokio::select! {
                () = sleep(SEAT_EVERY) => {}
                request = stops.next() => return Ok(Some(request.reason())),
            }
        }
    }

    /// Looks from time to time whether no other ingest has begun to read the source, as one may after a
    /// connection was lost. Two would disturb each other, and store nothing twice.
    async fn confirm_seat(&mut self) -> Result<()> {
        if self.confirmed.elapsed() < SEAT_EVERY {
            return Ok(());
        }
        self.confirmed = Instant::now();
        match &mut self.seat {
            Some(seat) => seat.confirm().await,
            None => Ok(()),
        }
    }
}

/// Lets a step come to its end after a request to finish, and drops it after one to cancel. Returns why it
/// was dropped, if it was.
async fn finish(
    step: impl Future<Output = Result<()>>,
    stops: &mut StopListener,
) -> Result<Option<StopReason>> {
    let mut step = pin!(step);
    loop {
        tokio::select! {
            ended = &mut step => return ended.map(|()| None),
            request = stops.next() => {
                if let StopRequest::Cancel(reason) = request {
                    return Ok(Some(reason));
                }
            }
        }
    }
}
