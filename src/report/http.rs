//! A server for pages that only this machine reads: HTTP/1.1, GET and HEAD, one request a connection. Knows no files; what is
//! shown is the caller's business.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most bytes of a request's head.
const HEAD: usize = 8 * 1024;
/// Most connections at a time; a browser opens six.
const CONNECTIONS: usize = 32;
/// A request that is not there after this long is given up, as is an answer of which nothing was taken for this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, which starts with `/`; as it was written.
    pub path: String,
    /// What follows `?`.
    pub query: String,
}

impl Request {
    /// Returns a number of the query: 12 for `since` in `since=12`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name)?.1.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    status: &'static str,
    kind: &'static str,
    body: Arc<[u8]>,
}

impl Reply {
    /// Answers with a page.
    pub fn html(text: String) -> Self {
        Self { status: "200 OK", kind: "text/html; charset=utf-8", body: text.into_bytes().into() }
    }

    /// Answers with JSON.
    pub fn json(text: impl Into<Arc<[u8]>>) -> Self {
        Self { status: "200 OK", kind: "application/json", body: text.into() }
    }

    /// Answers that there is nothing, or nothing new.
    pub fn nothing() -> Self {
        Self { status: "204 No Content", kind: "", body: Arc::new([]) }
    }

    /// Answers that there is nothing of this name.
    pub fn not_found() -> Self {
        Self::refusal("404 Not Found", "there is nothing of this name here")
    }

    /// Answers that the program could not make it.
    pub fn broken(message: &str) -> Self {
        Self::refusal("500 Internal Server Error", message)
    }

    fn refusal(status: &'static str, message: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: format!("{message}\n").into_bytes().into() }
    }
}

/// Reads where to listen: `PORT`, `127.0.0.1:PORT`, `[::1]:PORT` or `localhost:PORT`; port 0 takes one that is free.
///
/// # Errors
/// What it is not; also where others than this machine could connect.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = numeric
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is no port and no address such as 127.0.0.1:8000"))?;
    if !address.ip().is_loopback() {
        let port = address.port();
        return Err(format!(
            "`{}` is no loopback address, and others must not read along; listen on 127.0.0.1:{port} and forward the port: \
             ssh -L {port}:127.0.0.1:{port} HOST",
            address.ip()
        ));
    }
    Ok(address)
}

/// Answers requests until the process ends, each in a thread of its own.
pub fn serve(listener: &TcpListener, answer: &Arc<dyn Fn(&Request) -> Reply + Send + Sync>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            // Too many open files, say: later there may be fewer.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let seat = Seat::take(&open);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        if seat.number >= CONNECTIONS {
            let busy = Reply::refusal("503 Service Unavailable", "too many connections; try again");
            send(&mut stream, &busy, false);
            continue;
        }
        let answer = Arc::clone(answer);
        // Where no thread can be had the connection closes, and the reader tries again.
        let _ = std::thread::Builder::new().name("page".to_owned()).spawn(move || {
            let _seat = seat;
            converse(&mut stream, &*answer);
        });
    }
}

/// A connection that counts as long as this lives.
struct Seat {
    open: Arc<AtomicUsize>,
    /// How many others there were.
    number: usize,
}

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { open: Arc::clone(open), number: open.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(stream: &mut TcpStream, answer: &dyn Fn(&Request) -> Reply) {
    let head = match head(stream) {
        Ok(head) => head,
        // Nobody asked anything.
        Err(None) => return,
        Err(Some(refusal)) => return refuse(stream, &refusal),
    };
    match read(&head) {
        Ok((request, with_body)) => send(stream, &answer(&request), with_body),
        Err(refusal) => refuse(stream, &refusal),
    }
}

/// Sends a refusal, and takes in what else was sent: closing with that unread would throw the refusal away on its way.
fn refuse(stream: &mut TcpStream, refusal: &Reply) {
    send(stream, refusal, true);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
    let mut rest = [0; 1024];
    for _ in 0..64 {
        if !matches!(stream.read(&mut rest), Ok(count) if count > 0) {
            break;
        }
    }
}

/// Returns the head of a request, without its last empty line.
fn head(stream: &mut TcpStream) -> Result<String, Option<Reply>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut more = [0; 1024];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > HEAD {
            return Err(Some(Reply::refusal("431 Request Header Fields Too Large", "the request is too long")));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Some(Reply::refusal("408 Request Timeout", "the request did not come to its end")));
        }
        stream.set_read_timeout(Some(left)).map_err(|_| None)?;
        match stream.read(&mut more) {
            Ok(0) => return Err(None),
            Ok(count) => bytes.extend_from_slice(&more[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Err(None),
        }
    };
    bytes.truncate(end);
    String::from_utf8(bytes).map_err(|_| Some(bad("the request is no text")))
}

