//! What is desired: plain data, and how each verb changes it. Pure.

use super::policy::PolicyState;
use super::{DataplaneError, PoolNat, PortMap, Tuning, VxlanNetworks};
use crate::model::{HOST_IFACE_PREFIX, IfaceName};
use crate::policy::{Changes, Direction};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a caller can ask for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verb {
    Ensure,
    Resync,
    SetPools(Vec<PoolNat>),
    SetVxlan(Box<VxlanNetworks>),
    SetBridges(BTreeSet<IfaceName>),
    AddEndpoint(IfaceName, BTreeSet<IpAddr>),
    RemoveEndpoint(IfaceName),
    SetSiblings(IfaceName, BTreeSet<IpAddr>),
    Publish(IfaceName, Vec<PortMap>),
    Revoke(IfaceName),
    Policy(Box<Changes>),
    Tune(Box<Tuning>),
    RemoveAll,
    StandBack,
    TakeOver,
}

/// Which elements of which sets a verb can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Pools,
    Bridges,
    Ports,
    Vxlan,
    Endpoint(IfaceName),
}

/// The state that the kernel shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) pools: Vec<PoolNat>,
    pub(super) bridges: BTreeSet<IfaceName>,
    pub(super) vxlan: VxlanNetworks,
    /// Interfaces that are open, each with the addresses that are routed to it.
    pub(super) endpoints: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
    /// Addresses of the other endpoints of the same container, by interface; only of interfaces that are open.
    pub(super) siblings: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
    pub(super) ports: BTreeMap<IfaceName, Vec<PortMap>>,
    /// Recorded by [`super::policy::switch`], not by [`Desired::apply`].
    pub(super) policy: PolicyState,
}

impl Desired {
    /// The chain that decides about the packets of an interface. `None` if it is closed.
    pub(super) fn shape_chain(&self, iface: &IfaceName, direction: Direction) -> Option<String> {
        self.policy.shape_chain(iface, direction).filter(|_| self.endpoints.contains_key(iface))
    }

    /// Refuses what cannot be.
    pub(super) fn check(&self, verb: &Verb) -> Result<(), DataplaneError> {
        match verb {
            Verb::AddEndpoint(iface, _) if !iface.as_str().starts_with(HOST_IFACE_PREFIX) => {
                Err(DataplaneError::ForeignInterface(iface.clone()))
            }
            Verb::Publish(iface, ports) => self.check_ports(iface, ports),
            _ => Ok(()),
        }
    }

    fn check_ports(&self, iface: &IfaceName, ports: &[PortMap]) -> Result<(), DataplaneError> {
        let others = self.ports.iter().filter(|(holder, _)| *holder != iface);
        let held: Vec<(&IfaceName, &PortMap)> =
            others.flat_map(|(h, list)| list.iter().map(move |p| (h, p))).collect();
        for (position, port) in ports.iter().enumerate() {
            port.check()?;
            let earlier = ports.iter().take(position).filter(|p| *p != port).map(|p| (iface, p));
            if let Some((holder, _)) =
                held.iter().copied().chain(earlier).find(|(_, taken)| taken.clashes(port))
            {
                let (port, protocol) = (port.host_port, port.protocol);
                return Err(DataplaneError::PortTaken { port, protocol, holder: holder.clone() });
            }
        }
        Ok(())
    }

    /// The parts that the verb changes.
    pub(super) fn parts(verb: &Verb) -> Vec<Part> {
        match verb {
            Verb::SetPools(_) => vec![Part::Pools],
            Verb::SetBridges(_) => vec![Part::Bridges],
            Verb::SetVxlan(_) => vec![Part::Vxlan],
            Verb::AddEndpoint(iface, _) | Verb::SetSiblings(iface, _) => vec![Part::Endpoint(iface.clone())],
            Verb::RemoveEndpoint(iface) => vec![Part::Endpoint(iface.clone()), Part::Ports],
            Verb::Publish(..) | Verb::Revoke(_) => vec![Part::Ports],
            Verb::Ensure
            | Verb::Resync
            | Verb::RemoveAll
            | Verb::StandBack
            | Verb::TakeOver
            | Verb::Tune(_)
            | Verb::Policy(_) => Vec::new(),
        }
    }

