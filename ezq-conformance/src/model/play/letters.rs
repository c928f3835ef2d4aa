//! Operations on statistics and dead letters: looking at them, redriving and discarding.

use ezq_core::engine::DeadLetter;
use ezq_core::message::MessageId;

use super::super::operation::Pick;
use super::super::reference::Letter;
use super::{HALF_HOUR, Play, Result, apart, picked, span};
use crate::error::CaseResult;
use crate::stage::number_in;

/// The number of dead letters on a page.
const PAGE: usize = 3;

impl Play<'_> {
    pub(super) async fn look(&mut self, queue: usize) -> Result<bool> {
        let mut seen = self.stage.engine.stats(&self.queue(queue)).await?;
        let (wanted, oldest) = self.reference.stats(queue);
        let age = seen.oldest_ready.take();
        // The age was taken out: it also counts real time, and is compared by its own measure.
        check_eq!(seen, wanted, "statistics");

        let now = self.reference.now().half_hour;
        let wanted = oldest.map(|time| span(now - time.half_hour));
        let right = match (age, wanted) {
            (Some(age), Some(wanted)) => age.abs_diff(wanted) < HALF_HOUR / 2,
            (age, wanted) => age.is_none() && wanted.is_none(),
        };
        check!(
            right,
            "the oldest has been due for {wanted:?}, the engine says {age:?}"
        );

        self.look_at_letters(queue).await?;
        Ok(true)
    }

    async fn look_at_letters(&mut self, queue: usize) -> CaseResult {
        let seen = self.list_letters(queue).await?;
        let numbers: Vec<i64> = seen.iter().map(|letter| number_in(&letter.body)).collect();
        self.compare_numbers(queue, numbers.clone())?;

        let mut last = (0, 0);
        for (letter, number) in seen.into_iter().zip(numbers) {
            let wanted = self
                .reference
                .letters(queue)
                .find(|wanted| wanted.message.number == number);
            let Some(wanted) = wanted.cloned() else {
                continue;
            };

            // Those that one call buried may stand in any order.
            check!(
                last <= wanted.died.moment(),
                "dead letters out of order at message {number}"
            );
            last = wanted.died.moment();
            self.compare_letter(&letter, &wanted)?;

            if wanted.id.is_none() {
                self.reference.learn_letter_id(number, &letter.id);
                self.letter_ids[queue].push(letter.id);
            }
        }
        Ok(())
    }

    /// Lists the dead letters page by page. It ends once it has as many as the reference, so that an
    /// engine that returns one page again and again does not keep it here.
    async fn list_letters(&self, queue: usize) -> Result<Vec<DeadLetter>> {
        let name = self.queue(queue);
        let mut seen = Vec::<DeadLetter>::new();
        loop {
            let after = seen.last().map(|letter| letter.id.clone());
            let page = self
                .stage
                .dead_letters()?
                .list(&name, after.as_ref(), PAGE)
                .await?;
            check!(
                page.len() <= PAGE,
                "{} letters on a page of {PAGE}",
                page.len()
            );

            let is_full = page.len() == PAGE;
            seen.extend(page);
            let is_more = self.reference.letters(queue).count() > seen.len();
            if !(is_full && is_more) {
                return Ok(seen);
            }
        }
    }

    fn compare_numbers(&self, queue: usize, mut seen: Vec<i64>) -> CaseResult {
        let mut wanted: Vec<i64> = self
            .reference
            .letters(queue)
            .map(|letter| letter.message.number)
            .collect();
        seen.sort_unstable();
        wanted.sort_unstable();
        check_eq!(seen, wanted, "dead letters");
        Ok(())
    }

    fn compare_letter(&self, letter: &DeadLetter, wanted: &Letter) -> CaseResult {
        let number = wanted.message.number;
        check_eq!(
            letter.original_id,
            wanted.message.id,
            "the id that dead {number} had"
        );
        check_eq!(
            letter.reason.as_ref(),
            Some(&wanted.reason),
            "the reason of dead {number}"
        );

        let (had_died, headers) = apart(&letter.headers);
        check_eq!(
            had_died,
            wanted.message.had_died,
            "what dead {number} had died of before"
        );
        check_eq!(
            headers,
            wanted.message.headers(),
            "headers of dead {number}"
        );

        check!(
            self.is_about(letter.died_at, wanted.died),
            "when {number} died"
        );
        check!(
            self.is_about(letter.enqueued_at, wanted.message.stored),
            "when dead {number} was stored"
        );
        Ok(())
    }

    fn pick_letters(&self, queue: usize, picks: &[Pick]) -> Vec<MessageId> {
        let mut ids: Vec<MessageId> = Vec::new();
        for id in picks
            .iter()
            .filter_map(|pick| picked(&self.letter_ids[queue], *pick))
        {
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        ids
    }

    pub(super) async fn redrive(&mut self, queue: usize, picks: &[Pick]) -> Result<bool> {
        // Compared first, so that the ids of all letters are known to pick from.
        self.look(queue).await?;
        let ids = self.pick_letters(queue, picks);
        let letters = self.stage.dead_letters()?;
        let mut seen = letters.redrive(&self.queue(queue), &ids).await?;
        let mut wanted = ids;
        wanted.retain(|id| self.reference.redrive(queue, id));
        self.compare_ids(&mut seen, &mut wanted, "redriven")
    }

    pub(super) async fn discard(&mut self, queue: usize, picks: &[Pick]) -> Result<bool> {
        self.look(queue).await?;
        let ids = self.pick_letters(queue, picks);
        let letters = self.stage.dead_letters()?;
        let mut seen = letters.discard(&self.queue(queue), &ids).await?;
        let mut wanted = ids;
        wanted.retain(|id| self.reference.discard(queue, id).is_some());
        self.compare_ids(&mut seen, &mut wanted, "discarded")
    }

    fn compare_ids(
        &mut self,
        seen: &mut [MessageId],
        wanted: &mut [MessageId],
        what: &'static str,
    ) -> Result<bool> {
        seen.sort_unstable();
        wanted.sort_unstable();
        check_eq!(seen, wanted, "dead letters {what}");
        wanted.iter().for_each(|_| self.count(what));
        Ok(true)
    }
}