fn bad(message: &str) -> Reply {
    Reply::refusal("400 Bad Request", message)
}

/// Reads a head; returns the request, and whether the body is wanted as well.
///
/// A page elsewhere can make a browser ask here under a name of its own that leads to this machine (DNS rebinding), and then read
/// the answer; but the browser says that name, and only names that always mean this machine are answered.
fn read(head: &str) -> Result<(Request, bool), Reply> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the first line is not METHOD PATH VERSION"));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(Reply::refusal("505 HTTP Version Not Supported", "HTTP/1.1 is spoken here"));
    }
    let mut hosts = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err(bad("a header has no colon")) };
        if name.eq_ignore_ascii_case("host") {
            hosts.push(value.trim());
        }
    }
    let [host] = hosts[..] else { return Err(bad("there is not exactly one Host")) };
    if !is_this_machine(host) {
        return Err(Reply::refusal("403 Forbidden", "ask for 127.0.0.1, [::1] or localhost"));
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Err(Reply::refusal("405 Method Not Allowed", "this page can only be read")),
    };
    if !target.starts_with('/') {
        return Err(bad("the path does not start with /"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok((Request { path: path.to_owned(), query: query.to_owned() }, with_body))
}

/// Whether a `Host` is a name that always means this machine, with any port: it may be forwarded.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(_, port)| is_port(port)).map(|(name, _)| name),
        None => match host.split_once(':') {
            Some((name, port)) => (!port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(name),
            None => Some(host),
        },
    };
    let Some(name) = name else { return false };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text is nothing, or a colon and a port.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

fn send(stream: &mut TcpStream, reply: &Reply, with_body: bool) {
    let mut head = format!("HTTP/1.1 {}\r\n", reply.status);
    if !reply.kind.is_empty() {
        head.push_str(&format!("Content-Type: {}\r\n", reply.kind));
    }
    if !reply.status.starts_with("204") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    if reply.status.starts_with("405") {
        head.push_str("Allow: GET, HEAD\r\n");
    }
    // The page has its script and pictures within it and asks only here.
    head.push_str(
        "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
    );
    // Nobody is left to be told where the reader has gone.
    let _ = stream.write_all(head.as_bytes());
    if with_body {
        let _ = stream.write_all(&reply.body);
    }
    let _ = stream.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "LocalHost:80", "127.0.0.1:8000", "127.8.8.8", "[::1]", "[::1]:8000"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "localhost:80:80",
            "localhost:",
            "[::1]evil.example",
            "[::2]",
            "192.168.0.1",
            "0.0.0.0",
            "::1",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn only_this_machine_is_listened_to() {
        assert_eq!(address("8000").map(|address| address.to_string()), Ok("127.0.0.1:8000".to_owned()));
        assert_eq!(address("localhost:0").map(|address| address.to_string()), Ok("127.0.0.1:0".to_owned()));
        assert_eq!(address("[::1]:9").map(|address| address.to_string()), Ok("[::1]:9".to_owned()));
        for wrong in ["0.0.0.0:80", "[::]:80", "192.168.0.1:80", "example.org:80", "127.0.0.1", "99999", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_query_has_numbers() {
        let request = Request { path: "/".into(), query: "a=1&since=12&b=x".into() };
        assert_eq!((request.number("since"), request.number("b"), request.number("c")), (Some(12), None, None));
    }

    #[test]
    fn heads_are_read_or_refused() {
        let status = |head: &str| match read(head) {
            Ok((request, with_body)) => format!("{} {} {with_body}", request.path, request.query),
            Err(reply) => reply.status[..3].to_owned(),
        };
        assert_eq!(status("GET /a?b=c HTTP/1.1\r\nhost: localhost"), "/a b=c true");
        assert_eq!(status("HEAD / HTTP/1.1\r\nHost:127.0.0.1:1"), "/  false");
        assert_eq!(status("GET / HTTP/1.1"), "400");
        assert_eq!(status("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost"), "400");
        assert_eq!(status("GET / HTTP/1.1\r\nHost: evil.example"), "403");
        assert_eq!(status("POST / HTTP/1.1\r\nHost: localhost"), "405");
        assert_eq!(status("GET http://evil.example/ HTTP/1.1\r\nHost: localhost"), "400");
        assert_eq!(status("GET / HTTP/2\r\nHost: localhost"), "505");
        assert_eq!(status("GET /"), "400");
    }
}
