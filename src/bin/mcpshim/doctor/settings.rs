//! Is there a configuration, and can it be used? Is there room for what must be kept?

use std::io::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use mcpshim::clock::{Entropy as _, SystemEntropy};
use mcpshim::config::{Effective, Places, Proxy};
use mcpshim::report::Failure;

use super::Context;
use super::finding::{Finding, found};

/// Why there is no configuration. The sentence is the loader's; the code says which kind it is.
pub(super) fn broken(failure: &Failure, managed: bool) -> Finding {
    let said = failure.in_one_line();
    let code = if managed && said.contains("cannot be trusted") {
        "managed-untrusted"
    } else if managed && said.contains("is gone") {
        "managed-gone"
    } else if said.contains("is not configured") {
        "not-configured"
    } else {
        "settings-unreadable"
    };
    let mut finding = found(code, failure.sentence.clone());
    finding.details.clone_from(&failure.causes);
    match &failure.hint {
        Some(hint) => finding.fix(hint.clone()),
        None => finding,
    }
}

pub(super) fn check(effective: &Effective, places: &Places) -> Vec<Finding> {
    let mut findings: Vec<Finding> = effective
        .warnings
        .iter()
        .map(|warning| found("setting-ignored", warning.clone()))
        .collect();
    let direct = effective
        .config
        .as_ref()
        .is_ok_and(|config| config.network.proxy == Proxy::Direct);
    if direct && let Some(first) = places.proxies.first() {
        findings.push(found(
            "proxy-not-used",
            format!("{first} names a proxy, which mcpshim does not use"),
        ));
    }
    if cfg!(target_os = "linux") {
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        if id.trim().len() < 32 {
            findings.push(found(
                "machine-id-missing",
                "there is no /etc/machine-id: records of this machine carry an id that was made up",
            ));
        }
    }
    findings
}

/// Whether what must be kept can be kept: a file is written, and removed again.
pub(super) fn state(context: &Context) -> Vec<Finding> {
    let wanted = &context.config.state_dir;
    let Some(dir) = wanted.ancestors().find(|dir| dir.exists()) else {
        return vec![found(
            "state-not-writable",
            format!("there is no {}", wanted.display()),
        )];
    };
    let shown = dir.display();
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let own = rustix::process::geteuid().as_raw();
        let foreign = |path: &Path| {
            let meta = path.metadata().ok()?;
            (meta.uid() != own && dir == wanted).then(|| meta.uid())
        };
        if let Some(owner) = foreign(dir) {
            let sentence = format!("{shown} belongs to user {owner}, and this is user {own}");
            return vec![found("state-foreign", sentence).fix(format!(
                "run `chown -R {own} {shown}` as root, or name another directory in `state_dir`"
            ))];
        }
    }
    let Err(error) = write(dir) else {
        return Vec::new();
    };
    let full = matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    );
    let finding = if full {
        found("disk-full", format!("there is no room left in {shown}"))
            .fix(format!("make room on the file system that holds {shown}"))
    } else {
        found(
            "state-not-writable",
            format!("nothing can be written into {shown}"),
        )
        .fix(format!(
            "make {shown} writable for you: check its owner, mode and mount"
        ))
    };
    vec![finding.detail(error.to_string())]
}

fn write(dir: &Path) -> std::io::Result<()> {
    let mut tag = [0; 8];
    SystemEntropy.fill(&mut tag);
    let path = dir.join(format!(".doctor-{}", HEXLOWER.encode(&tag)));
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)?;
    // as much as a first segment of records takes
    let written = file
        .write_all(&[0; 64 << 10])
        .and_then(|()| file.sync_all());
    drop(file);
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}