    /// Records the verb. Gives the verb that takes it back, for verbs that must leave nothing behind when they fail;
    /// the others describe facts and are tried again until they are in force.
    pub(super) fn apply(&mut self, verb: &Verb) -> Option<Verb> {
        match verb {
            Verb::SetPools(pools) => self.pools.clone_from(pools),
            Verb::SetBridges(bridges) => self.bridges.clone_from(bridges),
            Verb::SetVxlan(networks) => self.vxlan.clone_from(networks),
            Verb::AddEndpoint(iface, addresses) => {
                return match self.endpoints.insert(iface.clone(), addresses.clone()) {
                    None => Some(Verb::RemoveEndpoint(iface.clone())),
                    Some(before) => (before != *addresses).then(|| Verb::AddEndpoint(iface.clone(), before)),
                };
            }
            Verb::RemoveEndpoint(iface) => {
                self.endpoints.remove(iface);
                self.siblings.remove(iface);
                self.ports.remove(iface);
            }
            Verb::SetSiblings(iface, addresses) => {
                self.siblings.remove(iface);
                if self.endpoints.contains_key(iface) && !addresses.is_empty() {
                    self.siblings.insert(iface.clone(), addresses.clone());
                }
            }
            Verb::Publish(iface, ports) => {
                return Some(match self.ports.insert(iface.clone(), ports.clone()) {
                    Some(before) => Verb::Publish(iface.clone(), before),
                    None => Verb::Revoke(iface.clone()),
                });
            }
            Verb::Revoke(iface) => {
                self.ports.remove(iface);
            }
            Verb::Ensure
            | Verb::Resync
            | Verb::RemoveAll
            | Verb::StandBack
            | Verb::TakeOver
            | Verb::Tune(_)
            | Verb::Policy(_) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Protocol;

    fn iface(name: &str) -> IfaceName {
        IfaceName::new(name).unwrap()
    }

    fn open(name: &str, addresses: &[&str]) -> Verb {
        Verb::AddEndpoint(iface(name), addresses.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    fn map(host: Option<&str>, port: u16, to: &str) -> PortMap {
        let host_ip = host.map(|ip| ip.parse().unwrap());
        PortMap { protocol: Protocol::Tcp, host_ip, host_port: port, container: to.parse().unwrap() }
    }

    fn publish(desired: &mut Desired, name: &str, ports: &[PortMap]) -> Result<(), DataplaneError> {
        let verb = Verb::Publish(iface(name), ports.to_vec());
        desired.check(&verb)?;
        desired.apply(&verb);
        Ok(())
    }

    #[test]
    fn a_port_has_one_holder_per_host_address() {
        let mut desired = Desired::default();
        publish(&mut desired, "cali1", &[map(Some("192.0.2.1"), 80, "10.0.0.1:8080")]).unwrap();
        publish(&mut desired, "cali2", &[map(Some("192.0.2.2"), 80, "10.0.0.2:8080")]).unwrap();
        publish(&mut desired, "cali3", &[map(None, 80, "[fd00::3]:8080")]).unwrap();
        let error = publish(&mut desired, "cali4", &[map(Some("0.0.0.0"), 80, "10.0.0.4:80")]).unwrap_err();
        assert_eq!(error.to_string(), "port 80/tcp of the host is already published for endpoint cali1");
        publish(&mut desired, "cali1", &[map(Some("192.0.2.1"), 80, "10.0.0.1:9090")]).unwrap();
    }

    #[test]
    fn nonsense_mappings_are_refused() {
        let mut desired = Desired::default();
        let twice = [map(None, 80, "10.0.0.1:1"), map(None, 80, "10.0.0.1:2")];
        assert!(publish(&mut desired, "cali1", &twice).is_err());
        let zero = publish(&mut desired, "cali1", &[map(None, 0, "10.0.0.1:1")]).unwrap_err();
        assert_eq!(
            zero.to_string(),
            "port mapping 0/tcp to 10.0.0.1:1 cannot be published: port 0 is no port"
        );
        assert!(publish(&mut desired, "cali1", &[map(Some("fd00::1"), 80, "10.0.0.1:1")]).is_err());
        assert!(publish(&mut desired, "cali1", &[map(Some("::1"), 80, "[fd00::1]:1")]).is_err());
        assert!(publish(&mut desired, "cali1", &[map(Some("224.0.0.1"), 80, "10.0.0.1:1")]).is_err());
        assert_eq!(desired, Desired::default());
    }

    #[test]
    fn only_an_open_interface_has_siblings() {
        let mut desired = Desired::default();
        let siblings = |ip: &str| Verb::SetSiblings(iface("cali1"), BTreeSet::from([ip.parse().unwrap()]));
        desired.apply(&siblings("10.0.0.9"));
        assert_eq!(desired, Desired::default());
        desired.apply(&open("cali1", &["10.0.0.1"]));
        let open = desired.clone();
        desired.apply(&siblings("10.0.0.9"));
        desired.apply(&siblings("10.0.0.8"));
        assert_eq!(desired.siblings[&iface("cali1")], BTreeSet::from(["10.0.0.8".parse().unwrap()]));
        desired.apply(&Verb::SetSiblings(iface("cali1"), BTreeSet::new()));
        assert_eq!(desired, open);
        desired.apply(&siblings("10.0.0.9"));
        desired.apply(&Verb::RemoveEndpoint(iface("cali1")));
        assert_eq!(desired, Desired::default());
    }

    #[test]
    fn the_inverse_of_a_verb_restores_the_state() {
        let mut desired = Desired::default();
        desired.apply(&open("cali1", &["10.0.0.1"]));
        let before = desired.clone();
        for verb in [
            open("cali2", &[]),
            open("cali1", &["10.0.0.2"]),
            Verb::Publish(iface("cali1"), vec![map(None, 80, "10.0.0.1:1")]),
        ] {
            let inverse = desired.apply(&verb).unwrap();
            desired.apply(&inverse);
            assert_eq!(desired, before);
        }
        assert_eq!(desired.apply(&open("cali1", &["10.0.0.1"])), None);
    }
}
