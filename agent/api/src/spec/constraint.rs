//! Placement constraints: `node.labels.disk==ssd`, `node.name!=db-1`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::validate::check_label_key;

/// One rule about a node. In JSON the string that the user wrote, without spaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    pub key: ConstraintKey,
    pub operator: Operator,
    /// Compared without regard to case, as Docker Swarm does.
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConstraintKey {
    NodeId,
    /// `node.name`; `node.hostname` is read as the same.
    NodeName,
    /// `node.labels.KEY`
    NodeLabel(String),
    /// `node.platform.arch`
    PlatformArch,
    /// `node.platform.os`
    PlatformOs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Equal,
    NotEqual,
}

/// Text that is not a constraint, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConstraintError {
    #[error("constraint `{0}` has neither == nor !=; write for example node.labels.disk==ssd")]
    NoOperator(String),
    #[error(
        "constraint `{constraint}` is about `{key}`, which no node has; known are node.id, node.name, node.labels.KEY, \
         node.platform.os and node.platform.arch"
    )]
    UnknownKey { constraint: String, key: String },
    #[error("constraint `{0}` has no value after the operator")]
    NoValue(String),
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;
    fn from_str(text: &str) -> Result<Self, ParseConstraintError> {
        let (key, operator, value) = if let Some((key, value)) = text.split_once("!=") {
            (key, Operator::NotEqual, value)
        } else if let Some((key, value)) = text.split_once("==") {
            (key, Operator::Equal, value)
        } else {
            return Err(ParseConstraintError::NoOperator(text.to_owned()));
        };
        let (key, value) = (key.trim(), value.trim());
        if value.is_empty() {
            return Err(ParseConstraintError::NoValue(text.to_owned()));
        }
        let known = match key {
            "node.id" => Some(ConstraintKey::NodeId),
            "node.name" | "node.hostname" => Some(ConstraintKey::NodeName),
            "node.platform.arch" => Some(ConstraintKey::PlatformArch),
            "node.platform.os" => Some(ConstraintKey::PlatformOs),
            _ => key
                .strip_prefix("node.labels.")
                .filter(|label| check_label_key(label).is_ok())
                .map(|label| ConstraintKey::NodeLabel(label.to_owned())),
        };
        let key = known.ok_or_else(|| ParseConstraintError::UnknownKey {
            constraint: text.to_owned(),
            key: key.to_owned(),
        })?;
        Ok(Self {
            key,
            operator,
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for ConstraintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId => f.write_str("node.id"),
            Self::NodeName => f.write_str("node.name"),
            Self::NodeLabel(label) => write!(f, "node.labels.{label}"),
            Self::PlatformArch => f.write_str("node.platform.arch"),
            Self::PlatformOs => f.write_str("node.platform.os"),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
        };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_read_and_print() {
        for text in [
            "node.labels.disk==ssd",
            "node.name!=db-1",
            "node.id==abc",
            "node.platform.arch==x86_64",
        ] {
            assert_eq!(text.parse::<Constraint>().unwrap().to_string(), text);
        }
        let spaced: Constraint = "node.labels.zone == eu".parse().unwrap();
        assert_eq!(spaced.to_string(), "node.labels.zone==eu");
    }

    #[test]
    fn a_constraint_that_cannot_be_met_by_mistake_is_refused() {
        for text in [
            "node.labels.disk=ssd",
            "node.role==manager",
            "node.name==",
            "disk==ssd",
            "node.labels.==x",
        ] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }
}
