//! The administrator's door: commands, help, exit codes.

mod check;
mod cleanup;
mod counters;
mod ipam;
mod migrate;
mod node;
mod policy;
mod resources;
mod rules;
mod serve;
mod session;
mod table;
mod target;
mod trace;

use crate::config::{Config, ConfigError, Environment, SETTINGS};
use crate::resource::Verb;
use clap::{Parser, Subcommand};
use session::{Failure, Session};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Bad settings or arguments, as `sysexits.h` calls it.
const EX_USAGE: u8 = 64;
/// A part ended that must not, as `sysexits.h` calls it; dockerd starts the plugin again.
const EX_SOFTWARE: u8 = 70;

/// Calico networking for Docker: network driver and IPAM driver.
#[derive(Debug, Parser)]
#[command(version, after_long_help = settings_help(), after_help = "--help lists the settings.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the plugin (the default)
    Serve,
    /// Print the effective settings, the datastore, the kernel and what is missing; changes nothing
    Check,
    /// Remove everything this plugin made in the kernel: packet filter, interfaces, routes; networks and addresses stay
    /// in the datastore
    Cleanup,
    /// Print Calico's resources
    Get(resources::Get),
    /// Make resources, or put them in the place of those that exist
    Apply(resources::Write),
    /// Make resources that do not exist yet
    Create(resources::Write),
    /// Put resources in the place of those that exist
    Replace(resources::Write),
    /// Delete resources
    Delete(resources::Delete),
    /// Set a label of a resource, or take it away
    Label(resources::Label),
    /// Tell which policy applies to a container, and what it decides
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Print the daemon's figures, as Prometheus reads them
    Metrics,
    /// Tell how full pools are, who has an address and what is wrong; give back what nobody uses
    #[command(subcommand)]
    Ipam(ipam::Addresses),
    /// List the cluster's nodes, or remove one that is gone for good
    #[command(subcommand)]
    Node(node::Nodes),
    /// Move this host's data from the embedded datastore to etcd, or back
    #[command(subcommand)]
    Migrate(migrate::Migrate),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command.unwrap_or(Command::Serve),
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match command {
        Command::Serve => match Config::read(&Environment) {
            Ok(config) => serve::run(config),
            Err(error) => serve::refuse(&error),
        },
        Command::Check => with_config(check::run),
        Command::Cleanup => with_config(cleanup::run),
        asking => with_config(|config| session::run(config, |session| ask(asking, session))),
    }
}

/// Runs a command that works on the datastore or asks the daemon.
async fn ask(command: Command, session: Session) -> Result<(), Failure> {
    match command {
        Command::Get(arguments) => resources::get(session, arguments).await,
        Command::Apply(arguments) => resources::write(session, Verb::Apply, arguments).await,
        Command::Create(arguments) => resources::write(session, Verb::Create, arguments).await,
        Command::Replace(arguments) => resources::write(session, Verb::Replace, arguments).await,
        Command::Delete(arguments) => resources::delete(session, arguments).await,
        Command::Metrics => {
            let page = session.daemon.metrics().await.map_err(|error| Failure::of(&error))?;
            print(page.trim_end());
            Ok(())
        }
        Command::Label(arguments) => resources::label(session, arguments).await,
        Command::Policy(question) => policy::run(session, question).await,
        Command::Ipam(question) => ipam::run(session, question).await,
        Command::Node(question) => node::run(session, question).await,
        Command::Migrate(question) => migrate::run(session, question).await,
        Command::Serve | Command::Check | Command::Cleanup => Ok(()),
    }
}

fn with_config(command: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::read(&Environment) {
        Ok(config) => command(config),
        Err(error) => refuse(&error),
    }
}

/// dockerd logs stderr as an error, which this is.
#[expect(clippy::print_stderr, reason = "the one place where settings are refused, before there is a log")]
fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EX_USAGE)
}

/// Prints an answer; a closed pipe is the reader's wish.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn settings_help() -> String {
    let mut text = String::from("Settings, from the environment or `docker plugin set NAME=value`:\n");
    for setting in SETTINGS {
        let _ = write!(text, "\n  {} [{}]\n      {}", setting.name, setting.default, setting.help);
    }
    text
}
