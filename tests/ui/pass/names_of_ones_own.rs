//! Aliases of events, extractors and answers; a trait `Context` beside ezq's; and a handler in a module of
//! its own name.
#![deny(warnings)]

use ezq::Module;
use ezq::handler::{Extension, Handler};
use ezq::prelude::*;
use other::Context as _;
use serde::{Deserialize, Serialize};

/// A trait of this name, as `anyhow` has it. Imported as `_`, it leaves the name to ezq.
mod other {
    pub trait Context: Sized {
        fn context(self, text: &'static str) -> Result<(), &'static str>;
    }

    impl Context for Result<(), ()> {
        fn context(self, text: &'static str) -> Result<(), &'static str> {
            self.map_err(|()| text)
        }
    }
}

#[derive(Event, Serialize, Deserialize)]
struct OrderPaid {}

type Paid = OrderPaid;
type Limit = State<u32>;
type Tenant = Option<Extension<String>>;
type Outcome = Result<Option<Paid>, &'static str>;

#[on_event]
async fn ship(_: Paid, State(limit): Limit, tenant: Tenant, context: Context) -> Outcome {
    let text = if tenant.is_some() { "of a tenant" } else { "of nobody" };
    let enough = if context.attempt() > limit { Err(()) } else { Ok(()) };
    enough.context(text)?;
    Ok(None)
}

mod count {
    use super::{Batch, Paid, on_event};

    #[on_event]
    pub(crate) async fn count(_: Batch<Paid>) {}
}

fn main() {
    let _ = Module::new()
        .handler::<ship>()
        .handler::<count::count>()
        .register(Handler::on("ship again", ship));
}
