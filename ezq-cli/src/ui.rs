//! `ezq ui`: the dashboard, for as long as the command runs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use ezq::error::error_chain;
use ezq_ui::{BoundServer, Dashboard, Secret, Server, ServerError, ServerErrorKind};
use serde_json::json;

use crate::failure::Failure;
use crate::session::{Access, Session, user};
use crate::stopping::Signals;

/// The variable of the token. A command line is no place for it: others on the machine can read that.
const TOKEN: &str = "EZQ_UI_TOKEN";

#[derive(Debug, Args)]
pub(crate) struct Ui {
    /// Where to listen. Other addresses than those of this machine need a token or a password file
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Show, and let nobody change anything
    #[arg(long)]
    read_only: bool,

    /// A name of DNS by which the dashboard may be reached, such as that of a proxy; can be repeated
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// The file of a token with which one signs in [default: the token in EZQ_UI_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The file of the hash of a password with which one signs in
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    password_file: Option<PathBuf>,

    /// The header in which a proxy names the signed-in person, for the audit trail. Who comes without it may
    /// look and change nothing. The proxy must remove the header from what browsers send
    #[arg(long, value_name = "NAME", value_parser = header_name)]
    user_header: Option<String>,

    /// Read a password from stdin, print its hash for a password file, and do nothing else
    #[arg(long)]
    hash_password: bool,
}

pub(crate) async fn run(session: &Session, ui: Ui) -> Result<(), Failure> {
    if ui.hash_password {
        return hash_password(session);
    }

    let secret = secret(&ui)?;
    let signals = Signals::new()?;
    let is_read_only = ui.read_only || session.global.dry_run;
    let access = match is_read_only {
        true => Access::Read,
        // A pause, for one, is kept in a table of ezq's own.
        false => Access::Change,
    };
    let ezq = session.connect(access).await?;

    let policy = match is_read_only {
        true => ezq_ui::Access::read_only(),
        false => actions(ui.user_header, secret.is_some()),
    };
    let dashboard = Dashboard::new(ezq.clone(), policy).hosts(ui.hosts);
    let mut server = Server::new(dashboard).listen(ui.listen);
    if let Some(secret) = secret {
        server = server.secret(secret);
    }

    let server = server.bind().await?;
    announce(session, &server)?;
    server.serve(signals.received()).await?;
    ezq.close().await;
    Ok(())
}

/// Everybody who is in may act, under the name that a proxy gives them where there is one.
fn actions(user_header: Option<String>, has_secret: bool) -> ezq_ui::Access {
    if let Some(name) = user_header {
        return ezq_ui::Access::actions(move |request| {
            let values = request.headers.get_all(&name).iter();
            named(values.map(|value| value.as_bytes()))
        });
    }
    // Who signs in with a secret is not the user that runs the program.
    let user = user().filter(|_| !has_secret);
    let operator = user.unwrap_or_else(|| "dashboard".to_owned());
    ezq_ui::Access::actions(move |_| Some(operator.clone()))
}

/// The person whom a proxy names. Of two names nobody knows which the proxy has set.
fn named<'h>(mut values: impl Iterator<Item = &'h [u8]>) -> Option<String> {
    let first = values.next()?;
    let is_only = values.next().is_none();
    let text = std::str::from_utf8(first).ok()?.trim();
    (is_only && !text.is_empty()).then(|| text.to_owned())
}

fn header_name(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let is_name = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match is_name && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err("the name of a header has letters, digits, `-` and `_`".to_owned()),
    }
}

/// Prints where the dashboard is.
fn announce(session: &Session, server: &BoundServer) -> Result<(), Failure> {
    let address = address(server);
    match session.global.json {
        true => session.output.lines(&[json!({"url": address})])?,
        false => session.output.data(&address)?,
    }
    session.output.note(match server.link() {
        Some(_) => "The link lets in one browser, within an hour. Ctrl-C ends the dashboard",
        None => "Sign in with the token or the password. Ctrl-C ends the dashboard",
    });
    if !server.address().ip().to_canonical().is_loopback() {
        session.output.note(
            "It speaks no TLS: put a proxy that does before it, where others can read the network",
        );
    }
    Ok(())
}

/// The link, or else the address where one signs in.
pub(crate) fn address(server: &BoundServer) -> String {
    match server.link() {
        Some(link) => link.to_owned(),
        None => format!("http://{}/", server.address()),
    }
}

fn secret(ui: &Ui) -> Result<Option<Secret>, Failure> {
    if let Some(file) = &ui.password_file {
        return Ok(Some(Secret::password_file(file)?));
    }
    if let Some(file) = &ui.token_file {
        return Ok(Some(Secret::token_file(file)?));
    }
    match std::env::var(TOKEN) {
        Ok(token) if !token.is_empty() => Ok(Some(Secret::token(&token)?)),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("the variable {TOKEN} is no text")))
        }
    }
}

fn hash_password(session: &Session) -> Result<(), Failure> {
    let mut password = String::new();
    io::stdin()
        .read_line(&mut password)
        .map_err(|error| Failure::error(format!("cannot read the password: {error}")))?;
    let hash = Secret::hash_password(password.trim_end_matches(['\r', '\n']))?;
    match session.global.json {
        true => session.output.lines(&[json!({"hash": hash})]),
        false => session.output.data(&hash),
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let text = error_chain(&error);
        match error.kind() {
            ServerErrorKind::Listen | ServerErrorKind::Serve => Self::error(text),
            // The command line, or a file that it names, is wrong.
            _ => Self::usage(text),
        }
    }
}
