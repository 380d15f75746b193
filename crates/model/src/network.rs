//! Models the networks of a mesh. Each member cluster is a network of its own, and pods of two
//! networks reach each other only through gateways.

use crate::Name;

/// Returns the members whose network has no gateway that other networks can call. Gateways cannot
/// be created yet, so these are all members. Support for gateways will change this function and no
/// other place.
pub fn members_without_gateway(members: &[Name]) -> &[Name] {
    members
}

/// Returns true if only the caller's own cluster answers calls of a service.
///
/// istiod takes the endpoints of a network without a gateway for directly reachable. A service that
/// exists in two such clusters would lose the calls that go to the other one.
pub fn services_stay_local(members: &[Name]) -> bool {
    members.len() > 1 && !members_without_gateway(members).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d10_services_of_several_networks_without_gateways_stay_in_their_cluster() {
        let members: Vec<Name> = ["c1", "c2"].map(|name| name.parse().expect(name)).into();
        assert!(services_stay_local(&members));
        assert!(!services_stay_local(&members[..1]));
    }
}
