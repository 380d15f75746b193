//! Reads the charts of a release.

/// Repacks the charts of a request, and returns them with their digest.
pub(crate) fn read_charts(sent: &[u8]) -> Result<(Vec<u8>, String), String> {
    let charts = meshwright_kubernetes::helm::repack_charts(sent)?;
    let digest = meshwright_store::sha256_hex(&charts);
    Ok((charts, digest))
}
