//! The files of the pages. Their addresses contain a hash of the content, so a browser may keep them for
//! ever and still gets a new version at once.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// The files, with their names in addresses.
pub(crate) struct Assets {
    pub(crate) style: Asset,
    pub(crate) htmx: Asset,
    pub(crate) script: Asset,
}

pub(crate) struct Asset {
    pub(crate) name: String,
    kind: &'static str,
    content: &'static str,
}

pub(crate) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("ezq", "css", include_str!("../assets/ezq.css")),
    htmx: Asset::new("htmx", "js", include_str!("../assets/htmx-4.0.1.min.js")),
    script: Asset::new("ezq", "js", include_str!("../assets/ezq.js")),
});

impl Asset {
    fn new(name: &str, ending: &str, content: &'static str) -> Self {
        let kind = match ending {
            "css" => "text/css; charset=utf-8",
            _ => "text/javascript; charset=utf-8",
        };
        // 64 bits tell versions of one file apart.
        let mut hash = String::new();
        for byte in Sha256::digest(content).iter().take(8) {
            // Writing to a text cannot fail.
            let _ = write!(hash, "{byte:02x}");
        }

        Self {
            name: format!("{name}.{hash}.{ending}"),
            kind,
            content,
        }
    }
}

pub(crate) async fn asset(Path(name): Path<String>) -> Response {
    let Assets {
        style,
        htmx,
        script,
    } = &*ASSETS;
    let known = [style, htmx, script];
    let Some(found) = known.into_iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers: [(HeaderName, &str); 2] = [
        (CONTENT_TYPE, found.kind),
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, found.content).into_response()
}
