//! What an engine sends for a docker command, and what it sends when a call fails (docker-protocol 1.5 and 2.3).

use crate::world::World;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// A prefix of `docker network create`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subnet {
    pub(crate) subnet: &'static str,
    pub(crate) range: &'static str,
    pub(crate) gateway: &'static str,
    pub(crate) aux: &'static [&'static str],
    pub(crate) v6: bool,
}

/// `--subnet`; empty for none.
pub(crate) fn subnet(text: &'static str) -> Subnet {
    Subnet { subnet: text, v6: text.contains(':'), ..Subnet::default() }
}

/// `--ipv6` without `--subnet`.
pub(crate) fn any_v6() -> Subnet {
    Subnet { v6: true, ..Subnet::default() }
}

/// `docker network create`.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkPlan {
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) options: Value,
    pub(crate) internal: bool,
    /// Prefixes of Docker's own IPAM instead.
    pub(crate) of_docker: Vec<&'static str>,
}

pub(crate) fn plan(subnets: &[Subnet]) -> NetworkPlan {
    NetworkPlan { subnets: subnets.to_vec(), ..NetworkPlan::default() }
}

/// A network as the engine remembers it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    pub(crate) id: String,
    /// PoolID and prefix, IPv4 first; none for Docker's IPAM.
    pub(crate) pools: Vec<(String, bool)>,
    /// PoolID and address of gateways and auxiliary addresses.
    fixed: Vec<(String, String)>,
    of_docker: bool,
}

/// `docker run`.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunPlan {
    pub(crate) ip: &'static str,
    pub(crate) ip6: &'static str,
    pub(crate) mac: &'static str,
    pub(crate) sandbox: Option<String>,
    pub(crate) ports: Vec<Value>,
    pub(crate) options: Map<String, Value>,
}

/// An endpoint as the engine remembers it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) network: String,
    /// PoolID and plain address.
    pub(crate) addresses: Vec<(String, String)>,
    pub(crate) joined: Value,
    pub(crate) sandbox: String,
}

impl Endpoint {
    pub(crate) fn reference(&self) -> Value {
        json!({"NetworkID": self.network, "EndpointID": self.id})
    }

    pub(crate) fn ip(&self) -> &str {
        &self.addresses[0].1
    }
}

/// An engine of one generation: 20, 26, 28 or 29.
pub(crate) struct Engine<'w> {
    pub(crate) world: &'w World,
    pub(crate) generation: u8,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A new ID of 64 hex digits. The number comes first: interface names have eleven of them.
pub(crate) fn new_id() -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{number:08x}{}", "ab".repeat(28))
}

/// `-p`.
pub(crate) fn port(host_port: u16, port: u16) -> Value {
    json!({"Proto": 6, "IP": "", "Port": port, "HostIP": "", "HostPort": host_port, "HostPortEnd": host_port})
}

