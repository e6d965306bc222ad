# shellcheck shell=bash
# What run.sh and demo.sh need of the machine. To be sourced; `set -euo pipefail` is the caller's.
# The callers run as root, but Rust usually belongs to the user who typed sudo: cargo runs as that user.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
owner=${SUDO_USER:-root}

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ -z "${CI:-}" ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' green='' red='' plain=''
fi

fail() {
    printf '%s%s%s\n' "$red" "$*" "$plain" >&2
    exit 1
}

# Finds cargo of the user, also behind sudo's short PATH.
find_rust() {
    local home
    home=$(getent passwd "$owner" | cut -d : -f 6)
    export CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    export PATH="$CARGO_HOME/bin:$PATH"
    command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or newer, see https://rustup.rs"
    command -v cc >/dev/null || install_packages gcc libc6-dev
}

as_owner() {
    if [ "$owner" = root ]; then
        "$@"
    else
        sudo -u "$owner" -H env "PATH=$PATH" "CARGO_HOME=$CARGO_HOME" "RUSTUP_HOME=$RUSTUP_HOME" "$@"
    fi
}

install_packages() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || fail "please install: $*"
    printf '%sinstalling %s%s\n' "$bold" "$*" "$plain"
    # A package list that cannot be refreshed may still be good enough.
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
}

# Engines, registry and network tools of the lab.
prepare_lab() {
    [ "$(id -u)" = 0 ] || fail "the lab makes network namespaces and starts Docker Engines: run this as root (sudo $0)"
    local missing=() pair
    for pair in dockerd:docker.io docker:docker.io docker-registry:docker-registry ip:iproute2 nft:nftables \
        iptables:iptables ps:procps sysctl:procps curl:curl; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
        missing+=(busybox-static)
    fi
    [ -e "$(cc -print-file-name=libc.a)" ] || missing+=(libc6-dev)
    if [ ${#missing[@]} -gt 0 ]; then
        mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
        install_packages "${missing[@]}"
        # The lab starts a registry of its own; the one that came with the package would only take port 5000.
        if [[ " ${missing[*]} " == *" docker-registry "* ]] && [ -d /run/systemd/system ]; then
            systemctl disable -q --now docker-registry
        fi
    fi
    unshare -n true || fail "this machine does not let root make network namespaces: the lab cannot run here"
}

# cargo_tool NAME VERSION: a tool of cargo's, built into the target directory when it is not installed.
cargo_tool() {
    export PATH="$root/target/tools/bin:$PATH"
    if ! command -v "$1" >/dev/null; then
        printf '%sbuilding %s %s (once, a few minutes)%s\n' "$bold" "$1" "$2" "$plain"
        as_owner cargo install --quiet --locked --root "$root/target/tools" --version "$2" "$1"
    fi
}
