//! Stories as text: `tests/scenarios/*.txt`. `UPDATE_EXPECT=1` rewrites what they expect.

use std::path::{Path, PathBuf};

use tests::simulation::stage;

#[test]
fn every_story_ends_as_it_is_told() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut stories: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    stories.sort();
    assert!(!stories.is_empty(), "no stories in {}", directory.display());
    let failures: Vec<String> = stories
        .iter()
        .filter_map(|story| stage::play_file(story).err())
        .map(|err| format!("{err:#}"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
