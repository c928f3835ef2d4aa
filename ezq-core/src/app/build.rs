//! Building an application: what the builder collected is checked here, and never again.
//!
//! First come the parts that stand alone (options, names), then what needs them together (extractors,
//! routes to handlers). So the first error is the one nearest to its cause.

use std::sync::{Arc, Mutex};

use crate::app::{App, AppBuilder};
use crate::codec::codecs::Codecs;
use crate::config::Config;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::registry::{Registry, types};
use crate::engine::{Engine, EventRole};
use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::check_type;
use crate::handler::Handler;
use crate::handler::layer::SharedLayer;
use crate::observe::notices::Notices;
use crate::private::{Discovered, inventory};
use crate::publish::engines::Engines;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;
use crate::schedule::{Plan, Plans};
use crate::shared::Shared;

impl AppBuilder {
    /// Checks everything and returns the application: options, handlers, state, events and engines.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] for a wrong option, name or route.
    /// - [`ErrorKind::DuplicateHandler`], [`ErrorKind::DuplicateEvent`] or
    ///   [`ErrorKind::AmbiguousVersion`] when handlers or events contradict each other.
    /// - [`ErrorKind::UnreachableHandler`] when events go to a queue from which no handler takes
    ///   them.
    /// - [`ErrorKind::MissingState`] when handlers ask for a `State<T>` that was not given; the message
    ///   names each of them. A handler that was found at link time is checked only when a consumer of
    ///   its queue starts, so that a program that only publishes needs no state for it.
    /// - [`ErrorKind::Unsupported`] when a handler, a [schedule](Self::schedule) or a
    ///   [retention](Self::retention) needs what the engine cannot do.
    /// - The error of publishing, when a schedule's event cannot be published as it is.
    pub fn build(self, engine: impl Engine) -> Result<App> {
        let config = self.config?;
        config.validate()?;
        check_parties(&self.parties)?;

        let engines = Engines {
            default: Arc::new(engine),
            named: self.named,
            routes: self.routes,
        };
        engines.validate()?;

        // The handlers name event types, codecs and options, so these are checked against them.
        let states = self.states.complete(None);
        let mut handlers = self.handlers;
        for module in self.modules {
            handlers.extend(module.into_handlers(&states));
        }
        // The tracer's span surrounds whatever else runs around a handler.
        let (tracer, outermost) = self.tracer.unzip();
        let layers: Vec<SharedLayer> = outermost.into_iter().chain(self.layers).collect();
        let registry = registry(handlers, self.discover, &layers, &config)?;
        let codecs = codecs(self.codecs, &registry, &config)?;

        let config = Arc::new(config);
        let services = Arc::new(Services {
            states,
            engines,
            source: config.app.clone(),
            default_queue: config.queue.clone(),
            routing: self.routing.with(config.event_routes.clone()),
            codecs: Arc::new(codecs),
            notices: Notices::with(self.hooks)?,
            metrics: Default::default(),
            tracer,
            message_limit: config.message_limit,
            dedupe_window: config.dedupe_window,
        });

        // A schedule prepares a sample of its event, so it needs the services.
        let schedules = schedules(self.schedules, &registry, &services)?;
        let shared = Shared {
            dispatcher: Dispatcher::new(registry, Arc::clone(&services), Arc::clone(&config)),
            services,
            config,
            schedules,
            parties: self.parties,
            consumers: Mutex::default(),
            ingests: Mutex::default(),
            telling: Default::default(),
        };
        // What handlers need of engines and states, then whether events reach the handlers.
        shared.check()?;
        shared.check_reach()?;
        set_retention(&shared)?;

        Ok(App {
            inner: Arc::new(shared),
        })
    }
}

/// Checks the types of which the application says that it owns or publishes them.
fn check_parties(parties: &[(EventRole, &'static str)]) -> Result<()> {
    for (_, event_type) in parties {
        check_type(event_type).map_err(|why| {
            let name = event_type.escape_debug();
            let text = format!("the application owns or publishes `{name}`: {why}");
            Error::new(ErrorKind::Configuration, text)
        })?;
    }
    Ok(())
}

/// The registered handlers and those found at link time. A registered handler replaces one of the same
/// name, so that a program can replace a handler of a library.
fn registry(
    mut handlers: Vec<Handler>,
    discover: bool,
    layers: &[SharedLayer],
    config: &Config,
) -> Result<Registry> {
    if discover {
        let registered: Vec<_> = handlers.iter().map(|h| h.name().clone()).collect();
        let discovered = inventory::iter::<Discovered>
            .into_iter()
            .map(|Discovered(make)| Handler {
                is_discovered: true,
                ..make()
            });
        handlers.extend(discovered.filter(|handler| !registered.contains(handler.name())));
    }

    let enclosed = handlers.into_iter().map(|handler| handler.enclose(layers));
    let registry = Registry::new(enclosed.collect())?;
    registry.check_options(&config.handlers)?;
    Ok(registry)
}

/// The codecs, checked against the codecs that the handlers' events name.
fn codecs(mut codecs: Codecs, registry: &Registry, config: &Config) -> Result<Codecs> {
    codecs.wire = config.wire;
    let handlers = registry.handlers().iter();
    codecs.validate(handlers.flat_map(|handler| types(handler)))?;
    Ok(codecs)
}

/// The schedules of the builder, then those of `#[on_schedule]` handlers.
fn schedules(mut plans: Vec<Plan>, registry: &Registry, services: &Arc<Services>) -> Result<Plans> {
    let handlers = registry.handlers().iter();
    plans.extend(handlers.filter_map(|handler| handler.plan()));
    Plans::new(plans, &Publisher::new(Arc::clone(services)))
}

/// Tells each engine what becomes of its queues' events once they are handled. Last, because an
/// engine keeps it: an application that fails a check leaves its engine as it was.
fn set_retention(shared: &Shared) -> Result<()> {
    for (queue, retention) in &shared.config.retention {
        let engine = shared.services.engines.of(queue);
        engine.set_retention(queue, *retention)?;
    }
    Ok(())
}
