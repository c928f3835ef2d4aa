//! Extractors that may be absent, that fail, and of one's own.

use ezq_core::error::{Error, ErrorKind, Result};
use ezq_core::handler::{Call, Extract, Handler, HandlerError, OptionalExtract, Provided, State};
use ezq_core::testing::TestApp;

use crate::fixtures::Step;

/// A header of the event, with the limit that the application was given.
struct Weight(u32);

impl OptionalExtract for Weight {
    async fn extract_optional(call: &Call) -> Result<Option<Self>, HandlerError> {
        let Some(weight) = call.context().headers().text("weight") else {
            return Ok(None);
        };
        let weight = weight.parse().map_err(HandlerError::fatal)?;
        let State(limit) = State::<u32>::extract(call).await?;
        Ok(Some(Self(limit.min(weight))))
    }
}

impl Extract for Weight {
    fn check(provided: &Provided<'_>) -> Result<()> {
        if provided.has_state::<u32>() {
            return Ok(());
        }
        let text = "a weight needs a limit: give one with `.state(limit)`";
        Err(Error::new(ErrorKind::MissingState, text))
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        let weight = Self::extract_optional(call).await?;
        weight.ok_or_else(|| HandlerError::fatal("no weight"))
    }
}

fn app(handler: Handler) -> TestApp {
    TestApp::new(|app| app.register(handler).state(10_u32)).unwrap()
}

async fn outcome(app: &TestApp, weight: Option<&str>) -> String {
    let mut publish = app.publish(&Step { n: 1 });
    if let Some(weight) = weight {
        publish = publish.header("weight", weight);
    }
    let report = app.dispatch_inline(publish).await.unwrap();
    report.outcomes[0].1.to_string()
}

#[tokio::test]
async fn an_extractor_of_ones_own_reads_headers_and_states() {
    let app = app(Handler::on(
        "own",
        |_: Step, Weight(weight): Weight| async move { Err::<(), _>(format!("weighs {weight}")) },
    ));
    assert_eq!(outcome(&app, Some("7")).await, "failed: weighs 7");
    assert_eq!(outcome(&app, Some("70")).await, "failed: weighs 10");
    assert_eq!(outcome(&app, None).await, "failed: no weight");
}

#[test]
fn an_extractor_of_ones_own_says_at_start_what_it_needs() {
    let handler = Handler::on("own", |_: Step, _: Weight| async {});
    let error = TestApp::new(|app| app.register(handler)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    assert!(
        error.to_string().contains("a weight needs a limit"),
        "{error}"
    );
}

#[tokio::test]
async fn an_optional_extractor_may_be_absent_and_still_fails_where_it_is_wrong() {
    let app = app(Handler::on(
        "may",
        |_: Step, weight: Option<Weight>| async move {
            let weight = weight.map(|Weight(weight)| weight);
            Err::<(), _>(format!("weighs {weight:?}"))
        },
    ));
    assert_eq!(outcome(&app, Some("7")).await, "failed: weighs Some(7)");
    assert_eq!(outcome(&app, None).await, "failed: weighs None");
    let wrong = outcome(&app, Some("heavy")).await;
    assert!(wrong.contains("invalid digit"), "{wrong}");
}

#[tokio::test]
async fn an_optional_state_is_not_missed_at_start() {
    let look = |_: Step, a: Option<State<u8>>, b: Option<State<u32>>| async move {
        assert!(a.is_none());
        assert_eq!(b.unwrap().0, 10);
    };
    assert_eq!(outcome(&app(Handler::on("look", look)), None).await, "done");
}

#[tokio::test]
async fn a_result_hands_the_extractors_error_to_the_handler() {
    let look = |_: Step, weight: Result<Weight, HandlerError>| async move {
        match weight {
            Ok(Weight(weight)) => Err(format!("weighs {weight}")),
            Err(error) => {
                assert!(error.is_fatal());
                Ok(())
            }
        }
    };
    let looking = app(Handler::on("look", look));
    assert_eq!(outcome(&looking, Some("7")).await, "failed: weighs 7");
    assert_eq!(outcome(&looking, None).await, "done");

    // What it needs of the application is checked at start all the same.
    let error = TestApp::new(|app| app.register(Handler::on("look", look))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
}
