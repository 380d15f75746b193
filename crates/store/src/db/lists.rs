//! Defines the arguments that most lists take: the page, and what the caller may see.

/// One page of a list: the rows after a key, in the list's own order.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Last key of the previous page; `None` for the first page.
    pub after: Option<uuid::Uuid>,
    /// Number of rows at most.
    pub limit: i64,
}

impl Page {
    /// The whole list in one page, for lists that are always short.
    pub const ALL: Self = Self {
        after: None,
        limit: i64::MAX,
    };
}

/// The things that a caller may see in lists; `None` in a field means all of them.
#[derive(Debug, Clone, Default)]
pub struct AccessFilter {
    /// Identifiers of visible meshes, with everything that belongs to them.
    pub meshes: Option<Vec<uuid::Uuid>>,
    /// Identifiers of visible clusters, with everything that belongs to them.
    pub clusters: Option<Vec<uuid::Uuid>>,
}

impl AccessFilter {
    /// Access to all meshes and clusters of the tenant.
    pub const ALL: Self = Self {
        meshes: None,
        clusters: None,
    };
}
