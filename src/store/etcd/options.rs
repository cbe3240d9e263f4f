//! What an etcd connection is made of.

use crate::store::StoreError;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an open stream may be silent before the connection is probed. etcd closes connections that are probed
/// more often than every 5 s (its `--grpc-keepalive-min-time`), or that are probed at all while nothing is open on
/// them: so probes go with watches, and calls have their deadline.
const PROBE_AFTER: Duration = Duration::from_secs(6);

/// How long a probe may stay unanswered. A connection that is given up too soon costs a new one and nothing else.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where etcd is and how to talk to it.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `https://10.0.0.1:2379`, or without scheme `10.0.0.1:2379`: then https if a TLS file is given, else http. The
    /// members of one cluster, in order of preference.
    pub endpoints: Vec<String>,
    /// The domain whose SRV records name the members, instead of `endpoints`; asked at the first use.
    pub discovery: Option<String>,
    /// User name and password, if etcd's authentication is on.
    pub credentials: Option<(String, String)>,
    /// The files of TLS; read again for each new connection, so that renewed ones are picked up.
    pub tls: TlsFiles,
    /// How long one member may take to accept a connection before the next one is tried.
    pub dial_timeout: Duration,
    /// The deadline of a call, over all members that are tried.
    pub request_timeout: Duration,
}

/// PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the authority that etcd's certificate must come from.
    pub ca: Option<PathBuf>,
    /// Our certificate, if etcd asks for one.
    pub certificate: Option<PathBuf>,
    /// The private key of our certificate.
    pub key: Option<PathBuf>,
}

impl EtcdOptions {
    /// No authentication, no TLS, 2 s to connect, 5 s a call.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            discovery: None,
            credentials: None,
            tls: TlsFiles::default(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        }
    }

    /// The endpoints as URLs.
    pub(super) fn urls(&self) -> Vec<String> {
        let scheme = if self.tls == TlsFiles::default() { "http" } else { "https" };
        let given = self.endpoints.iter().map(|endpoint| endpoint.trim().trim_end_matches('/'));
        given
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| match endpoint.contains("://") {
                true => endpoint.to_owned(),
                false => format!("{scheme}://{endpoint}"),
            })
            .collect()
    }

    /// The client's options for one member.
    pub(super) fn connect_options(&self, url: &str) -> Result<ConnectOptions, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.dial_timeout)
            .with_keep_alive(PROBE_AFTER, PROBE_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PROBE_AFTER)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = &self.credentials {
            options = options.with_user(user, password);
        }
        if url.starts_with("https://") {
            options = options.with_tls(self.tls.load()?);
        } else if !url.starts_with("http://") {
            return unusable(format!("{url} is no http:// or https:// URL"));
        }
        Ok(options)
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("discovery", &self.discovery)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("dial_timeout", &self.dial_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

impl TlsFiles {
    fn load(&self) -> Result<TlsOptions, StoreError> {
        let Some(ca) = &self.ca else {
            // The plugin's root file system holds no public authorities, and etcd's certificates come from a private one.
            return unusable("https needs the file of the CA certificate".to_owned());
        };
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(read(certificate)?, read(key)?)))
            }
            (None, None) => Ok(tls),
            _ => unusable("a client certificate needs both files, certificate and key".to_owned()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).or_else(|error| unusable(format!("TLS file {} cannot be read: {error}", path.display())))
}

fn unusable<T>(why: String) -> Result<T, StoreError> {
    Err(StoreError::Unavailable { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoints: &[&str]) -> EtcdOptions {
        EtcdOptions::new(endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect())
    }

    #[test]
    fn an_endpoint_without_scheme_gets_the_one_that_fits() {
        let mut options = options(&[" 10.0.0.1:2379/ ", "http://a:1", "", "https://b:2/"]);
        assert_eq!(options.urls(), ["http://10.0.0.1:2379", "http://a:1", "https://b:2"]);
        options.tls.ca = Some("/ca.pem".into());
        assert_eq!(options.urls(), ["https://10.0.0.1:2379", "http://a:1", "https://b:2"]);
    }

    #[test]
    fn what_is_missing_for_tls_is_named() {
        let mut options = options(&["a:1"]);
        let why = |options: &EtcdOptions, url| options.connect_options(url).unwrap_err().to_string();
        assert!(why(&options, "https://a:1").contains("CA certificate"));
        assert!(why(&options, "unix://a").contains("no http:// or https:// URL"));
        options.tls.ca = Some("/absent/ca.pem".into());
        assert!(why(&options, "https://a:1").contains("/absent/ca.pem"));
        assert!(options.connect_options("http://a:1").is_ok());
    }

    #[test]
    fn the_password_is_never_printed() {
        let mut options = options(&["a:1"]);
        options.credentials = Some(("calico".into(), "hunter2".into()));
        let text = format!("{options:?}");
        assert!(text.contains("calico") && !text.contains("hunter2"), "{text}");
    }
}
