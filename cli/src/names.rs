//! Names for services whose users gave none: an adjective and a noun.

use rand::Rng;

const ADJECTIVES: [&str; 48] = [
    "agile", "amber", "brave", "breezy", "bright", "calm", "cheery", "clever", "cosmic", "crisp",
    "dapper", "deft", "eager", "early", "fair", "fleet", "fond", "gentle", "glad", "golden",
    "handy", "happy", "hardy", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry",
    "mild", "neat", "nimble", "noble", "plucky", "polite", "proud", "quick", "quiet", "rapid",
    "shiny", "silent", "snug", "steady", "sunny", "swift", "warm", "witty",
];
const NOUNS: [&str; 48] = [
    "avocet",
    "bittern",
    "bulbul",
    "bunting",
    "cormorant",
    "crane",
    "cuckoo",
    "curlew",
    "dipper",
    "dove",
    "drongo",
    "dunlin",
    "egret",
    "falcon",
    "finch",
    "gannet",
    "godwit",
    "goose",
    "grebe",
    "heron",
    "hoopoe",
    "ibis",
    "jay",
    "kestrel",
    "kite",
    "lark",
    "linnet",
    "magpie",
    "martin",
    "merlin",
    "myna",
    "oriole",
    "osprey",
    "owl",
    "petrel",
    "pipit",
    "plover",
    "puffin",
    "raven",
    "robin",
    "shrike",
    "siskin",
    "starling",
    "stork",
    "swallow",
    "swift",
    "tern",
    "wren",
];

pub fn random() -> String {
    let mut rng = rand::rng();
    let adjective = ADJECTIVES[rng.random_range(0..ADJECTIVES.len())];
    let noun = NOUNS[rng.random_range(0..NOUNS.len())];
    format!("{adjective}-{noun}-{:02}", rng.random_range(0..100))
}

#[cfg(test)]
mod tests {
    #[test]
    fn random_names_are_valid_names() {
        for _ in 0..200 {
            let name = super::random();
            assert!(
                kawanan_api::spec::check_name("service", &name).is_ok(),
                "{name}"
            );
        }
    }
}
