//! Where a remote cache is: reads what a person wrote, and keeps what must not be shown apart from the rest.

use std::fmt;

/// The forms of address, for messages.
const FORMS: &str =
    "write `http://HOST/PATH`, `https://HOST/PATH`, `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `az://CONTAINER/PATH`";

/// How a remote cache is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
    /// Amazon S3 and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Scheme {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// The address of a remote cache.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Host and port, or bucket.
    pub host: String,
    /// What stands before the names of objects, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Name and password; never shown.
    user: Option<(String, String)>,
}

impl Address {
    /// Reads an address. `secret` says that it comes from the environment, the only place where it may carry a password.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, and shows nothing that may be a secret.
    pub fn parse(text: &str, secret: bool) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("the address of a remote cache needs a scheme; {FORMS}"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            _ => return Err(format!("the address of a remote cache has an unknown scheme; {FORMS}")),
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '\\')) {
            return Err(format!("the address of a remote cache has characters that it cannot have; {FORMS}"));
        }
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, host)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((decoded(name), decoded(password))), host)
            }
        };
        if user.is_some() && !secret {
            return Err(
                "the address of a remote cache has a name or a password in it, which belong into the environment: \
                        write the whole address into ORANDFLOW_REMOTE"
                    .to_owned(),
            );
        }
        if user.is_some() && !matches!(scheme, Scheme::Http | Scheme::Https) {
            return Err(
                "credentials of cloud stores are read from the environment variables of their own tools, not from \
                        the address"
                    .to_owned(),
            );
        }
        if host.is_empty() {
            return Err(format!("the address of a remote cache has no host; {FORMS}"));
        }
        if prefix.split('/').any(|part| part == "..") {
            return Err("the address of a remote cache has `..` in it".to_owned());
        }
        Ok(Self { scheme, host: host.to_owned(), prefix: prefix.trim_matches('/').to_owned(), user })
    }

    /// Returns the value of the header `Authorization`, if it has a name and a password.
    pub(super) fn authorization(&self) -> Option<String> {
        let (name, password) = self.user.as_ref()?;
        Some(format!("Basic {}", base64(format!("{name}:{password}").as_bytes())))
    }

    /// Returns the whole address of an object, without name and password.
    pub(super) fn of(&self, name: &str) -> String {
        format!("{self}/{name}")
    }
}

/// Shows neither name nor password.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme.word(), self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.prefix) }
    }
}

/// Shows neither name nor password.
impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Address({self})")
    }
}

/// Takes `%41` for `A`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0_u32, |number, at| number << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_from_the_environment_only_and_never_shown() {
        let text = "https://me:p%40ss@cache.example.org:8443/a/b/";
        let address = Address::parse(text, true).expect("an address");
        assert_eq!(address.to_string(), "https://cache.example.org:8443/a/b");
        assert_eq!(format!("{address:?}"), "Address(https://cache.example.org:8443/a/b)");
        assert_eq!(address.of("ac/1"), "https://cache.example.org:8443/a/b/ac/1");
        // `printf me:p@ss | base64`
        assert_eq!(address.authorization().as_deref(), Some("Basic bWU6cEBzcw=="));
        for wrong in [text, "me:secret", "ftp://secret@x", "s3://secret:b@x/y", "http:///secret", "http://x/?secret"] {
            let error = Address::parse(wrong, wrong.starts_with("s3")).expect_err("it is wrong");
            assert!(!error.contains("p%40ss") && !error.contains("secret"), "{error}");
        }
        assert_eq!(Address::parse("S3://bucket", false).expect("an address").to_string(), "s3://bucket");
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text, "the examples of RFC 4648, section 10");
        }
    }
}
