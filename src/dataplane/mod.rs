//! STUB
use crate::model::{Cidr, EndpointId, IfaceName};
/// x
#[derive(Debug)]
pub struct Dataplane;
/// x
#[derive(Debug)]
pub struct PoolNat {
    /// x
    pub cidr: Cidr,
    /// x
    pub nat_outgoing: bool,
}
/// x
#[allow(missing_docs, clippy::unused_async)]
impl Dataplane {
    pub async fn new(_f: bool) -> Result<Self, std::io::Error> {
        Ok(Self)
    }
    pub async fn ensure(&self) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn add_endpoint(&self, _i: &IfaceName) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn remove_endpoint(&self, _i: &IfaceName) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn set_pools(&self, _i: &[PoolNat]) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn publish_ports<T>(&self, _e: &EndpointId, _i: &[T]) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn set_docker_bridges(&self, _i: Vec<String>) -> Result<(), std::io::Error> {
        Ok(())
    }
    pub async fn keep(&self) {
        std::future::pending().await
    }
    pub async fn remove_all(&self) -> Result<(), std::io::Error> {
        Ok(())
    }
}
/// x
pub async fn felix_signs() -> Vec<String> {
    vec![]
}
