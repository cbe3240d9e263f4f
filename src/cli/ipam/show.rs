//! `ipam show`: how full pools are, whose blocks there are, who has an address.

use super::super::session::{Failure, Session};
use super::super::{print, table};
use crate::ipam::Facts;
use crate::ipam::block::{Block, Standing};
use crate::model::{Cidr, IpPoolSpec, IpamConfig, Resource, key};
use crate::store::typed;
use clap::Args;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Arguments of `ipam show`.
#[derive(Debug, Args)]
pub(in super::super) struct Show {
    /// Only this address: who has it, since when
    #[arg(long, conflicts_with_all = ["show_blocks", "show_borrowed", "show_configuration"])]
    ip: Option<IpAddr>,
    /// The blocks of each pool, too
    #[arg(long)]
    show_blocks: bool,
    /// Addresses that nodes have from other nodes' blocks
    #[arg(long, conflicts_with_all = ["show_blocks", "show_configuration"])]
    show_borrowed: bool,
    /// How blocks are claimed
    #[arg(long, conflicts_with = "show_blocks")]
    show_configuration: bool,
}

pub(super) async fn run(session: &Session, arguments: Show) -> Result<(), Failure> {
    let text = if let Some(ip) = arguments.ip {
        address(&super::facts(session).await?, ip)
    } else if arguments.show_borrowed {
        borrowed(&super::facts(session).await?)
    } else if arguments.show_configuration {
        let found = typed::get::<IpamConfig>(&*session.store, key::IPAM_CONFIG).await;
        let config = found.map_err(|error| Failure::of(&error))?.map(|found| found.value).unwrap_or_default();
        super::configure::told(&config)
    } else {
        pools(session, arguments.show_blocks).await?
    };
    print(text.trim_end());
    Ok(())
}

async fn pools(session: &Session, show_blocks: bool) -> Result<String, Failure> {
    let (ipam, facts) = (super::ipam(session)?, super::facts(session).await?);
    let pools = typed::list::<Resource<IpPoolSpec>>(&*session.store, &key::resources::<IpPoolSpec>())
        .await
        .map_err(|error| Failure::of(&error))?;
    let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE", "NODE"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for pool in pools {
        let cidr = pool.value.spec.cidr;
        let usage = ipam.usage(&cidr, &cidr).await.map_err(|error| Failure::of(&error))?;
        let counts = [usage.size, usage.used, usage.free()].map(|count| count.to_string());
        rows.push([vec!["IP Pool".to_owned(), cidr.to_string()], counts.to_vec()].concat());
        let inside = facts.blocks().filter(|(block, _)| cidr.contains_cidr(block));
        rows.extend(inside.filter(|_| show_blocks).map(|(cidr, block)| block_row(cidr, block)));
    }
    Ok(table::align(&rows))
}

fn block_row(cidr: Cidr, block: Option<&Block>) -> Vec<String> {
    let name = vec!["Block".to_owned(), cidr.to_string()];
    let Some(block) = block else {
        return [name, ["?", "?", "?", "(damaged: ipam check)"].map(str::to_owned).to_vec()].concat();
    };
    let used = u128::try_from(block.taken().count()).unwrap_or(u128::MAX);
    let size = cidr.size();
    let counts = [size, used, size.saturating_sub(used)].map(|count| count.to_string());
    [name, counts.to_vec(), vec![block.owner().unwrap_or("(nobody)").to_owned()]].concat()
}

fn address(facts: &Facts, ip: IpAddr) -> String {
    let standing = facts.blocks().filter_map(|(_, block)| block).find_map(|block| block.standing(ip));
    let held = match standing {
        Some(Standing::Held(held)) => held,
        Some(Standing::Cooling) => {
            return format!("{ip} is not assigned; it was released a moment ago and is kept back");
        }
        Some(Standing::Free) | None => return format!("{ip} is not assigned"),
    };
    let mut text = format!("{ip} is in use, of block {}\n", held.block);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "handle: {}", held.handle.as_deref().unwrap_or("(none)"));
    for (name, value) in &held.attributes {
        let _ = writeln!(text, "{name}: {value}");
    }
    match facts.users(ip) {
        [] => {
            let _ = writeln!(text, "used by: nobody; it may be about to be, or be kept by a network");
        }
        users => {
            for user in users {
                let _ = writeln!(text, "used by: {} on node {}", user.title, user.node);
            }
        }
    }
    text
}

/// Addresses whose node is not their block's, as calicoctl lists them.
fn borrowed(facts: &Facts) -> String {
    let headings = ["IP", "BORROWING NODE", "BLOCK", "BLOCK OWNER", "ALLOCATED TO"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (cidr, block) in facts.blocks().filter_map(|(cidr, block)| Some((cidr, block?))) {
        let owner = block.owner();
        for held in block.allocations().filter(|held| held.node().is_some() && held.node() != owner) {
            let users: Vec<&str> = facts.users(held.ip).iter().map(|user| user.title.as_str()).collect();
            let to =
                if users.is_empty() { held.handle.clone().unwrap_or_default() } else { users.join(", ") };
            rows.push(vec![
                held.ip.to_string(),
                held.node().unwrap_or_default().to_owned(),
                cidr.to_string(),
                owner.unwrap_or("(nobody)").to_owned(),
                to,
            ]);
        }
    }
    table::align(&rows)
}
