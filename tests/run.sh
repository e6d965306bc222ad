#!/usr/bin/env bash
# All tests: formatting, lints, dependencies, unit tests and simulation, and the lab's clusters on real Docker Engines.
#   sudo tests/run.sh            everything; installs what is missing
#   tests/run.sh --without-lab   all that needs no root
# Goes on after a step that fails, prints a summary, and ends with code 1 when a step failed.
set -euo pipefail
# shellcheck source=tests/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"
cd "$root"

lab=yes
case "${1:-}" in
'') ;;
--without-lab) lab=no ;;
*)
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac

# Failures name their cause; a hundred lines of the test framework under each would bury it.
export RUST_BACKTRACE=0 CARGO_TERM_PROGRESS_WHEN=never
summary=() failed=0

# step NAME COMMAND...: runs it, notes how it went and how long it took.
step() {
    local name=$1 begin=$SECONDS outcome
    shift
    printf '\n%s== %s%s\n' "$bold" "$name" "$plain"
    if "$@" </dev/null; then
        outcome="${green}passed$plain"
    else
        outcome="${red}FAILED$plain"
        failed=1
    fi
    summary+=("$(printf '%-28s %s  %4d s' "$name" "$outcome" $((SECONDS - begin)))")
}

# probe NAME COMMAND...: as step, but its failure is shown and does not fail the run.
probe() {
    local name=$1 begin=$SECONDS outcome
    shift
    printf '\n%s== %s%s\n' "$bold" "$name" "$plain"
    if "$@" </dev/null; then
        outcome="${green}passed$plain"
    else
        outcome="${red}FAILED (known, does not fail the run)$plain"
    fi
    summary+=("$(printf '%-28s %s  %4d s' "$name" "$outcome" $((SECONDS - begin)))")
}

note() {
    summary+=("$(printf '%-28s %s' "$1" "$2")")
}

print_summary() {
    printf '\n%s== summary%s\n' "$bold" "$plain"
    printf '%s\n' "${summary[@]}"
}

# What root has written into the owner's tree becomes the owner's.
give_back() {
    [ "$owner" = root ] || chown -R "$owner" "$root/target"
}
trap give_back EXIT

format() {
    as_owner cargo fmt --all --check && as_owner rustfmt --check --edition 2024 tests/apps/*.rs
}

# The database of advisories is a git repository on the internet: not everybody reaches it.
advisories() {
    if as_owner timeout 60 cargo deny fetch db >/dev/null 2>&1; then
        step "advisories" as_owner cargo deny --locked check advisories
    elif compgen -G "$CARGO_HOME/advisory-dbs/*/" >/dev/null; then
        step "advisories (stored copy)" as_owner cargo deny --locked --offline check advisories
    else
        note "advisories" "NOT CHECKED: their database cannot be fetched, and there is no copy of it"
    fi
}

find_rust
cargo_tool cargo-nextest 0.9.143
cargo_tool cargo-deny 0.20.2
if [ "$lab" = yes ]; then prepare_lab; fi

step "build" as_owner cargo build --locked --workspace --all-targets
if [ "$failed" = 1 ]; then
    print_summary
    exit 1
fi
step "format" format
step "lints" as_owner cargo clippy --locked --workspace --all-targets --keep-going -- -D warnings
step "licenses, bans, sources" as_owner cargo deny --locked check bans licenses sources
advisories
step "unit tests and simulation" as_owner cargo nextest run --locked --workspace --no-fail-fast \
    -E 'not (package(tests) & binary(/^lab_/))'
probe "simulation, 200 seeds" as_owner cargo nextest run --locked --package tests --no-fail-fast \
    --run-ignored only -E 'binary(simulation)'
step "examples in the docs" as_owner cargo test --locked --workspace --quiet --doc
if [ "$lab" = yes ]; then
    step "lab" cargo nextest run --locked --package tests --no-fail-fast -E 'binary(/^lab_/)'
else
    note "lab" "NOT RUN: --without-lab"
fi

print_summary
exit "$failed"
