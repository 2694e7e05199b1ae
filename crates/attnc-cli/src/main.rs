//! `attnc`: the command line of the compiler.
//!
//! ```text
//! args     what may be written                    show     pictures, rows and tiles
//! report   diagnostics and exit codes             run      tensors in, tensors out
//! files    loading and whole writes               verify   every target against the oracle
//! tensors  safetensors, random tensors            bench    compile and run times
//! subject  FILE:NAME, lengths, run-time data      inspect  check, fmt, explain, targets, build, cost
//! older    results of bench against older ones    advise   what would be cheaper
//! compare  patterns against dense attention       search   the cheapest pattern of each head
//! layers   layers of a tensors file, measured     page     the report of compare, for a browser
//! calibration  rates of this machine, and their file
//! gpu      opening a GPU, and waiting for it
//! export   masks for other engines
//! ```
//!
//! Data go to standard output, diagnostics to standard error. Exit codes: 0 fine, 1 diagnostics or a mismatch,
//! 2 wrong usage, 3 a target that this machine lacks, 4 a run that was refused or failed, 5 slower than
//! `bench --fail-if-slower` allows, 101 a mistake of this program.

#![forbid(unsafe_code)]

mod advise;
mod args;
mod bench;
mod calibration;
mod compare;
mod export;
mod files;
#[cfg(feature = "gpu")]
mod gpu;
mod inspect;
mod layers;
mod machine;
mod older;
mod page;
mod report;
mod run;
mod search;
mod show;
mod sources;
mod subject;
mod tensors;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::report::{Outcome, Reporter, exit};

fn main() -> ExitCode {
    report::hook_panics();
    // The work is done in a thread of its own, whose stack does not depend on the shell's limits.
    let work = std::thread::Builder::new().name("attnc".to_owned()).stack_size(64 << 20).spawn(command);
    match work.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => ExitCode::from(code),
        // The hook has said what to report.
        Ok(Err(_)) => ExitCode::from(exit::INTERNAL),
        Err(_) => ExitCode::from(exit::RUN),
    }
}

/// Parses the command line and runs the command.
fn command() -> u8 {
    let cli = match Cli::try_parse_from(args::given()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data; a reader that has gone is no error.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => exit::USAGE,
            };
        }
    };
    let reporter = Reporter::new(cli.color);
    match dispatch(cli.command, reporter) {
        Ok(()) => 0,
        Err(failure) => {
            reporter.print(&failure.diagnostics);
            failure.exit
        }
    }
}

fn dispatch(command: Command, reporter: Reporter) -> Outcome {
    match command {
        Command::Check(args) => inspect::check(&args, reporter),
        Command::Fmt(args) => inspect::fmt(&args, reporter),
        Command::Explain(args) => inspect::explain(&args),
        Command::Targets(args) => inspect::targets(&args),
        Command::Build(args) => inspect::build(&args, reporter),
        Command::Cost(args) => inspect::cost(&args, reporter),
        Command::Export(args) => export::export(&args, reporter),
        Command::Calibrate(args) => calibration::calibrate(&args),
        Command::Cache(args) => calibration::cache(args.command),
        Command::Advise(args) => advise::advise(&args, reporter),
        Command::Show(args) => show::show(&args, reporter),
        Command::Run(args) => run::run(&args, reporter),
        Command::Verify(args) => verify::verify(&args, reporter),
        Command::Compare(args) => compare::compare(&args, reporter),
        Command::Search(args) => search::search(&args, reporter),
        Command::Bench(args) => bench::bench(&args, reporter),
    }
}
