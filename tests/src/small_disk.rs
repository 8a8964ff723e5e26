//! A small file system of its own: ext4 on a file, mounted by way of a loop device. Needs root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    /// Holds the file and the mount point.
    _folder: TempDir,
}

impl SmallDisk {
    /// Makes one of so many bytes, all of which may be used.
    ///
    /// # Errors
    /// It cannot be made here, in a sentence that says what is missing.
    pub fn new(bytes: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("quorate-disk-").tempdir()?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        File::create(&image)?.set_len(bytes)?;
        std::fs::create_dir(&mount)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image), "mkfs.ext4 (of e2fsprogs)")?;
        run(
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount),
            "mounting a file, which needs root and loop devices",
        )?;
        Ok(Self { mount, _folder: folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still has a file of it open lets it go when it ends.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.mount), "unmounting") {
            eprintln!("{} stays mounted: {error:#}", self.mount.display());
        }
    }
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let ran = command.output().with_context(|| format!("{what} is needed, and cannot be started"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{what} is needed, and failed: {}", said.trim());
    Ok(())
}
