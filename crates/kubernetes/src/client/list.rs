//! Reads lists page by page, within the limits on a cluster's answers.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::Value;

use super::answer::CallError;
use super::request::escape_query_value;
use super::{ClusterClient, told};

/// Number of objects in one page of a list.
const LIST_PAGE_SIZE: u32 = 250;
/// Number of objects in one page after a page of the usual size was larger than one answer may be.
const SMALL_LIST_PAGE_SIZE: u32 = 20;

/// Complete list, reduced to what `keep` returned for each object.
pub(crate) struct ObjectList<T> {
    pub(crate) items: Vec<T>,
    /// Resource version of the list, from which a watch continues.
    pub(crate) version: String,
}

impl ClusterClient {
    /// Lists all objects of a collection, page by page. A kind that the cluster does not know has
    /// no objects.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does, or if the list exceeds a limit.
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, ClusterError> {
        Ok(self.list_mapped(path, query, Value::clone).await?.items)
    }

    /// Lists all objects of a collection and keeps only what `keep` returns for each of them, so
    /// that the whole objects do not stay in memory.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::list`] does.
    pub(crate) async fn list_mapped<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: impl Fn(&Value) -> T + Send + Sync,
    ) -> Result<ObjectList<T>, ClusterError> {
        let slow = CallError::Unreachable(
            ProblemCode::ListTooSlow,
            "its list did not come to an end in time",
        );
        let listed = tokio::time::timeout(
            self.limits().list_timeout,
            self.list_pages(path, query, &keep),
        )
        .await;
        listed
            .unwrap_or(Err(slow))
            .map_err(|failure| failure.into_cluster_error(self.cluster_name()))
    }

    /// Reads the pages of a list one after another. After an answer that is too large it asks for
    /// smaller pages. A repeated page token ends the list with an error, because the list would
    /// never end.
    async fn list_pages<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: &(impl Fn(&Value) -> T + Send + Sync),
    ) -> Result<ObjectList<T>, CallError> {
        let limits = self.limits();
        let too_long = || {
            CallError::InvalidResponse(
                ProblemCode::ListTooLong,
                "its list has more than a list may have".into(),
            )
        };
        let mut listed = ObjectList {
            items: Vec::new(),
            version: String::new(),
        };
        let (mut size, mut left, mut tokens, mut token) = (
            LIST_PAGE_SIZE,
            limits.max_list_bytes,
            BTreeSet::new(),
            String::new(),
        );
        while tokens.len() < limits.max_list_pages {
            let asked = format!(
                "{path}?limit={size}&{query}&continue={}",
                escape_query_value(&token)
            );
            let bytes = match self.send_and_read(Method::GET, &asked, None, None).await {
                Ok(bytes) => bytes,
                Err(failure) if failure.http_status() == Some(StatusCode::NOT_FOUND) => {
                    return Ok(listed);
                }
                Err(CallError::InvalidResponse(ProblemCode::AnswerTooLarge, _))
                    if size > SMALL_LIST_PAGE_SIZE =>
                {
                    size = SMALL_LIST_PAGE_SIZE;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            left = left.checked_sub(bytes.len()).ok_or_else(too_long)?;
            let room = limits.max_list_items - listed.items.len();
            let page = told::parse_page(&bytes, room, keep).map_err(|error| {
                if told::is_page_too_long(&error) {
                    too_long()
                } else {
                    CallError::unreadable_response()
                }
            })?;
            listed.items.extend(page.items);
            listed.version = page.version;
            if page.next.is_empty() {
                return Ok(listed);
            }
            if !tokens.insert(page.next.clone()) {
                return Err(CallError::InvalidResponse(
                    ProblemCode::ListRepeats,
                    "its list comes back to a page that it had before".into(),
                ));
            }
            token = page.next;
        }
        Err(too_long())
    }
}