impl<'w> Engine<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self { world, generation: 29 }
    }

    /// A call whose failure the engine only logs.
    async fn quietly(&self, method: &str, body: &Value) {
        drop(self.world.call(method, body).await);
    }

    async fn release(&self, addresses: &[(String, String)]) {
        for (pool, address) in addresses {
            self.quietly("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": address})).await;
        }
    }

    /// `docker network create`. A failure is followed by what the engine sends then.
    pub(crate) async fn create(&self, plan: &NetworkPlan) -> Result<Network, String> {
        let mut network =
            Network { id: new_id(), of_docker: !plan.of_docker.is_empty(), ..Network::default() };
        let made = self.create_inner(plan, &mut network).await;
        if let Err(error) = made {
            self.release(&network.fixed).await;
            for (pool, _) in &network.pools {
                self.quietly("IpamDriver.ReleasePool", &json!({"PoolID": pool})).await;
            }
            return Err(error);
        }
        Ok(network)
    }

    async fn create_inner(&self, plan: &NetworkPlan, network: &mut Network) -> Result<(), String> {
        let v6 =
            plan.subnets.iter().any(|subnet| subnet.v6) || plan.of_docker.iter().any(|s| s.contains(':'));
        let v4 =
            plan.subnets.iter().any(|subnet| !subnet.v6) || plan.of_docker.iter().any(|s| !s.contains(':'));
        let generic = if plan.options.is_null() { json!({}) } else { plan.options.clone() };
        let mut options =
            json!({"com.docker.network.enable_ipv6": v6, "com.docker.network.generic": generic});
        if self.generation >= 28 {
            options["com.docker.network.enable_ipv4"] = json!(v4);
        }
        if plan.internal {
            options["com.docker.network.internal"] = json!(true);
        }
        if self.generation >= 28 {
            self.world.call("NetworkDriver.GwAllocCheck", &json!({"Options": options})).await?;
        }
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for subnet in &plan.subnets {
            let data = self.request_pool(subnet, network).await?;
            if subnet.v6 { ipv6.push(data) } else { ipv4.push(data) }
        }
        for prefix in &plan.of_docker {
            let gateway = prefix.replace("0/", "1/").replace("::/", "::1/");
            let data = json!({"AddressSpace": "LocalDefault", "Pool": prefix, "Gateway": gateway});
            if prefix.contains(':') { ipv6.push(data) } else { ipv4.push(data) }
        }
        let body = json!({"NetworkID": network.id, "Options": options, "IPv4Data": ipv4, "IPv6Data": ipv6});
        self.world.call("NetworkDriver.CreateNetwork", &body).await?;
        Ok(())
    }

    async fn request_pool(&self, subnet: &Subnet, network: &mut Network) -> Result<Value, String> {
        let body = json!({"AddressSpace": "CalicoAddressSpace", "Pool": subnet.subnet, "SubPool": subnet.range,
            "Options": {}, "V6": subnet.v6});
        let answer = self.world.call("IpamDriver.RequestPool", &body).await?;
        let id = answer["PoolID"].as_str().unwrap().to_owned();
        network.pools.push((id.clone(), subnet.v6));
        let mut gateway = answer["Data"]["com.docker.network.gateway"].clone();
        if !subnet.gateway.is_empty() {
            let body = json!({"PoolID": id, "Address": subnet.gateway,
                "Options": {"RequestAddressType": "com.docker.network.gateway"}});
            gateway = self.world.call("IpamDriver.RequestAddress", &body).await?["Address"].clone();
        }
        let plain = gateway.as_str().unwrap().split('/').next().unwrap().to_owned();
        network.fixed.push((id.clone(), plain));
        let mut aux = Map::new();
        for address in subnet.aux {
            let body = json!({"PoolID": id, "Address": address, "Options": null});
            let answer = self.world.call("IpamDriver.RequestAddress", &body).await?;
            network.fixed.push((id.clone(), (*address).to_owned()));
            aux.insert((*address).to_owned(), answer["Address"].clone());
        }
        let mut data =
            json!({"AddressSpace": "CalicoAddressSpace", "Pool": answer["Pool"], "Gateway": gateway});
        if !aux.is_empty() {
            data["AuxAddresses"] = Value::Object(aux);
        }
        Ok(data)
    }

    /// `docker network rm`. Failures are logged, and the network is forgotten anyway.
    pub(crate) async fn remove(&self, network: &Network) {
        self.release(&network.fixed).await;
        for (pool, _) in &network.pools {
            self.quietly("IpamDriver.ReleasePool", &json!({"PoolID": pool})).await;
        }
        self.quietly("NetworkDriver.DeleteNetwork", &json!({"NetworkID": network.id})).await;
    }

    /// `docker run`.
    pub(crate) async fn run(&self, network: &Network) -> Result<Endpoint, String> {
        self.run_with(network, &RunPlan::default()).await
    }

    /// `docker run` with options, or `docker network connect` with a sandbox that exists.
    pub(crate) async fn run_with(&self, network: &Network, plan: &RunPlan) -> Result<Endpoint, String> {
        let id = new_id();
        let sandbox = plan.sandbox.clone().unwrap_or_else(|| format!("/run/docker/netns/{}", &id[..12]));
        let mut endpoint =
            Endpoint { id, network: network.id.clone(), addresses: Vec::new(), joined: Value::Null, sandbox };
        let mut interface = json!({"Address": "", "AddressIPv6": "", "MacAddress": plan.mac});
        for (pool, v6) in &network.pools {
            let wanted = if *v6 { plan.ip6 } else { plan.ip };
            let options = match self.generation {
                29 => json!({"com.docker.network.endpoint.name": "c1"}),
                _ => Value::Null,
            };
            let body = json!({"PoolID": pool, "Address": wanted, "Options": options});
            let answer = match self.world.call("IpamDriver.RequestAddress", &body).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.release(&endpoint.addresses).await;
                    return Err(error);
                }
            };
            let address = answer["Address"].as_str().unwrap();
            interface[if *v6 { "AddressIPv6" } else { "Address" }] = json!(address);
            endpoint.addresses.push((pool.clone(), address.split('/').next().unwrap().to_owned()));
        }
        if network.of_docker {
            interface["Address"] = json!(plan.ip);
            interface["AddressIPv6"] = json!(plan.ip6);
        }
        self.attach(&mut endpoint, plan, &interface).await?;
        Ok(endpoint)
    }

    async fn attach(&self, endpoint: &mut Endpoint, plan: &RunPlan, interface: &Value) -> Result<(), String> {
        let mut options = plan.options.clone();
        options.insert("com.docker.network.portmap".to_owned(), json!(plan.ports));
        let body = json!({"NetworkID": endpoint.network, "EndpointID": endpoint.id, "Interface": interface,
            "Options": options});
        if let Err(error) = self.world.call("NetworkDriver.CreateEndpoint", &body).await {
            self.release(&endpoint.addresses).await;
            return Err(error);
        }
        let ports = json!({"com.docker.network.portmap": plan.ports});
        let body = json!({"NetworkID": endpoint.network, "EndpointID": endpoint.id,
            "SandboxKey": endpoint.sandbox, "Options": ports});
        match self.world.call("NetworkDriver.Join", &body).await {
            Ok(answer) => endpoint.joined = answer,
            Err(error) => {
                if self.generation >= 29 {
                    self.quietly("NetworkDriver.Leave", &endpoint.reference()).await;
                }
                self.delete(endpoint).await;
                return Err(error);
            }
        }
        let mut body = endpoint.reference();
        body["Options"] = ports;
        if let Err(error) = self.world.call("NetworkDriver.ProgramExternalConnectivity", &body).await {
            self.quietly("NetworkDriver.Leave", &endpoint.reference()).await;
            self.delete(endpoint).await;
            return Err(error);
        }
        self.world.ok("NetworkDriver.EndpointOperInfo", &endpoint.reference()).await;
        Ok(())
    }

    async fn delete(&self, endpoint: &Endpoint) {
        self.quietly("NetworkDriver.DeleteEndpoint", &endpoint.reference()).await;
        self.release(&endpoint.addresses).await;
    }

    /// `docker stop`. Failures are logged, and the endpoint is forgotten anyway.
    pub(crate) async fn stop(&self, endpoint: &Endpoint) {
        self.quietly("NetworkDriver.RevokeExternalConnectivity", &endpoint.reference()).await;
        self.quietly("NetworkDriver.Leave", &endpoint.reference()).await;
        self.delete(endpoint).await;
    }
}
