//! Who may look and who may act, decided for each request.
//!
//! The extractors of `rights.rs` enforce it. Whether a page shows its buttons follows from the same
//! decision, and protects nothing.

use std::fmt;
use std::sync::Arc;

use axum::http::request::Parts;

type Decide = dyn Fn(&Parts) -> Grant + Send + Sync;

/// Who may see a dashboard, and who may change something. A [`Dashboard`](crate::Dashboard) has no
/// default for it.
///
/// The decision is made for each request, from its method, address, headers and extensions. An
/// authentication of your own is a layer around the router: it refuses strangers, and puts whom it knows
/// into the extensions, where a policy finds them.
///
/// ```
/// use ezq_ui::{Access, Grant};
///
/// #[derive(Clone)]
/// struct User { name: String, is_operator: bool }
///
/// // Everybody who gets here may look. Operators may act, and are named in what they do.
/// let access = Access::actions(|request| {
///     let user = request.extensions.get::<User>()?;
///     user.is_operator.then(|| user.name.clone())
/// });
///
/// // The whole decision by yourself.
/// let access = Access::decided(|request| match request.extensions.get::<User>() {
///     None => Grant::Forbidden,
///     Some(user) if user.is_operator => Grant::Act { by: user.name.clone() },
///     Some(_) => Grant::Read,
/// });
/// ```
#[derive(Clone)]
pub struct Access(Arc<Decide>);

/// What a request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// Nothing: every page answers 403.
    Forbidden,
    /// Look.
    Read,
    /// Look and act.
    Act {
        /// Who acts. The audit trail names them so.
        by: String,
    },
}

impl Access {
    /// Everybody whom the application lets through may look, and nobody may act.
    #[must_use]
    pub fn read_only() -> Self {
        Self::decided(|_| Grant::Read)
    }

    /// Everybody whom the application lets through may look. Those may act for whom `who` has a name.
    #[must_use]
    pub fn actions(who: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::decided(move |request| match who(request) {
            Some(by) => Grant::Act { by },
            None => Grant::Read,
        })
    }

    /// Nobody may even look: the dashboard is mounted and closed.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::decided(|_| Grant::Forbidden)
    }

    /// What `decide` says.
    #[must_use]
    pub fn decided(decide: impl Fn(&Parts) -> Grant + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    pub(crate) fn grant(&self, request: &Parts) -> Grant {
        (self.0)(request)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}
