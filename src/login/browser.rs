//! Opening the person's browser: the system's own opener, never a shell.

use std::process::{Command, Stdio};

use url::Url;

/// Asks the system to show a page. False when it has no way to, or the opener failed at once: the
/// person then opens it by hand.
///
/// The address is one argument, parsed before and begun by `http`, so that no opener takes it
/// for an option, a path or a command.
#[must_use]
pub fn open(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    if !matches!(url.scheme(), "https" | "http") {
        return false;
    }
    openers(cfg!(target_os = "macos"), cfg!(windows))
        .iter()
        .any(|(program, args)| {
            Command::new(program)
                .args(*args)
                .arg(url.as_str())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .is_ok_and(reap)
        })
}

/// The openers to try, by full name: what `PATH` says is not asked.
fn openers(macos: bool, windows: bool) -> &'static [(&'static str, &'static [&'static str])] {
    if macos {
        &[("/usr/bin/open", &[])]
    } else if windows {
        // hands the address to the default browser without a command interpreter
        &[(
            r"C:\Windows\System32\rundll32.exe",
            &["url.dll,FileProtocolHandler"],
        )]
    } else {
        &[
            ("/usr/bin/xdg-open", &[]),
            ("/usr/local/bin/xdg-open", &[]),
            ("/run/current-system/sw/bin/xdg-open", &[]),
            ("/usr/bin/wslview", &[]),
        ]
    }
}

/// Openers hand over and end, or become the browser: a thread waits for either.
fn reap(mut child: std::process::Child) -> bool {
    std::thread::Builder::new()
        .name("browser".to_owned())
        .spawn(move || drop(child.wait()))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_are_opened() {
        for bad in [
            "file:///etc/passwd",
            "javascript:alert(1)",
            "--version",
            "calc.exe",
            "",
        ] {
            assert!(!open(bad), "{bad}");
        }
    }

    #[test]
    fn openers_are_programs_and_no_shells() {
        for (macos, windows) in [(false, false), (true, false), (false, true)] {
            for (program, _) in openers(macos, windows) {
                assert!(program.starts_with('/') || program.starts_with(r"C:\"));
                assert!(!program.ends_with("sh") && !program.contains("cmd"));
            }
        }
    }
}
