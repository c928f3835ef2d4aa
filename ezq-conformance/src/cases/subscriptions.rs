//! Subscriptions, and what applications declare about types of events: listed, added once and removed.

use ezq_core::engine::{EventParty, EventRole};
use ezq_core::event::Pattern;

use super::broadcast::{event, named, second, store, stored, subscribe};
use crate::error::CaseResult;
use crate::stage::Stage;

cases![
    a_subscription_stands_once,
    a_removed_subscription_gets_no_more_copies,
    concurrent_subscribers_add_each_once,
    what_applications_say_of_types_is_told,
];

async fn a_subscription_stands_once(stage: &Stage<'_>) -> CaseResult {
    let queue = &stage.queue;
    check_eq!(
        subscribe(stage, "shop", queue, &["a", "b.#"]).await?,
        2,
        "new subscriptions"
    );
    check_eq!(
        // Only `c` is new here.
        subscribe(stage, "shop", queue, &["b.#", "a", "c"]).await?,
        1,
        "new subscriptions"
    );
    check_eq!(
        subscribe(stage, "mail", queue, &["a"]).await?,
        1,
        "new subscriptions"
    );
    check_eq!(
        // A queue may be subscribed before it is created, and the list says that it is missing.
        subscribe(stage, "mail", &stage.missing, &["a"]).await?,
        1,
        "new subscriptions"
    );

    // By the other client: what counts is in the store, not in the first one's memory.
    let listed = second(stage)?.subscriptions().await?;
    let ours = listed
        .iter()
        .filter(|one| [queue, &stage.missing].contains(&&one.queue));
    let ours: Vec<_> = ours
        .map(|one| (one.app.as_str(), one.pattern.as_str(), one.queue_exists))
        .collect();

    let a = named(stage, "a");
    let b = named(stage, "b.#");
    let c = named(stage, "c");
    let expected = [
        ("mail", &*a, true),
        ("shop", &*a, true),
        ("shop", &*b, true),
        ("shop", &*c, true),
        ("mail", &*a, false),
    ];
    check_eq!(ours, expected, "subscriptions");
    Ok(())
}

async fn a_removed_subscription_gets_no_more_copies(stage: &Stage<'_>) -> CaseResult {
    let queue = stage.queue.clone();
    let other = stage.other.clone();
    subscribe(stage, "shop", &queue, &["a"]).await?;
    subscribe(stage, "mail", &queue, &["a"]).await?;
    subscribe(stage, "mail", &other, &["a"]).await?;

    let a = Pattern::new(&named(stage, "a"))?;
    let both = [(queue.clone(), a.clone()), (other, a.clone())];
    check_eq!(
        second(stage)?.unsubscribe("mail", &both).await?,
        2,
        "subscriptions removed"
    );
    check_eq!(
        second(stage)?.unsubscribe("mail", &both).await?,
        0,
        "subscriptions removed again"
    );
    check_eq!(
        stored(stage, event(stage, "a", 1)).await?,
        std::slice::from_ref(&queue),
        "queues"
    );
    check_eq!(
        second(stage)?.unsubscribe("shop", &both).await?,
        1,
        "subscriptions removed"
    );
    check_eq!(
        stored(stage, event(stage, "a", 2)).await?.len(),
        0,
        "queues"
    );
    Ok(())
}

async fn concurrent_subscribers_add_each_once(stage: &Stage<'_>) -> CaseResult {
    let names: Vec<String> = (0..20).map(|n| named(stage, &format!("t{n}"))).collect();
    let patterns = names
        .iter()
        .map(|name| Pattern::new(name))
        .collect::<Result<Vec<_>, _>>()?;
    // In opposite orders: an engine that locks rows in the order of the call would deadlock.
    let turned: Vec<_> = patterns.iter().rev().cloned().collect();
    let one = store(stage)?;

    let other = second(stage)?;
    let queue = &stage.queue;
    let added = tokio::join!(
        one.subscribe("shop", queue, &patterns),
        other.subscribe("shop", queue, &turned),
        one.subscribe("mail", queue, &turned),
        other.subscribe("mail", queue, &patterns),
    );
    check_eq!(
        added.0? + added.1? + added.2? + added.3?,
        40,
        "new subscriptions"
    );

    let listed = one.subscriptions().await?;
    check_eq!(
        listed.iter().filter(|one| one.queue == *queue).count(),
        40,
        "subscriptions"
    );
    Ok(())
}

async fn what_applications_say_of_types_is_told(stage: &Stage<'_>) -> CaseResult {
    let party = |app: &str, role| EventParty::new(named(stage, "a"), role, app.to_owned());
    let shop = party("shop", EventRole::Owner);
    let mail = party("mail", EventRole::Publisher);
    store(stage)?.record(&[mail.clone(), shop.clone()]).await?;
    // Said again by another process, as every start does.
    second(stage)?.record(std::slice::from_ref(&shop)).await?;

    let told = second(stage)?.parties(&named(stage, "a")).await?;
    check_eq!(told, [shop.clone(), mail.clone()], "parties");
    check_eq!(
        store(stage)?.parties(&named(stage, "b")).await?.len(),
        0,
        "parties of another"
    );

    // Other runs may use the name `shop` at the same time.
    let said = store(stage)?.parties_of("shop").await?;
    check!(
        said.contains(&shop) && !said.contains(&mail),
        "what one said: {said:?}"
    );
    check_eq!(
        second(stage)?.forget(std::slice::from_ref(&shop)).await?,
        1,
        "forgotten"
    );
    check_eq!(store(stage)?.forget(&[shop]).await?, 0, "forgotten twice");
    check_eq!(
        store(stage)?.parties(&named(stage, "a")).await?,
        [mail],
        "what another said"
    );
    Ok(())
}
