//! A TLS greeting of our own: gRPC's client keeps for itself why one fails, and says that the connection was closed.

use super::options::TlsFiles;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What an HTTP/2 client says first (RFC 9113, 3.4); a server that does not want us answers nothing before it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Greets what listens at `host:port`; the error is what it, or TLS on this side, says.
pub(super) async fn greet(authority: &str, files: &TlsFiles) -> Result<(), String> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let config = config(files)?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, tcp).await.map_err(|error| match error.kind() {
        // A server without TLS closes before it has read all of the greeting, and then the kernel says so by a reset.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => format!("tls handshake eof: {error}"),
        _ => error.to_string(),
    })?;
    // With TLS 1.3 a server looks at the client's certificate when our side takes itself for connected.
    // It may have closed before our words left; its alert is still there to read, and tells more than a broken pipe.
    let sent = stream.write_all(PREFACE).await;
    match (stream.read_u8().await, sent) {
        (Ok(_), _) => Ok(()),
        (Err(heard), Err(sent)) if heard.kind() != ErrorKind::InvalidData => Err(sent.to_string()),
        (Err(heard), _) => Err(heard.to_string()),
    }
}

/// Whether what listens there speaks TLS.
pub(super) async fn speaks_tls(authority: &str) -> bool {
    match greet(authority, &TlsFiles::default()).await {
        Ok(()) => true,
        // We trust nobody here: a certificate or an alert is what TLS has to say about that.
        Err(said) => said.contains("peer certificate") || said.contains("alert"),
    }
}

fn config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &files.ca {
        let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| text(&error))?;
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(certificate).map_err(|error| text(&error))?.collect();
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| text(&error))?;
            builder
                .with_client_auth_cert(chain.map_err(|error| text(&error))?, key)
                .map_err(|error| text(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
