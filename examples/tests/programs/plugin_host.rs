//! A host and its plug-in, which is killed and started again.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};

use crate::process::{Guard, children_of, is_running, until};

const EXPECTED: &str = "\
translator attached
the moon has risen: der mond ist aufgegangen
the golden stars are bright: der goldnen sternlein sind hell
the plug-in died at \"the forest is black and silent\"
translator attached
the forest is black and silent: der wald ist schwarz und still
the mist is white and wonderful: der nebel ist weiss und wunderbar
calls that were cut off: 0
the plug-in ended: exit status: 0
";

fn start(stdout: Stdio) -> Guard {
    let host = Command::new(env!("CARGO_BIN_EXE_plugin_host"))
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn();
    Guard(host.unwrap())
}

#[test]
fn a_plug_in_that_is_killed_is_started_again_and_no_line_is_lost() {
    let output = start(Stdio::piped()).output();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let stderr = text(output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(text(output.stdout), EXPECTED);
    assert_eq!(stderr, "");
}

#[test]
fn a_plug_in_does_not_outlive_its_host() {
    let host = start(Stdio::null());
    let mut plugins = Vec::new();
    until("the host has a plug-in", || {
        plugins = children_of(host.pid());
        !plugins.is_empty()
    });
    // It may have come to its end by itself in the meantime.
    let _ = kill(host.pid(), Signal::SIGKILL);
    for plugin in plugins {
        until("the plug-in ends", || !is_running(plugin));
    }
}
