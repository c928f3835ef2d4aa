//! The audit trail: what other calls record, and how it is filtered.

use ezq_core::engine::{AuditAction, AuditEntry, AuditRequest, Signature};

use super::operations::{ada, operations, told};
use crate::error::{CaseError, CaseResult};
use crate::stage::Stage;

cases![
    what_other_calls_do_is_recorded_before_and_counted_after,
    the_trail_is_filtered_by_who_what_and_when,
];

async fn what_other_calls_do_is_recorded_before_and_counted_after(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let queue = stage.queue.clone();
    let mut entry = AuditEntry::new(
        chrono::DateTime::UNIX_EPOCH,
        ada(),
        AuditAction::Purge,
        queue,
    );
    entry.handler = Some("shop::mail \"ä\"".into());
    entry.schedule = Some("it's hourly".to_owned());
    entry.application = Some("the <shop>".to_owned());
    entry.subject = Some("order.* \"ä\"".to_owned());
    let first = operations.record_act(&entry).await?;
    let second = operations.record_act(&entry).await?;
    check!(first != second, "two entries have one id");
    for seen in told(stage).await? {
        check!(
            seen.at > chrono::DateTime::UNIX_EPOCH,
            "the time is that of the caller"
        );
        entry.at = seen.at;
        check_eq!(seen, entry, "an entry that was recorded");
    }

    operations.record_count(&first, 7).await?;
    operations.record_count(&second, 0).await?;
    let counts: Vec<_> = told(stage).await?.iter().map(|one| one.count).collect();
    check_eq!(counts, [Some(7)], "what was done to something");
    Ok(())
}

async fn the_trail_is_filtered_by_who_what_and_when(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let at = chrono::DateTime::UNIX_EPOCH;
    let names = ["Ada", "it's <Bob>", "Ada", "ada", "Ada"];
    let actions = [
        AuditAction::Pause,
        AuditAction::Pause,
        AuditAction::Purge,
        AuditAction::Purge,
        AuditAction::Pause,
    ];
    for (by, action) in names.into_iter().zip(actions) {
        let signature = Signature::new(by);
        let entry = AuditEntry::new(at, signature, action, stage.queue.clone());
        operations.record_act(&entry).await?;
    }
    // As the engine tells them, with its own times.
    let all = told(stage).await?;
    let mut asked = AuditRequest::default();
    asked.queue = Some(stage.queue.clone());
    // Each condition alone, then two together, and times on both sides.
    let mut requests = vec![asked.clone(); 8];
    requests[0].by = Some("Ada".to_owned());
    requests[1].by = Some("it's <Bob>".to_owned());
    requests[2].by = Some("Nobody\0".to_owned());
    requests[3].action = Some(AuditAction::Purge);
    requests[4].by = Some("Ada".to_owned());
    requests[4].action = Some(AuditAction::Pause);
    requests[5].since = Some(all[2].at);
    requests[6].until = Some(all[2].at);
    requests[7].since = Some(all[3].at);
    requests[7].until = Some(all[1].at);
    for request in &requests {
        let wanted: Vec<AuditEntry> = all
            .iter()
            .filter(|entry| request.matches(entry))
            .cloned()
            .collect();
        check_eq!(pages(stage, request).await?, wanted, "{request:?}");
    }
    Ok(())
}

/// All pages of a request, one entry each: the filter holds on each.
async fn pages(stage: &Stage<'_>, asked: &AuditRequest) -> Result<Vec<AuditEntry>, CaseError> {
    let mut asked = asked.clone();
    asked.limit = 1;
    let mut seen = Vec::new();
    loop {
        let page = operations(stage)?.audit(&asked).await?;
        seen.extend(page.entries);
        asked.after = page.next;
        if asked.after.is_none() {
            return Ok(seen);
        }
    }
}
