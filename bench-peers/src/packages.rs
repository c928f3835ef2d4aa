//! Where cargo keeps the libraries' sources, and which versions were compiled.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::error::Result;

fn package(name: &str) -> Result<Value> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new("cargo")
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--manifest-path",
            manifest,
        ])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }

    let mut metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array_mut().ok_or("no packages")?;
    let found = packages.iter_mut().find(|package| package["name"] == name);
    Ok(found.ok_or_else(|| format!("no package {name}"))?.take())
}

pub(crate) fn version_of(name: &str) -> Result<String> {
    let package = package(name)?;
    Ok(package["version"].as_str().ok_or("no version")?.to_owned())
}

pub(crate) fn folder_of(name: &str) -> Result<PathBuf> {
    let package = package(name)?;
    let manifest = package["manifest_path"].as_str().ok_or("no manifest")?;
    let folder = PathBuf::from(manifest);
    Ok(folder.parent().ok_or("no folder")?.to_owned())
}
