//! Defines closed sets: enums without data whose values have one name each, in the API and in the
//! database.
//!
//! A server knows every value that it sends. A client can be older than the server, so it reads an
//! [`OpenEnum`], which keeps a name that it does not know.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Enum without data whose values all have a name. The macro `closed_set!` implements it.
pub trait ClosedSet: Copy + fmt::Debug + 'static {
    /// All values of the set, in the order in which documents list them.
    const VALUES: &'static [Self];

    /// Returns the name of the value in the API and in the database.
    fn name(self) -> &'static str;

    /// Returns the value with this name; `None` if the set has no such value.
    fn from_name(name: &str) -> Option<Self> {
        Self::VALUES
            .iter()
            .copied()
            .find(|value| value.name() == name)
    }
}

/// Names the values of an enum. The compiler refuses a list that lacks a value, so the constant
/// `ALL` is complete.
#[macro_export]
macro_rules! closed_set {
    ($set:ident { $($value:ident = $name:literal),+ $(,)? }) => {
        impl $set {
            /// All values that exist.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$value),+];

            /// Returns the name of the value in the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name),+
                }
            }
        }

        impl $crate::closed_set::ClosedSet for $set {
            const VALUES: &'static [Self] = &Self::ALL;

            fn name(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

/// Value of a closed set as it was read, or the name that was read if this program does not know
/// it. Another version of the service can have written such a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenEnum<T> {
    /// Value that this program knows.
    Known(T),
    /// Name of a value that this program does not know.
    Unknown(String),
}

impl<T: ClosedSet> OpenEnum<T> {
    /// Reads a name.
    pub fn from_name(name: impl Into<String>) -> Self {
        let name = name.into();
        T::from_name(&name).map_or(Self::Unknown(name), Self::Known)
    }

    /// Returns the name as it was read or as it is sent.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.name(),
            Self::Unknown(name) => name,
        }
    }

    /// Returns the value; `None` if this program does not know its name.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T: ClosedSet> From<T> for OpenEnum<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: ClosedSet + PartialEq> PartialEq<T> for OpenEnum<T> {
    fn eq(&self, other: &T) -> bool {
        self.known().as_ref() == Some(other)
    }
}

impl<T: ClosedSet> PartialEq<str> for OpenEnum<T> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<T: ClosedSet> PartialEq<&str> for OpenEnum<T> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl<T: ClosedSet> fmt::Display for OpenEnum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: ClosedSet> Serialize for OpenEnum<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: ClosedSet> Deserialize<'de> for OpenEnum<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from_name)
    }
}

/// The document lists the values that the service knows. An unknown value is no part of the
/// contract, because no server sends one.
#[cfg(feature = "openapi")]
impl<T: ClosedSet> utoipa::PartialSchema for OpenEnum<T> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .enum_values(Some(T::VALUES.iter().map(|value| value.name())))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl<T: ClosedSet> utoipa::ToSchema for OpenEnum<T> {}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::access::Role;
    use crate::edition::Edition;
    use crate::observation::{RestartBlocker, RestartReason};
    use crate::operation::{OperationKind, Signal};
    use crate::quota::QuotaResource;
    use crate::release::{Channel, Quirk, ReleaseState};
    use crate::rules::{ReasonCode, Severity, Strategy};
    use crate::upgrade::{LabelPolicy, Verb};

    fn assert_stored_by_name<T: ClosedSet + Serialize + DeserializeOwned + PartialEq>() {
        for value in T::VALUES {
            let stored = serde_json::to_value(value).expect("a name");
            assert_eq!(stored, value.name());
            assert_eq!(
                serde_json::from_value::<T>(stored).expect("a value"),
                *value
            );
            assert_eq!(T::from_name(value.name()), Some(*value));
        }
    }

    #[test]
    fn the_name_of_a_value_is_its_stored_form() {
        assert_stored_by_name::<Channel>();
        assert_stored_by_name::<Edition>();
        assert_stored_by_name::<LabelPolicy>();
        assert_stored_by_name::<OperationKind>();
        assert_stored_by_name::<QuotaResource>();
        assert_stored_by_name::<Quirk>();
        assert_stored_by_name::<ReasonCode>();
        assert_stored_by_name::<ReleaseState>();
        assert_stored_by_name::<RestartBlocker>();
        assert_stored_by_name::<RestartReason>();
        assert_stored_by_name::<Severity>();
        assert_stored_by_name::<Signal>();
        assert_stored_by_name::<Strategy>();
        assert_stored_by_name::<Verb>();
    }

    #[test]
    fn a_name_that_is_not_known_is_kept() {
        let read: OpenEnum<Role> = serde_json::from_str("\"gardener\"").expect("a role");
        assert_eq!(read, OpenEnum::Unknown("gardener".into()));
        assert_eq!((read.known(), read.to_string()), (None, "gardener".into()));
        assert_eq!(serde_json::to_string(&read).expect("text"), "\"gardener\"");
        let read: OpenEnum<Role> = serde_json::from_str("\"owner\"").expect("a role");
        assert_eq!(read, Role::Owner);
        assert_eq!(read, "owner");
        let wrong = serde_json::from_str::<OpenEnum<Role>>("5").expect_err("a number");
        assert!(wrong.to_string().contains("expected a string"), "{wrong}");
    }
}
