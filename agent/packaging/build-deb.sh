#!/bin/sh
# Builds target/debian/kawanan_VERSION_ARCH.deb. Needs cargo-deb (cargo install cargo-deb).
#
#   agent/packaging/build-deb.sh                 builds agent and kawan first
#   agent/packaging/build-deb.sh --no-build      takes them from target/release as they are
#
# The package runs on the release it was built on and on newer ones: build on the oldest that you use.
set -eu

cd "$(dirname -- "$0")/../.."
[ "${1:-}" = --no-build ] || cargo build --release --locked -p agent -p kawan

mkdir -p agent/packaging/completions
for program in agent kawan; do
    for shell in bash zsh fish; do
        "target/release/$program" completion "$shell" >"agent/packaging/completions/$program.$shell"
    done
done
cargo deb --no-build --locked -p agent
