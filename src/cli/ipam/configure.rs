//! `ipam configure`: how blocks are claimed, under the key that IPAM reads (datamodel 1.14).

use super::super::print;
use super::super::session::{Failure, Session};
use crate::model::{IpamConfig, key};
use crate::store::{Txn, retry, typed};
use clap::Args;
use serde_json::{Map, Value, json};

/// Arguments of `ipam configure`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(in super::super) struct Configure {
    /// Whether a node takes addresses of its own blocks only
    #[arg(long, visible_alias = "strictaffinity", value_name = "true|false")]
    strict_affinity: Option<bool>,
    /// Blocks that a node may own; 0 for Calico's limit of 20
    #[arg(long, value_name = "NUMBER")]
    max_blocks_per_host: Option<u32>,
    /// Whether nodes may claim new blocks
    #[arg(long, value_name = "true|false")]
    auto_allocate_blocks: Option<bool>,
    /// Seconds for which a released address is kept back; only if all nodes run Calico v3.33 or this plugin
    #[arg(long, value_name = "SECONDS")]
    cooldown: Option<u32>,
}

pub(super) async fn run(session: &Session, arguments: Configure) -> Result<(), Failure> {
    let written = retry::on_conflict(|| write(session, &arguments)).await;
    match written.map_err(|error| Failure::of(&error))? {
        Ok(config) => {
            print(&told(&config));
            Ok(())
        }
        Err(why) => Err(Failure::Failed(why)),
    }
}

/// Changes what was asked for and nothing else; fields of other versions stay.
async fn write(
    session: &Session,
    arguments: &Configure,
) -> Result<Result<IpamConfig, String>, crate::store::StoreError> {
    let found = typed::get::<Map<String, Value>>(&*session.store, key::IPAM_CONFIG).await?;
    let at = found.as_ref().map(|found| found.revision);
    // An absent key and an empty document mean different things.
    let mut fields = found
        .map_or_else(|| Map::from_iter([("auto_allocate_blocks".to_owned(), json!(true))]), |it| it.value);
    for (field, value) in [
        ("strict_affinity", arguments.strict_affinity.map(Value::from)),
        ("auto_allocate_blocks", arguments.auto_allocate_blocks.map(Value::from)),
        ("maxBlocksPerHost", arguments.max_blocks_per_host.map(Value::from)),
        ("ipCooldownSeconds", arguments.cooldown.map(Value::from)),
    ] {
        match value {
            // Calico leaves false and 0 out.
            Some(Value::Bool(false)) => drop(fields.remove(field)),
            Some(Value::Number(number)) if number.as_u64() == Some(0) => drop(fields.remove(field)),
            Some(value) => drop(fields.insert(field.to_owned(), value)),
            None => {}
        }
    }
    let config: IpamConfig = match serde_json::from_value(Value::Object(fields.clone())) {
        Ok(config) => config,
        Err(error) => return Ok(Err(format!("{} cannot be read: {error}", key::IPAM_CONFIG))),
    };
    if let Some(why) = objection(&config) {
        return Ok(Err(why.to_owned()));
    }
    let value = typed::encode(key::IPAM_CONFIG, &fields)?;
    session.store.commit(Txn::new().upsert(key::IPAM_CONFIG, at, value)).await?;
    Ok(Ok(config))
}

/// What Calico refuses, too.
fn objection(config: &IpamConfig) -> Option<&'static str> {
    if !config.strict_affinity && !config.auto_allocate_blocks {
        return Some("without strict affinity nodes must be allowed to claim blocks (auto-allocate-blocks)");
    }
    if config.max_blocks_per_host > 0 && !config.strict_affinity {
        return Some("a limit of blocks per host needs strict affinity: a node at its limit would borrow");
    }
    None
}

/// The configuration as a table.
pub(super) fn told(config: &IpamConfig) -> String {
    let rows = [
        ["PROPERTY".to_owned(), "VALUE".to_owned()],
        ["StrictAffinity".to_owned(), config.strict_affinity.to_string()],
        ["AutoAllocateBlocks".to_owned(), config.auto_allocate_blocks.to_string()],
        ["MaxBlocksPerHost".to_owned(), config.max_blocks_per_host.to_string()],
        ["IPCooldownSeconds".to_owned(), config.ip_cooldown_seconds.to_string()],
    ];
    super::super::table::align(&rows.map(Vec::from))
}
