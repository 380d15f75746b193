//! Networks of a mesh. Each member cluster is a network of its own, and pods of two networks reach each other by gateways only.

use crate::Name;

/// The members whose network has no gateway that other networks can call. No gateway can be made yet, so it is all of them;
/// gateways come in here and nowhere else.
pub fn members_without_gateway(members: &[Name]) -> &[Name] {
    members
}

/// Whether a service is answered by its own cluster only.
///
/// istiod takes the endpoints of a network without a gateway for directly reachable, and a service that exists in two such
/// clusters loses the calls that go to the other one.
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
