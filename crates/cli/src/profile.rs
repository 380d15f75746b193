//! Loads and saves the profile: the address of a service and an API key, in a file that only its
//! owner can read.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::options::CliArgs;
use crate::{Failure, Result};

/// Address of the service, and the API key of the caller.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) server: String,
    pub(crate) key: String,
}

fn profile_path() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let nowhere = || {
        Failure::new(
            2,
            "neither XDG_CONFIG_HOME nor HOME is set: give --server and --key-file",
        )
    };
    Ok(base
        .ok_or_else(nowhere)?
        .join("meshwright")
        .join("profile.json"))
}

/// Returns the address and key from the arguments, or from the saved profile where the arguments
/// have none.
pub(crate) fn resolve_profile(options: &CliArgs) -> Result<Profile> {
    let stored: Option<Profile> = std::fs::read(profile_path()?)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let (server, key) = stored.map_or((None, None), |stored| {
        (Some(stored.server), Some(stored.key))
    });
    let given = options.key_file.as_ref().map(|path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::new(2, format!("{}: {error}", path.display())))
    });
    let key = given
        .transpose()?
        .map(|text| text.trim().to_owned())
        .or(key);
    let missing = || {
        Failure::new(
            5,
            "not logged in: run meshwright login --server ADDRESS --key-file FILE",
        )
    };
    let server = parse_base_url(&options.server.clone().or(server).ok_or_else(missing)?)?;
    Ok(Profile {
        server,
        key: key.ok_or_else(missing)?,
    })
}

/// Parses the address that paths are appended to: http or https, a host, perhaps a path. The result
/// has no slash at its end.
fn parse_base_url(server: &str) -> Result<String> {
    let refused = |why: &str| {
        Failure::new(
            2,
            format!("--server {server}: {why}, as in https://meshwright.example"),
        )
    };
    let address: reqwest::Url = server
        .trim()
        .parse()
        .map_err(|_| refused("an address begins with http:// or https://"))?;
    if !matches!(address.scheme(), "http" | "https") || !address.has_host() {
        return Err(refused("an address begins with http:// or https://"));
    }
    if address.query().is_some() || address.fragment().is_some() || !address.username().is_empty() {
        return Err(refused("an address has no query, no fragment and no user"));
    }
    Ok(address.as_str().trim_end_matches('/').to_owned())
}

/// Saves a profile, and returns the path of its file.
pub(crate) fn save_profile(profile: &Profile) -> Result<PathBuf> {
    let file = profile_path()?;
    let folder = file
        .parent()
        .ok_or_else(|| Failure::other("the profile has no folder"))?;
    std::fs::create_dir_all(folder).map_err(Failure::other)?;
    let text = serde_json::to_string_pretty(profile).map_err(Failure::other)?;
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(Failure::other)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_and_without_slashes_at_its_end() {
        for given in [
            "http://host:8080",
            "http://host:8080/",
            "http://host:8080//",
            " http://host:8080/ ",
        ] {
            assert_eq!(parse_base_url(given).expect(given), "http://host:8080");
        }
        assert_eq!(
            parse_base_url("https://host/mesh/").expect("a path"),
            "https://host/mesh"
        );
        for bad in [
            "host:8080",
            "ftp://host",
            "http://",
            "https://host/?a=b",
            "https://me:x@host/",
            "",
        ] {
            assert_eq!(parse_base_url(bad).expect_err(bad).code, 2, "{bad}");
        }
    }
}
