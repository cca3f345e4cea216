// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `vsva-manual FOLDER` writes into FOLDER what is made from the options of vhost-user-vsva:
//! `man/vhost-user-vsva.1`, a page for each subcommand, `bash/vhost-user-vsva`,
//! `zsh/_vhost-user-vsva` and `fish/vhost-user-vsva.fish`.

use std::{env, fs, io, path::Path, process::ExitCode};

use clap::{Command, CommandFactory};
use clap_complete::{
    aot::generate_to,
    Shell::{Bash, Fish, Zsh},
};
use clap_mangen::{
    roff::{bold, italic, roman, Inline, Roff},
    Man,
};

#[path = "../../../src/args.rs"]
mod args;

const NAME: &str = "vhost-user-vsva";
/// For whatis(1).
const SHORT: &str = "drains a guest's stalled DMA faults before its VM is stopped";
/// Subcommands: the name, for whatis(1), and when the exit status is 0.
const SUBCOMMANDS: [(&str, &str, &str); 3] = [
    (
        "report",
        "says what event logs tell, and draws it",
        "0 if there is a report, else 1; 2 if an option is wrong.",
    ),
    (
        "status",
        "shows what back-ends of this host are doing",
        "0 if all of them have answered, else 1; 2 if an option is wrong.",
    ),
    (
        "trace",
        "writes a trace of what a back-end has just done",
        "0 if there is a trace, else 1; 2 if an option is wrong.",
    ),
];

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1) else {
        eprintln!("usage: vsva-manual FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsva-manual: {}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    let command = args::Args::command();
    let [man, bash, zsh, fish] = ["man", "bash", "zsh", "fish"].map(|name| folder.join(name));
    for folder in [&man, &bash, &zsh, &fish] {
        fs::create_dir_all(folder)?;
    }
    fs::write(man.join(format!("{NAME}.1")), page(&command)?)?;
    for (name, short, exit) in SUBCOMMANDS {
        if let Some(subcommand) = command.find_subcommand(name) {
            let page = subcommand_page(subcommand, name, short, exit)?;
            fs::write(man.join(format!("{NAME}-{name}.1")), page)?;
        }
    }
    for (shell, folder) in [(Bash, &bash), (Zsh, &zsh), (Fish, &fish)] {
        generate_to(shell, &mut command.clone(), NAME, folder)?;
    }
    // The name by which bash-completion looks for it.
    fs::rename(bash.join(format!("{NAME}.bash")), bash.join(NAME))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let about = command.get_about().cloned().unwrap_or_default();
    let page = Man::new(command.clone().long_about(about).about(SHORT))
        .date("")
        .manual(NAME)
        .source(NAME);
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    page.render_subcommands_section(&mut out)?;
    rest().to_writer(&mut out)?;
    Ok(out)
}

fn subcommand_page(
    command: &Command,
    name: &str,
    short: &'static str,
    exit: &str,
) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let command = command.clone().display_name(format!("{NAME}-{name}"));
    let page = Man::new(command.bin_name(format!("{NAME} {name}")).about(short))
        .title(format!("{NAME}-{name}"))
        .date("")
        .manual(NAME)
        .source(NAME);
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_options_section(&mut out)?;
    let mut rest = Roff::new();
    rest.control("SH", ["EXIT STATUS"]);
    rest.text([roman(exit)]);
    rest.control("SH", ["SEE ALSO"]);
    rest.text(others(&[(NAME, "(1)")]));
    rest.to_writer(&mut out)?;
    Ok(out)
}

/// What the options do not say.
fn rest() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in [
        ("0", "It was ended by SIGTERM or SIGINT."),
        (
            "1",
            "It could not start, or not go on; the last line on stderr says why.",
        ),
        ("2", "An option is wrong."),
    ] {
        page.control("TP", [])
            .text([bold(status)])
            .text([roman(meaning)]);
    }
    page.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in [
        ("RUST_LOG", "What to log, instead of --log-level."),
        (
            "LISTEN_FDS",
            "The sockets that systemd passes, with their names in LISTEN_FDNAMES.",
        ),
        (
            "NOTIFY_SOCKET",
            "Where systemd is told that connections are accepted.",
        ),
    ] {
        page.control("TP", [])
            .text([bold(name)])
            .text([roman(meaning)]);
    }
    page.control("SH", ["FILES"]);
    for (name, meaning) in [
        (
            "vhost-user-vsva@UUID.service",
            "The systemd unit that runs it for a domain of libvirt. The hook starts and stops it.",
        ),
        ("/run/vhost-user-vsva/UUID.sock", "The socket of that unit."),
        (
            "/run/vhost-user-vsva/UUID.status.sock",
            "Its status socket.",
        ),
    ] {
        page.control("TP", [])
            .text([italic(name)])
            .text([roman(meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text(others(&[
        ("vhost-user-vsva-report", "(1), "),
        ("vhost-user-vsva-status", "(1), "),
        ("vhost-user-vsva-trace", "(1), "),
        ("vsva-domain", "(1), "),
        ("vsva-check-device", "(8), "),
        ("vsva-check-host", "(8)"),
    ]));
    page.control("PP", [])
        .text([roman("Documents are in /usr/share/doc/vhost-user-vsva.")]);
    page
}

fn others(pages: &[(&str, &str)]) -> Vec<Inline> {
    pages
        .iter()
        .flat_map(|&(name, section)| [bold(name), roman(section)])
        .collect()
}
