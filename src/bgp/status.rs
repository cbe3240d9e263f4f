//! How sessions stand, from BIRD's `show protocols all` (pure).

use super::reply::Reply;
use std::fmt;

/// `show protocols`: one line for each protocol.
const PROTOCOL: u16 = 1002;

/// One session as BIRD sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionStatus {
    /// Name in BIRD's configuration.
    pub name: String,
    /// The node or the BGPPeer that it is for.
    pub of: String,
    /// Address of the peer.
    pub address: String,
    /// AS number of the peer.
    pub as_number: String,
    /// Whether routes are exchanged.
    pub up: bool,
    /// Since when it is as it is, by the host's clock.
    pub since: String,
    /// What BIRD waits for or what went wrong; empty if it is up.
    pub why: String,
    /// `3 imported, 5 exported, 3 preferred`; empty if it is not up.
    pub routes: String,
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, of, address, as_number, since, .. } = self;
        write!(f, "{name} with {of} ({address}, AS {as_number}) ")?;
        match self.up {
            true => write!(f, "is up since {since}; routes: {}", self.routes),
            false => write!(f, "is not up since {since}: {}", self.why),
        }
    }
}

/// All BGP sessions in the answer to `show protocols all`.
pub(super) fn sessions(reply: &Reply) -> Vec<SessionStatus> {
    let mut all: Vec<SessionStatus> = Vec::new();
    let mut is_bgp = false;
    for (code, line) in &reply.lines {
        if *code == PROTOCOL {
            let parsed = headline(line);
            is_bgp = parsed.is_some();
            all.extend(parsed);
        } else if is_bgp && let Some(session) = all.last_mut() {
            detail(session, line);
        }
    }
    for session in &mut all {
        if session.up {
            session.why.clear();
        }
    }
    all
}

/// `Mesh_10_0_0_2 BGP --- up 2026-11-26 22:06:08 Established`, with or without an error at the end.
fn headline(line: &str) -> Option<SessionStatus> {
    let mut words = line.split_whitespace();
    let (name, protocol) = (words.next()?, words.next()?);
    if protocol != "BGP" {
        return None;
    }
    let (_table, _state) = (words.next()?, words.next()?);
    let since = format!("{} {}", words.next()?, words.next()?);
    let state = words.next().unwrap_or_default();
    let error: Vec<&str> = words.collect();
    let why = if error.is_empty() { state.to_owned() } else { error.join(" ") };
    Some(SessionStatus {
        name: name.to_owned(),
        up: state == "Established",
        since,
        why,
        ..SessionStatus::default()
    })
}

fn detail(session: &mut SessionStatus, line: &str) {
    let Some((key, value)) = line.trim().split_once(':') else { return };
    let value = value.trim();
    let field = match key {
        "Description" => &mut session.of,
        "Neighbor address" => &mut session.address,
        "Neighbor AS" => &mut session.as_number,
        "Routes" => &mut session.routes,
        _ => return,
    };
    value.clone_into(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions_of(text: &str) -> Vec<String> {
        let mut reply = Reply::default();
        for line in text.lines() {
            reply.push(line).unwrap();
        }
        sessions(&reply).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sessions_are_told_in_sentences() {
        let text = "\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     2026-11-26 22:06:08  
1006-
1002-Mesh_172_16_0_2 BGP        ---        start  2026-11-26 22:06:08  Active        Socket: Connection closed
1006-  Description:    n2
   BGP state:          Active
     Neighbor address: 172.16.0.2
     Neighbor AS:      64512
     Last error:       Socket: Connection closed
   Channel ipv4
     State:          DOWN
 
1002-Global_fd00__9 BGP        ---        up     2026-11-26 22:06:09  Established   
1006-  Description:    tor
   BGP state:          Established
     Neighbor address: fd00::9
     Neighbor AS:      65001
   Channel ipv6
     State:          UP
     Routes:         3 imported, 5 exported, 3 preferred
 
0000 ";
        assert_eq!(
            sessions_of(text),
            [
                "Mesh_172_16_0_2 with n2 (172.16.0.2, AS 64512) is not up since 2026-11-26 22:06:08: Socket: Connection closed",
                "Global_fd00__9 with tor (fd00::9, AS 65001) is up since 2026-11-26 22:06:09; routes: 3 imported, 5 exported, 3 preferred",
            ]
        );
    }
}
