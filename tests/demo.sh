#!/usr/bin/env bash
# The demo: three hosts on this machine, joined by a token, a web service on them, and one host lost.
#   sudo tests/demo.sh
# Installs what is missing, builds, shows it, and cleans up. Needs Rust; takes a few minutes the first time.
set -euo pipefail
# shellcheck source=tests/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"
cd "$root"

find_rust
prepare_lab
printf '%sbuilding%s\n' "$bold" "$plain"
as_owner cargo build --quiet --locked --package agent --package kawan --package tests --bins

# Hosts end with the program that made them, whatever ends it; files are left when it is killed.
clean_up() {
    target/debug/demo --clean-up
    [ "$owner" = root ] || chown -R "$owner" "$root/target"
}
trap clean_up EXIT
if target/debug/demo; then
    printf '\n%sIt works.%s To do the same on real machines, read the README.\n' "$green" "$plain"
else
    fail "The demo did not end well; see above."
fi
