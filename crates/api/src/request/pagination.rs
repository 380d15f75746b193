//! Splits lists into pages. A page token is opaque: it holds the last key of a page, and is valid
//! for one tenant, route and filter only.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshwright_store::Page;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::{ApiError, Result};
use crate::request::caller::{AppState, Caller};

/// Number of items in a page when the request does not give `page_size`.
pub(crate) const DEFAULT_PAGE_SIZE: i64 = 50;
/// Largest number of items that a request can ask for in one page.
pub(crate) const MAX_PAGE_SIZE: i64 = 500;
/// Length of the message authentication code in a page token, in bytes.
const TOKEN_MAC_BYTES: usize = 32;

/// Request for one page of a list with the filter `F`.
#[derive(Debug)]
pub(crate) struct ListRequest<F> {
    pub(crate) filter: F,
    size: i64,
    token: Option<String>,
    /// Route and filter of the request; a page token is valid for these only.
    route_and_filter: String,
}

/// Filter of a list that takes no filter.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unfiltered {}

/// Filter of a list that can include deleted objects.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeletedFilter {
    #[serde(default)]
    pub(crate) show_deleted: bool,
}

impl<F: DeserializeOwned> FromRequestParts<AppState> for ListRequest<F> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &AppState) -> Result<Self> {
        let bad = |error: String| ApiError::malformed_query(error);
        let Query(mut pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| bad(error.body_text()))?;
        pairs.sort();
        if let Some(twice) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(bad(format!("{} is given twice", twice[0].0)));
        }
        let mut take = |name: &str| {
            let place = pairs.iter().position(|(key, _)| key == name)?;
            Some(pairs.remove(place).1)
        };
        let (size, token) = (take("page_size"), take("page_token"));
        let size = size.map_or(Some(DEFAULT_PAGE_SIZE), |text| {
            text.parse()
                .ok()
                .filter(|size| (1..=MAX_PAGE_SIZE).contains(size))
        });
        let size = size.ok_or_else(|| {
            ApiError::invalid_field("?page_size", format!("1 to {MAX_PAGE_SIZE}"))
        })?;
        let rest = serde_urlencoded::to_string(&pairs).map_err(|error| bad(error.to_string()))?;
        let filter = serde_urlencoded::from_str(&rest).map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            filter,
            size,
            token,
            route_and_filter: format!("{}?{rest}", parts.uri.path()),
        })
    }
}

impl<F> ListRequest<F> {
    /// Returns the bytes that the code of a page token authenticates: the tenant, the route with
    /// its filter, and the last key of the page.
    fn token_mac_input(&self, caller: &Caller, last: &[u8]) -> Vec<u8> {
        let mut bytes = format!("page {} {} ", caller.tenant, self.route_and_filter).into_bytes();
        bytes.extend(last);
        bytes
    }

    /// Returns the page to read from the store, with one row more than is shown. The surplus row
    /// tells whether another page follows.
    pub(crate) fn page(&self, caller: &Caller) -> Result<Page> {
        let limit = self.size + 1;
        let Some(token) = &self.token else {
            return Ok(Page { after: None, limit });
        };
        let wrong = || {
            ApiError::invalid_field(
                "?page_token",
                "give back what the last page of this very list said",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
        let (proof, last) = bytes.split_at_checked(TOKEN_MAC_BYTES).ok_or_else(wrong)?;
        if !caller
            .app
            .vault
            .verify_secret(&self.token_mac_input(caller, last), proof)
        {
            return Err(wrong());
        }
        Ok(Page {
            after: Some(Uuid::from_slice(last).map_err(|_| wrong())?),
            limit,
        })
    }

    /// Cuts the surplus row off, and builds the token of the next page if there was a surplus row.
    pub(crate) fn split_page<T>(
        &self,
        caller: &Caller,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> Uuid,
    ) -> (Vec<T>, Option<String>) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let token = rows.last().filter(|_| more).map(|last| {
            let last = key(last);
            let mut bytes = caller
                .app
                .vault
                .digest_secret(&self.token_mac_input(caller, last.as_bytes()));
            bytes.extend(last.as_bytes());
            URL_SAFE_NO_PAD.encode(bytes)
        });
        (rows, token)
    }
}
