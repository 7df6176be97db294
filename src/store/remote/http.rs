//! A remote cache over HTTP: GET, HEAD and PUT of objects. Knows nothing of what they mean.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http::StatusCode;

use super::address::Address;
use super::{CONNECTIONS, Fault, Stream, Transport};

/// The slowest rate at which a body may come or go before the remote counts as dead, in bytes per second.
const SLOWEST: u64 = 64 << 10;

/// A server that speaks HTTP.
pub(super) struct Http {
    agent: ureq::Agent,
    address: Address,
    authorization: Option<String>,
    patience: Duration,
}

/// Shows neither name nor password.
impl fmt::Debug for Http {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Http({})", self.address)
    }
}

impl Http {
    pub(super) fn new(address: Address, patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("orandflow/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(CONNECTIONS)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_send_request(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience));
        let authorization = address.authorization().or_else(|| {
            let token = std::env::var("ORANDFLOW_REMOTE_TOKEN").ok().filter(|token| !token.is_empty())?;
            Some(format!("Bearer {token}"))
        });
        Self { agent: config.build().into(), authorization, address, patience }
    }

    /// Returns how long a body of this length may take.
    fn time_for(&self, size: u64) -> Duration {
        self.patience.saturating_mul(4).saturating_add(Duration::from_secs(size / SLOWEST))
    }

    fn with_authorization<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        }
    }
}

impl Transport for Http {
    fn get(&self, name: &str, from: u64, size: u64) -> Result<Option<Stream>, Fault> {
        let mut request = self.with_authorization(self.agent.get(self.address.of(name)));
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let request = request.config().timeout_recv_body(Some(self.time_for(size))).build();
        let response = request.call().map_err(|error| fault(&error))?;
        let from = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => from,
            // Nothing behind what is there: it is shorter than it should be.
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(None),
            status => return Err(refused(status)),
        };
        Ok(Some(Stream { from, body: Box::new(response.into_body().into_reader()) }))
    }

    fn has(&self, name: &str, size: u64) -> Result<bool, Fault> {
        let request = self.with_authorization(self.agent.head(self.address.of(name)));
        let response = request.call().map_err(|error| fault(&error))?;
        let length = response.headers().get("Content-Length").and_then(|length| length.to_str().ok()?.parse().ok());
        match response.status() {
            StatusCode::OK => Ok(length.is_none_or(|length: u64| length == size)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(false),
            status => Err(refused(status)),
        }
    }

    fn put(&self, name: &str, size: u64, content: &mut (dyn Read + Send)) -> Result<(), Fault> {
        let request = self.with_authorization(self.agent.put(self.address.of(name)));
        let request =
            request.header("Content-Length", size.to_string()).header("Content-Type", "application/octet-stream");
        let time = Some(self.time_for(size));
        let request = request.config().timeout_send_body(time).timeout_recv_response(time).build();
        let mut content = content;
        let response = request.send(ureq::SendBody::from_reader(&mut content)).map_err(|error| fault(&error))?;
        if response.status().is_success() { Ok(()) } else { Err(refused(response.status())) }
    }
}

/// Says in a few words what went wrong. The address is not in it: whoever shows it knows that.
fn fault(error: &ureq::Error) -> Fault {
    let again = match error {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Protocol(_) => true,
        _ => false,
    };
    let message = match error {
        ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
        ureq::Error::HostNotFound => "its host is not found".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            "its certificate is not trusted, or it speaks no TLS".to_owned()
        }
        _ => "it does not speak HTTP as expected".to_owned(),
    };
    Fault { message, again }
}

fn refused(status: StatusCode) -> Fault {
    let message = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!(
                "it refuses access ({}); credentials stand in ORANDFLOW_REMOTE or ORANDFLOW_REMOTE_TOKEN",
                status.as_u16()
            )
        }
        StatusCode::PAYLOAD_TOO_LARGE => "it takes no object of this size (413)".to_owned(),
        _ => format!("it answers with status {}", status.as_u16()),
    };
    Fault { message, again: matches!(status.as_u16(), 429 | 502..=504) }
}
