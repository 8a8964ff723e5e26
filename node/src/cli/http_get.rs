//! What a node's HTTP listener says. A page or two in plain text is all that is ever asked for.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const TIME_MAX: Duration = Duration::from_secs(1);

/// An answer: whether it is a good one (status 200), and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) is_ok: bool,
    pub(crate) body: String,
}

/// Asks for a page, such as `/readyz`, of a listener at `host:port`.
///
/// # Errors
/// Nobody answers within a second.
pub(crate) async fn get(address: &str, path: &str) -> io::Result<Answer> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(parse(&answer))
    };
    match tokio::time::timeout(TIME_MAX, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within a second")),
    }
}

fn parse(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    Answer { is_ok: head.split(' ').nth(1) == Some("200"), body: body.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let check = |answer: &str, is_ok: bool, body: &str| {
            assert_eq!(parse(answer), Answer { is_ok, body: body.to_owned() }, "{answer:?}");
        };
        check("HTTP/1.0 200 OK\r\na: b\r\n\r\nready\n", true, "ready\n");
        check("HTTP/1.0 503 Service Unavailable\r\n\r\nnot ready: x\n", false, "not ready: x\n");
        check("", false, "");
    }
}
