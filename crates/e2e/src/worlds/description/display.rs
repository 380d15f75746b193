//! Describes a small world in a line for people.

use std::fmt;

use super::Description;
use crate::worlds::cells::{MEMBER_NAMES, NEW, OLD, tag_name};

const POD_NAMES: [&str; 9] = [
    "old",
    "new",
    "stray",
    "lone stray",
    "bare",
    "opted out",
    "other image",
    "finished",
    "mixed",
];
const LABEL_NAMES: [&str; 4] = ["enabled", "stable", "revision", "asks"];

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = |slot: usize| if self.up[slot] { "up" } else { "down" };
        write!(
            f,
            "{}:{}: after {:?}, old istiod {}, new istiod {}",
            self.stage.word(),
            self.index(),
            self.history,
            up(OLD),
            up(NEW)
        )?;
        for (index, member) in self.members.iter().enumerate() {
            let tags: Vec<&str> = (0..3)
                .filter(|number| member.tags[*number])
                .map(tag_name)
                .collect();
            write!(
                f,
                "; {}: label {}, pods {}, tags at the new slot: [{}]",
                MEMBER_NAMES[index],
                LABEL_NAMES[member.label as usize],
                POD_NAMES[member.pods as usize],
                tags.join(", ")
            )?;
        }
        Ok(())
    }
}
