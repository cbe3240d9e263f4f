//! This host's Calico node name, which must be Felix's to the letter: Felix, routes and IPAM compare it as text.

use crate::config::Config;
use crate::model::NodeName;

/// In calico/node's order (`node/pkg/lifecycle/utils/utils.go`): the setting, the file that calico/node leaves, the
/// host's name in lower case. `HOSTNAME` is not asked: in a container it names the container.
pub fn node_name(config: &Config) -> Result<NodeName, String> {
    if let Some(name) = &config.node_name {
        return Ok(name.clone());
    }
    let file = &config.places.nodename_file;
    match std::fs::read_to_string(file) {
        Ok(text) => {
            return NodeName::new(text.trim()).map_err(|error| format!("{}: {error}", file.display()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("read {}: {error}", file.display())),
    }
    let hostname = nix::unistd::gethostname().map_err(|error| error.to_string())?;
    let hostname = hostname.into_string().map_err(|_| "the host's name is not UTF-8".to_owned())?;
    NodeName::from_hostname(&hostname).map_err(|error| error.to_string())
}
