//! The subcommand that programs embed for events of their own.

use clap::Parser;
use ezq::ErrorKind;
use ezq::command::{EventTypes, PublishCommand};
use ezq::prelude::*;
use ezq::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "order.placed", version = 2)]
struct OrderPlaced {
    order: i64,
    #[serde(default)]
    note: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "shop.opened")]
struct ShopOpened {}

#[derive(Parser)]
enum Arguments {
    Publish(PublishCommand),
}

async fn run(app: &TestApp, arguments: &[&str]) -> ezq::Result<()> {
    let given = ["shop", "publish"].iter().chain(arguments);
    let Arguments::Publish(publish) = Arguments::parse_from(given);
    let types = EventTypes::new()
        .event::<OrderPlaced>()
        .event::<ShopOpened>();
    publish.run(app, &types).await.map(drop)
}

#[tokio::test]
async fn an_event_is_published_as_its_type_with_its_options() {
    let app = TestApp::new(|app| app).unwrap();
    let data = r#"{"order": 9007199254740993}"#;
    run(&app, &["order.placed", "--data", data, "--key", "ada"])
        .await
        .unwrap();
    run(&app, &["shop.opened"]).await.unwrap();

    let placed = OrderPlaced {
        order: 9_007_199_254_740_993,
        note: String::new(),
    };
    assert_eq!(app.published::<OrderPlaced>(), [placed]);
    assert_eq!(app.published::<ShopOpened>().len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_a_type_is_refused_and_nothing_is_stored() {
    let app = TestApp::new(|app| app).unwrap();
    let error = run(&app, &["order.placd"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(
        error.to_string().contains("`order.placed`, `shop.opened`"),
        "{error}"
    );

    for data in [r#"{"order": "seven"}"#, "{}", "{"] {
        let error = run(&app, &["order.placed", "--data", data])
            .await
            .unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Decode | ErrorKind::InvalidEvent | ErrorKind::Encode
            ),
            "{error:?}"
        );
    }
    assert!(app.published::<OrderPlaced>().is_empty());
}
