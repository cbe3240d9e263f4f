//! `ipam show`: how full pools are, whose blocks there are, who has an address.

use super::session::{Failure, Session};
use super::{print, table};
use crate::ipam::Ipam;
use crate::ipam::block::Block;
use crate::model::{
    AllocationBlock, IpPoolSpec, NodeName, ORCHESTRATOR, Resource, WorkloadEndpointSpec, key,
};
use crate::store::typed;
use clap::Subcommand;
use std::fmt::Write as _;
use std::net::IpAddr;

/// What is asked about addresses.
#[derive(Debug, Subcommand)]
pub(super) enum Addresses {
    /// How full pools are, or who has one address
    Show {
        /// Only this address: who has it, since when
        #[arg(long, conflicts_with = "show_blocks")]
        ip: Option<IpAddr>,
        /// The blocks of each pool, too
        #[arg(long)]
        show_blocks: bool,
    },
}

pub(super) async fn run(session: Session, question: Addresses) -> Result<(), Failure> {
    // Nothing is assigned here, so that it does not matter in whose name is read.
    let reader = NodeName::new(ORCHESTRATOR).map_err(|error| Failure::of(&error))?;
    let ipam = Ipam::new(session.store.clone(), reader);
    let text = match question {
        Addresses::Show { ip: Some(ip), .. } => address(&session, &ipam, ip).await?,
        Addresses::Show { ip: None, show_blocks } => pools(&session, &ipam, show_blocks).await?,
    };
    print(text.trim_end());
    Ok(())
}

async fn pools(session: &Session, ipam: &Ipam, show_blocks: bool) -> Result<String, Failure> {
    let pools = typed::list::<Resource<IpPoolSpec>>(&*session.store, &key::resources::<IpPoolSpec>())
        .await
        .map_err(|error| Failure::of(&error))?;
    let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE", "NODE"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    let blocks = typed::list::<AllocationBlock>(&*session.store, key::BLOCK_ROOT)
        .await
        .map_err(|error| Failure::of(&error))?;
    for pool in pools {
        let cidr = pool.value.spec.cidr;
        let usage = ipam.usage(&cidr, &cidr).await.map_err(|error| Failure::of(&error))?;
        let counts = [usage.size, usage.used, usage.free()].map(|count| count.to_string());
        rows.push([vec!["IP Pool".to_owned(), cidr.to_string()], counts.to_vec()].concat());
        let inside = blocks.iter().filter(|block| cidr.contains_cidr(&block.value.cidr));
        for block in inside.filter(|_| show_blocks) {
            let block = Block::open(block.value.clone()).map_err(|error| Failure::of(&error))?;
            let used = u128::try_from(block.taken().count()).unwrap_or(u128::MAX);
            let size = block.cidr().size();
            let node = block.owner().unwrap_or("(nobody)").to_owned();
            let counts = [size, used, size.saturating_sub(used)].map(|count| count.to_string());
            let name = vec!["Block".to_owned(), block.cidr().to_string()];
            rows.push([name, counts.to_vec(), vec![node]].concat());
        }
    }
    Ok(table::align(&rows))
}

async fn address(session: &Session, ipam: &Ipam, ip: IpAddr) -> Result<String, Failure> {
    let Some(found) = ipam.lookup(ip).await.map_err(|error| Failure::of(&error))? else {
        return Ok(format!("{ip} is not assigned"));
    };
    let mut text = format!("{ip} is in use, of block {}\n", found.block);
    let _ = writeln!(text, "handle: {}", found.handle.as_deref().unwrap_or("(none)"));
    for (name, value) in &found.attributes {
        let _ = writeln!(text, "{name}: {value}");
    }
    let endpoints = typed::list::<Resource<WorkloadEndpointSpec>>(
        &*session.store,
        &key::resources::<WorkloadEndpointSpec>(),
    )
    .await
    .map_err(|error| Failure::of(&error))?;
    let has = |net: &String| net.split('/').next().is_some_and(|it| it.parse() == Ok(ip));
    let holder = endpoints.iter().find(|endpoint| endpoint.value.spec.ip_networks.iter().any(has));
    let _ = match holder {
        Some(holder) => writeln!(text, "endpoint: {}", holder.value.name()),
        None => writeln!(text, "endpoint: none; it may be about to be made, or be kept by a network"),
    };
    Ok(text)
}
