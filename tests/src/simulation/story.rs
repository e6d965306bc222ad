//! Stories: what people and failures do to a cluster, and what it then looks like, as text.
//!
//! A story is a file of blocks. A block is some commands, a line `----`, and what the last look shows, up to an empty
//! line; `#` begins a comment. Every command costs no virtual time except `advance` and `settle`. With `UPDATE_EXPECT=1`
//! the looks are rewritten.
//!
//! ```text
//! # Three machines and a service.
//! node add n1
//! node add n2
//! service create web replicas=2
//! settle
//! ----
//! n1  ready  leader  web.1
//! n2  ready          web.2
//! web  2/2  web:1
//!
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use kawanan_api::duration::Span;

/// One thing that somebody does or that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A machine joins; the first one founds the cluster.
    AddNode {
        name: String,
    },
    CreateService {
        name: String,
        options: Options,
    },
    UpdateService {
        name: String,
        options: Options,
    },
    Scale {
        name: String,
        replicas: u32,
    },
    RemoveService {
        name: String,
    },
    SetAvailability {
        node: String,
        availability: String,
    },
    RemoveNode {
        node: String,
        force: bool,
    },
    /// SIGKILL to the agent; the containers go on.
    Kill {
        node: String,
    },
    /// SIGTERM to the agent.
    Stop {
        node: String,
    },
    Start {
        node: String,
    },
    PowerOff {
        node: String,
    },
    PowerOn {
        node: String,
    },
    Freeze {
        node: String,
    },
    Thaw {
        node: String,
    },
    /// Two machines cannot talk.
    Cut {
        one: String,
        other: String,
    },
    /// Nothing of one reaches the other.
    CutOneWay {
        from: String,
        to: String,
    },
    Isolate {
        node: String,
    },
    /// All links work again.
    Heal,
    /// A container ends by itself.
    Exit {
        service: String,
        slot: u32,
        code: i32,
    },
    /// An image whose containers end at once.
    BreakImage {
        image: String,
    },
    Advance {
        time: Duration,
    },
    /// Time passes until the cluster has come to rest.
    Settle,
}

/// `key=value` pairs of a command, in order.
pub type Options = Vec<(String, String)>;

/// Some acts and the look after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The lines as written, comments included.
    pub source: Vec<String>,
    pub acts: Vec<Act>,
    /// `None`: the block does not look.
    pub expected: Option<Vec<String>>,
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}: `{text}`")]
pub struct StoryError {
    pub line: usize,
    pub what: String,
    pub text: String,
}

/// Reads a story.
///
/// # Errors
/// Names the first line that is no command.
pub fn parse(text: &str) -> Result<Vec<Block>, StoryError> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while lines.peek().is_some() {
        let mut block = Block {
            source: Vec::new(),
            acts: Vec::new(),
            expected: None,
        };
        for (number, line) in lines.by_ref() {
            if line.trim() == "----" {
                block.expected = Some(Vec::new());
                break;
            }
            block.source.push(line.to_owned());
            let command = line.split('#').next().unwrap_or_default().trim();
            if command.is_empty() {
                continue;
            }
            let act = parse_act(command).map_err(|what| StoryError {
                line: number + 1,
                what,
                text: line.to_owned(),
            })?;
            block.acts.push(act);
        }
        if let Some(expected) = &mut block.expected {
            expected.extend(
                lines
                    .by_ref()
                    .map(|(_, line)| line.trim_end().to_owned())
                    .take_while(|line| !line.is_empty()),
            );
        }
        blocks.push(block);
    }
    Ok(blocks)
}

/// The story with other looks.
pub fn print(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        let lines = block.source.iter().map(String::as_str);
        let look = block.expected.iter().flat_map(|expected| {
            let expected = expected.iter().map(String::as_str);
            std::iter::once("----").chain(expected).chain([""])
        });
        for line in lines.chain(look) {
            // Writing to a string cannot fail.
            writeln!(text, "{line}").unwrap_or_default();
        }
    }
    text
}

fn parse_act(command: &str) -> Result<Act, String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let name = |word: &&str| (*word).to_owned();
    let act = match words.as_slice() {
        ["node", "add", node] => Act::AddNode { name: name(node) },
        ["node", "rm", node] => Act::RemoveNode {
            node: name(node),
            force: false,
        },
        ["node", "rm", "--force", node] => Act::RemoveNode {
            node: name(node),
            force: true,
        },
        ["service", "create", service, options @ ..] => Act::CreateService {
            name: name(service),
            options: parse_options(options)?,
        },
        ["service", "update", service, options @ ..] => Act::UpdateService {
            name: name(service),
            options: parse_options(options)?,
        },
        ["service", "scale", scaling] => {
            let (service, replicas) = scaling.split_once('=').ok_or("expected NAME=REPLICAS")?;
            Act::Scale {
                name: service.to_owned(),
                replicas: number(replicas)?,
            }
        }
        ["service", "rm", service] => Act::RemoveService {
            name: name(service),
        },
        [verb @ ("drain" | "pause" | "activate"), node] => Act::SetAvailability {
            node: name(node),
            availability: name(verb),
        },
        ["kill", node] => Act::Kill { node: name(node) },
        ["stop", node] => Act::Stop { node: name(node) },
        ["start", node] => Act::Start { node: name(node) },
        ["power", "off", node] => Act::PowerOff { node: name(node) },
        ["power", "on", node] => Act::PowerOn { node: name(node) },
        ["freeze", node] => Act::Freeze { node: name(node) },
        ["thaw", node] => Act::Thaw { node: name(node) },
        ["cut", "one-way", from, to] => Act::CutOneWay {
            from: name(from),
            to: name(to),
        },
        ["cut", one, other] => Act::Cut {
            one: name(one),
            other: name(other),
        },
        ["isolate", node] => Act::Isolate { node: name(node) },
        ["heal"] => Act::Heal,
        ["exit", container, code] => {
            let (service, slot) = container
                .rsplit_once('.')
                .ok_or("expected SERVICE.SLOT CODE")?;
            Act::Exit {
                service: service.to_owned(),
                slot: number(slot)?,
                code: number(code)?,
            }
        }
        ["break", "image", image] => Act::BreakImage { image: name(image) },
        ["advance", time] => Act::Advance {
            time: time
                .parse::<Span>()
                .map_err(|err| err.to_string())?
                .duration(),
        },
        ["settle"] => Act::Settle,
        _ => return Err("no such command".to_owned()),
    };
    Ok(act)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

fn parse_options(words: &[&str]) -> Result<Options, String> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Ok(((*word).to_owned(), String::new())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: &str = "\
# A story.
node add n1
service create web replicas=2 image=web:1

settle
----
n1  ready
web  2/2

# Later.
cut one-way n1 n2
advance 1m30s
----
n1  ready

heal
";

    #[test]
    fn a_story_reads_and_prints_back_unchanged() {
        let blocks = parse(STORY).unwrap();
        assert_eq!(print(&blocks), STORY);
        assert_eq!(blocks.len(), 3);
        assert_eq!(blocks[0].acts.len(), 3);
        assert_eq!(
            blocks[0].expected,
            Some(vec!["n1  ready".to_owned(), "web  2/2".to_owned()])
        );
        assert_eq!(
            blocks[1].acts[1],
            Act::Advance {
                time: Duration::from_secs(90)
            }
        );
        assert_eq!(blocks[2].expected, None);
    }

    #[test]
    fn a_line_that_is_no_command_is_named() {
        let err = parse("node add n1\nnode dance n1\n").unwrap_err();
        assert_eq!(err.to_string(), "line 2: no such command: `node dance n1`");
    }
}
