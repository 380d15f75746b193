//! Releases that the mesh of the scenarios has.

use super::{LabRelease, OLD_RELEASE};

/// Patch before the newest one. It runs the newest one's istiod, which learns its version from its
/// image only.
pub(super) const PATCH_RELEASE: LabRelease = ("1.27.8.1", "1-27-8", "lab/proxyv2:1.27.8");
/// Newest patch in the same revision, because an upgrade in place keeps the revision's name.
pub(super) const PATCHED_IN_PLACE: LabRelease = ("1.27.9.1", "1-27-8", "lab/proxyv2:1.27.9");
/// Another build of the newest patch with an equal proxy image.
pub(super) const REBUILT_RELEASE: LabRelease = ("1.27.9.2", "1-27-8", "lab/proxyv2:1.27.9");
/// Another build of the newest patch with another proxy image.
pub(super) const NEW_IMAGE_RELEASE: LabRelease = ("1.27.9.3", "1-27-8", "lab/proxyv2:1.27.9-fips");
pub(super) const CATALOGUE: [(&str, &str); 5] = [
    ("1.25.1.1", "1.25.1"),
    ("1.27.8.1", "1.27.9"),
    ("1.27.9.1", "1.27.9"),
    ("1.27.9.2", "1.27.9"),
    ("1.27.9.3@1.27.9-fips", "1.27.9"),
];

/// Releases that the mesh has one after the other. It leaves the first one by a canary, and then
/// moves in place.
pub(super) const RELEASES: [LabRelease; 5] = [
    OLD_RELEASE,
    PATCH_RELEASE,
    PATCHED_IN_PLACE,
    REBUILT_RELEASE,
    NEW_IMAGE_RELEASE,
];
