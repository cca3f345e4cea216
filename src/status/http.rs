// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! As much of HTTP as the status socket needs: GET, one answer, and the connection ends.

use httparse::{Request, Status, EMPTY_HEADER};

/// Longest request.
pub const REQUEST_MAX: usize = 4096;
const HEADERS_MAX: usize = 32;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The status document.
    Status,
    /// The same as Prometheus text.
    Metrics,
    /// The last events, as a trace.
    Trace,
}

/// What has come of a request so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not all of it.
    Partial,
    /// All of it.
    Request(Wanted),
    /// The answer that refuses it.
    Refused(&'static str),
}

/// Looks at the bytes of a request.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Partial) if bytes.len() < REQUEST_MAX => return Parsed::Partial,
        Ok(Status::Partial) => return Parsed::Refused("431 Request Header Fields Too Large"),
        Ok(Status::Complete(_)) => {}
        Err(_) => return Parsed::Refused("400 Bad Request"),
    }
    if request.method != Some("GET") {
        return Parsed::Refused("405 Method Not Allowed");
    }
    // A scrape may have parameters, of which there are none here.
    match request.path.and_then(|path| path.split('?').next()) {
        Some("/status") => Parsed::Request(Wanted::Status),
        Some("/metrics") => Parsed::Request(Wanted::Metrics),
        Some("/trace") => Parsed::Request(Wanted::Trace),
        _ => Parsed::Refused("404 Not Found"),
    }
}

/// An answer.
pub fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// An answer that refuses a request.
pub fn refusal(status: &str) -> Vec<u8> {
    answer(status, "text/plain", format!("{status}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_request_in_pieces_is_partial_until_its_end() {
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(parse(&request[..end]), Parsed::Partial);
        }
        assert_eq!(parse(request), Parsed::Request(Wanted::Metrics));
    }

    #[test]
    fn test_request_with_a_query_is_answered_as_without() {
        for (target, wanted) in [
            ("/status?x", Wanted::Status),
            ("/metrics?collect[]=a&format=text", Wanted::Metrics),
            ("/trace?", Wanted::Trace),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(parse(request.as_bytes()), Parsed::Request(wanted));
        }
    }

    #[test]
    fn test_request_that_is_not_served_is_refused_with_its_status() {
        let long = [
            b"GET /status HTTP/1.1\r\nX: ".as_slice(),
            &[b'x'; REQUEST_MAX],
        ]
        .concat();
        for (request, status) in [
            (b"POST /status HTTP/1.1\r\n\r\n".as_slice(), "405"),
            (b"GET / HTTP/1.1\r\n\r\n", "404"),
            (b"GET /?/status HTTP/1.1\r\n\r\n", "404"),
            (b"\x16\x03\x01\x02\x00", "400"),
            (&long, "431"),
        ] {
            let Parsed::Refused(refused) = parse(request) else {
                panic!("{status}");
            };
            assert!(refused.starts_with(status), "{refused}");
        }
    }
}
