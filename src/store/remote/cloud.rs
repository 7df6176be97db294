//! A remote cache in a cloud store, through the `object_store` crate. Credentials come from the environment variables that the tools
//! of these stores read as well.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::runtime::Runtime;

use super::address::{Address, Scheme};
use super::{ATTEMPTS, Fault, LONGEST_RESULT, Stream, Transport};

/// Objects come and go in pieces of so many bytes. S3 wants at least 5 MiB in all but the last one.
const PIECE: usize = 8 << 20;

/// A bucket.
pub(super) struct Cloud {
    runtime: Arc<Runtime>,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    address: Address,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cloud({})", self.address)
    }
}

impl Cloud {
    pub(super) fn new(address: &Address, patience: Duration) -> Result<Self, String> {
        // Another part of the program may have chosen one before; it is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = |given: ClientOptions| {
            given.with_connect_timeout(patience).with_read_timeout(patience).with_timeout(patience.saturating_mul(60))
        };
        // Plain HTTP only where somebody asks for it, as for a server of one's own.
        let plain = ["AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"]
            .iter()
            .any(|name| std::env::var(name).is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE")));
        let options = options(ClientOptions::new().with_allow_http(plain));
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() },
            max_retries: ATTEMPTS - 1,
            retry_timeout: patience,
        };
        let store: Result<Arc<dyn ObjectStore>, Error> = match address.scheme {
            Scheme::Gs => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(&address.host)
                .with_client_options(options)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            Scheme::Az => MicrosoftAzureBuilder::from_env()
                .with_container_name(&address.host)
                .with_client_options(options)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            Scheme::S3 | Scheme::Http | Scheme::Https => AmazonS3Builder::from_env()
                .with_bucket_name(&address.host)
                .with_client_options(options)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
        };
        // What the builders say may quote what they were given.
        let store = store.map_err(|_| {
            format!("the remote cache {address}: the environment variables of this store are missing or not as they should be")
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime =
            Arc::new(runtime.map_err(|error| format!("threads for the remote cache cannot be started: {error}"))?);
        Ok(Self { runtime, store, prefix: address.prefix.clone(), address: address.clone() })
    }

    fn path(&self, name: &str) -> Path {
        Path::from(if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) })
    }
}

impl Transport for Cloud {
    fn get(&self, name: &str, from: u64, size: u64) -> Result<Option<Stream>, Fault> {
        let path = self.path(name);
        // How long what came of an action is nobody knows before.
        if size >= LONGEST_RESULT && name.starts_with("ac/") {
            let bytes = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
            return Ok(found(bytes)?.map(|bytes| Stream { from: 0, body: Box::new(std::io::Cursor::new(bytes)) }));
        }
        let length = match found(self.runtime.block_on(self.store.head(&path)))? {
            None => return Ok(None),
            Some(meta) => meta.size,
        };
        if length != size {
            return Ok(None);
        }
        let (runtime, store) = (Arc::clone(&self.runtime), Arc::clone(&self.store));
        let pieces = Pieces { runtime, store, path, at: from, size, piece: Default::default() };
        Ok(Some(Stream { from, body: Box::new(pieces) }))
    }

    fn has(&self, name: &str, size: u64) -> Result<bool, Fault> {
        let path = self.path(name);
        Ok(found(self.runtime.block_on(self.store.head(&path)))?.is_some_and(|object| object.size == size))
    }

    fn put(&self, name: &str, size: u64, content: &mut (dyn Read + Send)) -> Result<(), Fault> {
        let path = self.path(name);
        let mut next = || {
            let mut piece = Vec::new();
            let read = content.take(PIECE as u64).read_to_end(&mut piece);
            read.map(|_| piece).map_err(|error| Fault { message: error.to_string(), again: false })
        };
        let first = next()?;
        if first.len() as u64 == size {
            let put = self.runtime.block_on(self.store.put(&path, first.into()));
            return put.map(drop).map_err(|error| fault(&error));
        }
        let mut upload = self.runtime.block_on(self.store.put_multipart(&path)).map_err(|error| fault(&error))?;
        let (mut piece, mut done) = (first, 0);
        let result = loop {
            if piece.is_empty() {
                break self.runtime.block_on(upload.complete()).map(drop).map_err(|error| fault(&error));
            }
            done += piece.len() as u64;
            let part = upload.put_part(piece.into());
            if let Err(error) = self.runtime.block_on(part) {
                break Err(fault(&error));
            }
            match next() {
                Ok(more) => piece = more,
                Err(error) => break Err(error),
            }
        };
        if result.is_err() || done != size {
            // Nothing of an upload that is not completed is ever seen; the store forgets it sooner or later.
            let _ = self.runtime.block_on(upload.abort());
        }
        result
    }
}

/// An object, a piece after the other.
struct Pieces {
    runtime: Arc<Runtime>,
    store: Arc<dyn ObjectStore>,
    path: Path,
    at: u64,
    size: u64,
    piece: std::io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.piece.read(buffer)?;
        if count > 0 || self.at >= self.size {
            return Ok(count);
        }
        let end = self.size.min(self.at + PIECE as u64);
        let bytes = self.runtime.block_on(self.store.get_range(&self.path, self.at..end));
        let bytes = bytes.map_err(|error| std::io::Error::other(fault(&error).message))?;
        self.at = end;
        self.piece = std::io::Cursor::new(bytes.to_vec());
        self.piece.read(buffer)
    }
}

fn found<T>(result: object_store::Result<T>) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(fault(&error)),
    }
}

/// Says in a few words what went wrong. What the store itself says is left out: it may quote credentials.
fn fault(error: &Error) -> Fault {
    let message = match error {
        Error::NotFound { .. } => "there is no such bucket or container".to_owned(),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            "it refuses access; credentials stand in the environment variables of its own tools".to_owned()
        }
        _ => "it does not answer as expected, or not in time".to_owned(),
    };
    // It has been tried again already.
    Fault { message, again: false }
}
