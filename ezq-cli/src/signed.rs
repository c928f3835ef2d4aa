//! Who orders a change, and why: what the audit trail keeps.

use clap::Args;
use ezq::admin::Signature;

use crate::session::user;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Signed {
    /// Who does it [default: user@host of this machine]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

impl Signed {
    /// Only who does it, where no reason is kept.
    pub(crate) fn by_only(by: Option<String>) -> Self {
        Self { by, reason: None }
    }

    /// The same for an entry of the audit trail; `app` does it if nobody is known.
    pub(crate) fn signature(&self, app: &str) -> Signature {
        let by = self.by().unwrap_or_else(|| app.to_owned());
        Signature::new(by).reason(self.reason.clone())
    }

    /// Who does it, as far as that is known.
    pub(crate) fn by(&self) -> Option<String> {
        self.by.clone().or_else(user)
    }
}

/// Puts a signature on a request of the library: each has `by` and `reason`, and they share no trait.
macro_rules! signed {
    ($request:expr, $signed:expr) => {{
        let mut request = $request;
        if let Some(who) = $signed.by() {
            request = request.by(who);
        }
        if let Some(reason) = &$signed.reason {
            request = request.reason(reason);
        }
        request
    }};
}
pub(crate) use signed;
