//! What applications say of types: who owns, publishes and handles them.

use super::applications::{OrderCreated, OrderPaid, builder, parts};
use super::{database, names};
use crate::kit::soon;

#[tokio::test]
async fn who_owns_publishes_and_handles_a_type_is_told() {
    let (url, _) = database().await;
    let shop = builder(&url, "shop")
        .owns::<OrderCreated>()
        .connect()
        .await
        .unwrap();

    let (mail, queues) = parts(builder(&url, "mail"), "mail");
    let mail = mail
        .publishes::<OrderCreated>()
        .publishes::<OrderPaid>()
        .connect()
        .await
        .unwrap();

    for queue in queues {
        soon(mail.consumer().queue(queue).subscribe().until_idle().run())
            .await
            .unwrap();
    }

    let parties = shop
        .subscriptions()
        .unwrap()
        .parties("order.created")
        .await
        .unwrap();
    assert_eq!(parties.owners, ["shop"]);
    assert_eq!(parties.publishers, ["mail", "shop"]);
    assert_eq!(names(&parties.recipients), ["mail"]);
    assert_eq!(parties.recipients[0].subscriptions[0].app, "mail");

    let parties = shop
        .subscriptions()
        .unwrap()
        .parties("order.paid")
        .await
        .unwrap();
    assert!(parties.owners.is_empty() && parties.recipients.is_empty());
    assert_eq!(parties.publishers, ["mail"]);
}

#[tokio::test]
async fn what_an_application_said_can_be_taken_back() {
    let (url, _) = database().await;
    let shop = builder(&url, "shop")
        .owns::<OrderCreated>()
        .publishes::<OrderPaid>();
    let shop = shop.connect().await.unwrap();
    let mail = builder(&url, "mail")
        .publishes::<OrderCreated>()
        .publishes::<OrderPaid>();
    let mail = mail.connect().await.unwrap();

    let publishers = async |event_type: &str| {
        shop.subscriptions()
            .unwrap()
            .parties(event_type)
            .await
            .unwrap()
            .publishers
    };

    assert!(
        mail.subscriptions()
            .unwrap()
            .forget("mail", "order.paid")
            .await
            .unwrap()
    );
    assert!(
        !mail
            .subscriptions()
            .unwrap()
            .forget("mail", "order.paid")
            .await
            .unwrap()
    );
    assert_eq!(publishers("order.paid").await, ["shop"]);
    assert_eq!(publishers("order.created").await, ["mail", "shop"]);

    // A newer version of it says less.
    let newer = builder(&url, "shop")
        .owns::<OrderCreated>()
        .connect()
        .await
        .unwrap();
    assert_eq!(
        newer.subscriptions().unwrap().prune([""; 0]).await.unwrap(),
        1
    );
    assert!(publishers("order.paid").await.is_empty());
    assert_eq!(publishers("order.created").await, ["mail", "shop"]);

    assert_eq!(
        shop.subscriptions()
            .unwrap()
            .remove_app("mail")
            .await
            .unwrap(),
        1
    );
    assert_eq!(publishers("order.created").await, ["shop"]);
}
