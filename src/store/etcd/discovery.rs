//! Where etcd is, from DNS: the SRV records that etcd's own tools and Calico ask for.

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

/// Service names, and the scheme of what they name (etcd `client/pkg/srv`).
const SERVICES: [(&str, &str); 2] = [("_etcd-client-ssl._tcp", "https"), ("_etcd-client._tcp", "http")];

/// URLs of the members, those with TLS first, each by priority; the error is a sentence.
pub(super) async fn discover(domain: &str) -> Result<Vec<String>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
    let resolver = resolver.map_err(|error| format!("the system's DNS settings cannot be read: {error}"))?;
    discover_with(&resolver, domain).await
}

async fn discover_with(resolver: &TokioResolver, domain: &str) -> Result<Vec<String>, String> {
    let mut urls = Vec::new();
    let mut why = String::new();
    for (service, scheme) in SERVICES {
        // Absolute: search domains are not meant here.
        let name = format!("{service}.{}.", domain.trim_end_matches('.'));
        match resolver.lookup(name, RecordType::SRV).await {
            Ok(answer) => {
                let mut targets: Vec<_> = answer
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some((srv.priority, srv.weight, srv.target.to_utf8(), srv.port)),
                        _ => None,
                    })
                    .collect();
                targets.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
                urls.extend(
                    targets.into_iter().map(|(_, _, host, port)| {
                        format!("{scheme}://{}:{port}", host.trim_end_matches('.'))
                    }),
                );
            }
            Err(error) => why = error.to_string(),
        }
    }
    if urls.is_empty() {
        let services = SERVICES.map(|(service, _)| format!("{service}.{domain}")).join(" and ");
        return Err(format!("etcd is not found: no SRV record of {services}: {why}"));
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    fn labels(name: &str) -> Vec<u8> {
        let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
        let mut bytes: Vec<u8> = name.split('.').flat_map(label).collect();
        bytes.push(0);
        bytes
    }

    /// The answer to a query (RFC 1035): records of priority, weight, port and target, or that there is no such name.
    fn answer(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let question = &query[12..end];
        let asked = |name: &str| question.to_ascii_lowercase().starts_with(&labels(name));
        let records: &[(u16, u16, u16, &str)] = if asked("_etcd-client-ssl._tcp.example.org") {
            &[(20, 1, 2379, "c.example.org"), (10, 1, 2379, "b.example.org"), (10, 9, 2380, "a.example.org")]
        } else if asked("_etcd-client._tcp.example.org") {
            &[(0, 0, 4001, "plain.example.org")]
        } else {
            &[]
        };
        let code = if records.is_empty() { 3 } else { 0 };
        let mut bytes = [&query[..2], &[0x85, 0x80 | code, 0, 1]].concat();
        bytes.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(question);
        for (priority, weight, port, target) in records {
            let target = labels(target);
            bytes.extend([0xC0, 0x0C, 0, 33, 0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(6 + target.len()).unwrap().to_be_bytes());
            bytes.extend([*priority, *weight, *port].map(u16::to_be_bytes).concat());
            bytes.extend(target);
        }
        bytes
    }

    async fn resolver() -> TokioResolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                socket.send_to(&answer(&query[..length]), from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    #[tokio::test]
    async fn members_come_with_their_scheme_and_in_order() {
        let found = discover_with(&resolver().await, "example.org").await.unwrap();
        let wanted = [
            "https://a.example.org:2380",
            "https://b.example.org:2379",
            "https://c.example.org:2379",
            "http://plain.example.org:4001",
        ];
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn a_domain_without_records_is_named_with_what_was_looked_for() {
        let why = discover_with(&resolver().await, "example.com").await.unwrap_err();
        assert!(why.contains("_etcd-client-ssl._tcp.example.com and _etcd-client._tcp.example.com"), "{why}");
    }
}
