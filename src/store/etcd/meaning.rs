//! What an error of etcd, of TLS or of the network means for whoever set the plugin up. Pure.

/// Texts that tell a cause, and the sentence for it. The first that fits counts. Texts: etcd's `rpctypes/error.go`,
/// rustls' `Error` and alerts.
const MEANINGS: [(&[&str], &str); 13] = [
    (&["certificate expired", "Expired"], "its certificate has expired, or this machine's clock is wrong"),
    (&["not valid yet", "NotValidYet"], "its certificate is not valid yet, or this machine's clock is wrong"),
    (&["not valid for name", "NotValidForName"], "its certificate is for another name or address"),
    (
        &["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"],
        "its certificate is not of the CA in ETCD_CA_CERT_FILE",
    ),
    (
        &["CertificateRequired", "certificate required"],
        "it asks for a client certificate: ETCD_CERT_FILE and ETCD_KEY_FILE are missing",
    ),
    (
        &[
            "alert: BadCertificate",
            "alert: UnknownCA",
            "alert: CertificateUnknown",
            "alert: CertificateExpired",
        ],
        "it refuses our client certificate, or needs one: ETCD_CERT_FILE and ETCD_KEY_FILE",
    ),
    (
        &["InvalidContentType", "tls handshake eof"],
        "it does not speak TLS there: its URL begins with http://",
    ),
    (&["user name is empty"], "it wants to know who we are: ETCD_USERNAME and ETCD_PASSWORD are missing"),
    (&["invalid user ID or password"], "it refuses ETCD_USERNAME with ETCD_PASSWORD"),
    (
        &["permission denied"],
        "the user of ETCD_USERNAME may not do this: it has to read and write below /calico/",
    ),
    (&["failed to lookup address", "dns error"], "its name is not known to DNS"),
    (&["Connection refused"], "nothing listens there"),
    (&["No route to host", "Network is unreachable"], "there is no way to it"),
];

/// What an error means, where that is known.
pub(super) fn meaning(text: &str) -> Option<&'static str> {
    let known = MEANINGS.iter().find(|(texts, _)| texts.iter().any(|known| text.contains(known)));
    known.map(|(_, meaning)| *meaning)
}

/// The error with its meaning in front, where it has one that is known.
pub(super) fn explained(text: String) -> String {
    match meaning(&text) {
        Some(meaning) => format!("{meaning} ({text})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_has_a_meaning_and_what_is_not_stays_as_it_is() {
        let cases = [
            ("invalid peer certificate: certificate expired: verification time 9", "has expired"),
            ("invalid peer certificate: UnknownIssuer", "not of the CA"),
            ("received fatal alert: CertificateRequired", "asks for a client certificate"),
            ("received corrupt message of type InvalidContentType", "begins with http://"),
            ("etcdserver: user name is empty", "ETCD_USERNAME and ETCD_PASSWORD are missing"),
            ("etcdserver: permission denied", "read and write below /calico/"),
            ("tcp connect error: Connection refused (os error 111)", "nothing listens there"),
        ];
        for (text, meaning) in cases {
            let said = explained(text.to_owned());
            assert!(said.contains(meaning) && said.contains(text), "{said}");
        }
        assert_eq!(explained("etcdserver: no space".to_owned()), "etcdserver: no space");
    }
}
