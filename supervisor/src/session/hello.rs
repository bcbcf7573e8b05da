//! Who may come in: the first frame of a client, judged.

use clutch_protocol::limits::{PROGRAM_BYTES_MAX, WORKER_TOKEN_BYTES_MAX};
use clutch_protocol::message::{Hello, PoolSize, Refusal, Refused, Role, Welcome, version};
use clutch_protocol::{Frame, FrameError, Kind, wire};

use crate::config;

/// What a newcomer is told when it does not speak this protocol but HTTP: in HTTP, so that whoever
/// pointed a browser or curl here reads it.
pub const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\nContent-Length: 60\r\n\r\n\
    this is a Clutch socket, not HTTP; use the `clutch` program\n";

/// Methods a request of HTTP may start with; the start of HTTP/2's preface is among them.
const HTTP_STARTS: [&[u8; 4]; 9] =
    [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"TRAC", b"PRI "];

/// Whether a fault in the first bytes is HTTP's.
pub fn is_http(fault: &FrameError) -> bool {
    matches!(fault, FrameError::Magic(start) if HTTP_STARTS.contains(&start))
}

/// Judges a client's first frame.
///
/// # Errors
///
/// What the client is told before its connection is closed.
pub fn judge(
    frame: &Frame,
    daemon: &config::Daemon,
    pools: Vec<PoolSize>,
) -> Result<(Hello, Welcome), Refused> {
    let refuse = |refusal, sentence: String| Err(Refused { refusal, sentence });
    if frame.header.kind != Kind::Hello {
        let sentence = format!("the first frame must be a Hello, not a {:?}", frame.header.kind);
        return refuse(Refusal::Protocol, sentence);
    }
    let hello: Hello = match wire::decode_prefix(&frame.meta) {
        Ok((hello, _)) => hello,
        Err(error) => return refuse(Refusal::Protocol, error.to_string()),
    };
    if hello.program.len() > PROGRAM_BYTES_MAX {
        let sentence = format!("the program's name may have {PROGRAM_BYTES_MAX} bytes");
        return refuse(Refusal::Protocol, sentence);
    }
    if hello.worker.len() > WORKER_TOKEN_BYTES_MAX {
        let sentence = format!("a worker's token may have {WORKER_TOKEN_BYTES_MAX} bytes");
        return refuse(Refusal::Protocol, sentence);
    }
    if hello.version_min > version::MAX || hello.version_max < version::MIN {
        let sentence = format!(
            "this daemon (clutch {}) speaks versions {} to {} of the protocol, the client versions \
             {} to {}; update the older of the two",
            env!("CARGO_PKG_VERSION"),
            version::MIN,
            version::MAX,
            hello.version_min,
            hello.version_max,
        );
        return refuse(Refusal::Version, sentence);
    }
    if hello.role != Role::Client {
        let sentence = "only clients may connect here; workers are given their sockets at birth";
        return refuse(Refusal::Role, sentence.to_owned());
    }
    let welcome = Welcome {
        version: version::MAX.min(hello.version_max),
        pid: std::process::id(),
        program: concat!("clutch ", env!("CARGO_PKG_VERSION")).to_owned(),
        payload_bytes_max: daemon.payload,
        in_flight_max: daemon.in_flight,
        pools,
        attached_bytes_max: daemon.attached,
    };
    Ok((hello, welcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_http_has_the_length_it_says() {
        let text = std::str::from_utf8(NOT_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
