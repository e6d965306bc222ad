#!/bin/sh
# Installs, upgrades and removes Kawanan on Ubuntu 20.04+ and Debian 11+.
#
#   sudo ./install.sh                     from a checkout: builds with cargo, then installs
#   sudo ./install.sh --binary-dir DIR    installs the agent and kawan found in DIR
#   sudo ./install.sh --help              everything else
#
# Everything that can be wrong is checked before anything is changed. Running it again upgrades. No step stops or
# restarts a container, except --uninstall --purge.
set -eu

readonly BIN=/usr/bin
readonly UNIT=/usr/lib/systemd/system/agent.service
readonly SHARE=/usr/share/kawanan
readonly ETC=/etc/kawanan
readonly DATA=/var/lib/kawanan
readonly RUN=/run/kawanan

action=install
binary_dir=
found_cluster=${KAWANAN_INIT:-}
join_token=${KAWANAN_JOIN_TOKEN:-}
advertise=${KAWANAN_ADVERTISE:-}
with_docker=yes
with_systemd=yes
allow_downgrade=
purge=
purge_data=

script_dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
stage=

# --- talking to whoever ran this -------------------------------------------------------------------------------------

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]...
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

usage() {
    cat <<'TEXT'
Installs, upgrades and removes Kawanan on Ubuntu 20.04+ and Debian 11+. Run it as root.

Usage: install.sh [options]

  --binary-dir DIR    install the programs agent and kawan from DIR; without it they are built from the checkout
                      that this script lies in, which needs Rust
  --init              afterwards, found a cluster on this machine (agent init)
  --join TOKEN        afterwards, join the cluster that made TOKEN (agent join); "-" reads it from standard input
  --advertise IP      the address at which other nodes reach this machine, kept in /etc/kawanan/agent.env;
                      on cloud machines usually the private one
  --no-docker         do not install Docker, even if there is none
  --no-systemd        install no service; for containers, images and tests
  --allow-downgrade   replace a newer version by an older one
  --uninstall         remove Kawanan; the data of this node is kept, or removed if you say so when asked
  --purge             with --uninstall: leave the cluster, and remove the data and Kawanan's containers as well
  -h, --help          this text

Environment: KAWANAN_JOIN_TOKEN=TOKEN is the same as --join TOKEN, KAWANAN_INIT=1 the same as --init,
KAWANAN_ADVERTISE=IP the same as --advertise IP.
TEXT
}

# --- options and the machine -----------------------------------------------------------------------------------------

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --binary-dir | --join | --advertise)
            [ $# -ge 2 ] || die "$1 needs a value" "see install.sh --help"
            case $1 in
            --binary-dir) binary_dir=$2 ;;
            --join) join_token=$2 ;;
            --advertise) advertise=$2 ;;
            esac
            shift
            ;;
        --binary-dir=*) binary_dir=${1#*=} ;;
        --join=*) join_token=${1#*=} ;;
        --advertise=*) advertise=${1#*=} ;;
        --init) found_cluster=1 ;;
        --no-docker) with_docker= ;;
        --no-systemd) with_systemd= ;;
        --allow-downgrade) allow_downgrade=yes ;;
        --uninstall) action=uninstall ;;
        --purge) purge=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown option: $1" "see install.sh --help" ;;
        esac
        shift
    done
    if [ "$join_token" = - ]; then
        IFS= read -r join_token || [ -n "$join_token" ] || die "no token on standard input"
    fi
    if [ -n "$found_cluster" ] && [ -n "$join_token" ]; then
        die "--init and --join exclude each other" "one machine founds the cluster, the others join it"
    fi
    case $advertise in
    *[!0-9a-fA-F.:\[\]]*) die "\"$advertise\" is not an address; write IP or IP:PORT, such as 10.0.0.5" ;;
    esac
    if [ -n "$purge" ] && [ "$action" != uninstall ]; then
        die "--purge goes only with --uninstall"
    fi
}

check_root() {
    [ "$(id -u)" -eq 0 ] || die "this needs root: it writes to $BIN and talks to systemd and Docker" \
        "run: sudo $0"
}

check_machine() {
    say "Checking this machine"
    [ "$(uname -s)" = Linux ] || die "Kawanan runs on Linux; this is $(uname -s)"
    case $(uname -m) in
    x86_64 | aarch64) ;;
    *) die "no support for the processor architecture $(uname -m): only x86_64 and aarch64" ;;
    esac
    [ -r /etc/os-release ] || die "this is neither Debian nor Ubuntu: there is no /etc/os-release"
    # Read in a subshell: the file sets many names. Defaults are for derivatives that leave fields out.
    # shellcheck source=/dev/null
    system=$(. /etc/os-release && printf '%s:%s' "${ID:-unknown}" "${VERSION_ID:-0}")
    # shellcheck source=/dev/null
    system_name=$(. /etc/os-release && printf '%s' "${PRETTY_NAME:-$system}")
    case $system in
    debian:*) least=11 ;;
    ubuntu:*) least=20.04 ;;
    *) least= ;;
    esac
    if [ -z "$least" ]; then
        command -v apt-get >/dev/null || die "$system_name is neither Debian nor Ubuntu, nor made from one of them"
        warn "$system_name is not tested; it is treated like Debian"
    elif [ "${system#*:}" != 0 ] && dpkg --compare-versions "${system#*:}" lt "$least"; then
        die "$system_name is too old" "Kawanan needs at least Ubuntu 20.04 or Debian 11"
    fi
    if [ -n "$with_systemd" ] && [ ! -d /run/systemd/system ]; then
        die "systemd does not run here" \
            "Kawanan's agent is a systemd service. For a container or an image, add --no-systemd and start" \
            "\"agent run\" yourself"
    fi
    note "$system_name, $(uname -m)"
}

check_not_packaged() {
    if dpkg -S "$BIN/agent" >/dev/null 2>&1; then
        owner=$(dpkg -S "$BIN/agent" | cut -d: -f1)
        [ "$owner" = kawanan ] || die "$BIN/agent belongs to the package $owner" \
            "two programs of that name cannot live on one machine; remove the package first"
        die "Kawanan was installed here from a package" \
            "upgrade with: apt install ./kawanan_VERSION_ARCH.deb; remove with: apt remove kawanan"
    fi
    if [ -e "$BIN/agent" ] && [ ! -e "$SHARE/install.sh" ]; then
        die "there is a $BIN/agent which this script did not install" "move it away, then run this again"
    fi
}

# --- the programs ----------------------------------------------------------------------------------------------------

# Leaves in $binary_dir a directory that holds agent and kawan.
find_binaries() {
    if [ -n "$binary_dir" ]; then
        [ -d "$binary_dir" ] || die "there is no directory $binary_dir"
    elif [ -f "$script_dir/Cargo.toml" ] && [ -d "$script_dir/agent/src" ]; then
        build_binaries
    else
        die "there is nothing to install: $script_dir is not a checkout of Kawanan" \
            "name the directory that holds the programs agent and kawan: --binary-dir DIR"
    fi
    for program in agent kawan; do
        [ -f "$binary_dir/$program" ] || die "there is no program \"$program\" in $binary_dir"
        [ -x "$binary_dir/$program" ] || die "$binary_dir/$program cannot be executed" \
            "run: chmod +x $binary_dir/$program"
        version_of "$binary_dir/$program" >/dev/null || die "$binary_dir/$program does not run on this machine" \
            "it was built for another processor or a newer system; build it here: see docs/quickstart.md"
    done
    new_version=$(version_of "$binary_dir/agent")
    unit_source=$(packaged agent.service)
    env_source=$(packaged agent.env)
}

# packaged FILE: finds a file of agent/packaging in the checkout, or beside the programs or this script.
packaged() {
    for dir in "$script_dir/agent/packaging" "$binary_dir" "$script_dir"; do
        if [ -f "$dir/$1" ]; then
            printf '%s' "$dir/$1"
            return 0
        fi
    done
    die "cannot find $1" "take it from agent/packaging of the checkout and put it beside install.sh"
}

build_binaries() {
    # Under sudo, Rust is in the home of who called it, and what is built should belong to them.
    build_user=${SUDO_USER:-root}
    build_home=$(getent passwd "$build_user" | cut -d: -f6)
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$script_dir/Cargo.toml")
    rust=$(as_builder rustc --version 2>/dev/null | cut -d' ' -f2) || rust=
    [ -n "$rust" ] || die "there are no programs to install, and no Rust to build them with" \
        "get Rust as $build_user: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
        "or build elsewhere and pass --binary-dir DIR"
    dpkg --compare-versions "$(sortable "$rust")" ge "$needed" || die "Rust $rust is too old; $needed is needed" \
        "run as $build_user: rustup update stable"
    command -v cc >/dev/null || die "there is no C compiler, which one of the libraries needs" \
        "run: apt-get install -y gcc libc6-dev"
    memory_mib=$(awk '/^(MemTotal|SwapTotal):/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo)
    [ "$memory_mib" -ge 1800 ] || warn "$memory_mib MiB of memory may be too little to build; if it fails, build on" \
        "a larger machine and pass --binary-dir DIR"
    say "Building agent and kawan with Rust $rust (some minutes)"
    as_builder cargo build --release --locked --manifest-path "$script_dir/Cargo.toml" \
        --target-dir "$script_dir/target" -p agent -p kawan || die "the build failed; the reason is above"
    binary_dir=$script_dir/target/release
}

as_builder() {
    if [ "$build_user" = root ]; then
        env PATH="$build_home/.cargo/bin:$PATH" "$@"
    else
        runuser -u "$build_user" -- env HOME="$build_home" PATH="$build_home/.cargo/bin:$PATH" "$@"
    fi
}

# version_of PROGRAM: prints its version; fails when it does not run or says something else.
version_of() {
    "$1" --version 2>/dev/null | awk 'NR == 1 && $2 ~ /^[0-9]+\.[0-9]+\.[0-9]+/ { print $2; ok = 1 } END { exit !ok }'
}

# sortable VERSION: as dpkg compares it, where 1.0.0~rc.1 comes before 1.0.0.
sortable() { printf '%s' "$1" | sed 's/-/~/'; }

compare_versions() {
    old_version=
    [ -x "$BIN/agent" ] || return 0
    old_version=$(version_of "$BIN/agent") || {
        warn "the installed $BIN/agent does not run; it is replaced"
        old_version=
        return 0
    }
    if dpkg --compare-versions "$(sortable "$new_version")" lt "$(sortable "$old_version")"; then
        [ -n "$allow_downgrade" ] || die "version $old_version is installed, which is newer than $new_version" \
            "an older agent may not understand what a newer one has written; if you are sure: --allow-downgrade"
        warn "replacing version $old_version by the older $new_version"
    fi
}

# --- Docker ----------------------------------------------------------------------------------------------------------

refuse_snap_docker() {
    [ ! -e /snap/bin/docker ] || die "Docker was installed here as a snap, which Kawanan does not work with:" \
        "its engine is confined and restarts on its own for updates, and all containers with it" \
        "remove it, with its containers and images, and run this again: snap remove --purge docker"
}

has_docker() {
    command -v dockerd >/dev/null || [ -S /var/run/docker.sock ] || [ -n "${DOCKER_HOST:-}" ] ||
        grep -qs '^AGENT_DOCKER=' "$ETC/agent.env"
}

install_docker() {
    if has_docker; then
        check_docker
        return 0
    fi
    if [ -z "$with_docker" ]; then
        note "There is no Docker on this machine, and none is installed; the agent needs one to run containers"
        return 0
    fi
    say "Installing Docker from the distribution (docker.io)"
    if [ ! -e /etc/docker/daemon.json ]; then
        # With live-restore, containers outlive a restart of Docker, such as one for a security update.
        mkdir -p /etc/docker
        printf '{\n  "live-restore": true\n}\n' >/etc/docker/daemon.json
    fi
    export DEBIAN_FRONTEND=noninteractive
    tries=1
    # A fresh cloud machine often still updates itself; apt's lists have a lock that apt does not wait for everywhere.
    until apt-get -qq update; do
        [ "$tries" -lt 5 ] || die "apt-get update failed; the reason is above"
        tries=$((tries + 1))
        sleep 5
    done
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install docker.io ca-certificates ||
        die "apt-get could not install docker.io; the reason is above"
    check_docker
}

check_docker() {
    command -v dockerd >/dev/null || {
        note "Docker is here already"
        return 0
    }
    docker_version=$(dockerd --version | sed -n 's/^Docker version \([0-9.]*\).*/\1/p')
    note "Docker $docker_version"
    if [ -n "$docker_version" ] && dpkg --compare-versions "$docker_version" lt 20.10; then
        die "Docker $docker_version is too old; 20.10 is needed" "run: apt-get install docker.io"
    fi
    if [ -n "$with_systemd" ] && ! grep -qs '"live-restore": *true' /etc/docker/daemon.json; then
        note "Tip: set \"live-restore\": true in /etc/docker/daemon.json, so that containers outlive a restart of Docker"
    fi
    if command -v docker >/dev/null &&
        [ "$(timeout 10 docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null)" = active ]; then
        warn "this machine is part of a Docker Swarm; Kawanan works beside it, but two orchestrators will compete for" \
            "ports and memory. To leave the Swarm: docker swarm leave"
    fi
}

# --- files -----------------------------------------------------------------------------------------------------------

# put SOURCE TARGET MODE: writes a file beside its place and moves it there in one step, so that no moment and no crash
# leaves half a program; a running one keeps its old file.
put() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new.$$"
    chown root:root "$2.new.$$"
    chmod "$3" "$2.new.$$"
    sync "$2.new.$$"
    mv -f "$2.new.$$" "$2"
}

completion_path() {
    case $2 in
    bash) printf '/usr/share/bash-completion/completions/%s' "$1" ;;
    zsh) printf '/usr/share/zsh/vendor-completions/_%s' "$1" ;;
    fish) printf '/usr/share/fish/vendor_completions.d/%s.fish' "$1" ;;
    esac
}

install_files() {
    if [ -z "$old_version" ]; then
        say "Installing agent and kawan $new_version"
    elif [ "$old_version" = "$new_version" ]; then
        say "Installing agent and kawan $new_version again"
    else
        say "Upgrading agent and kawan from $old_version to $new_version"
    fi
    # The script first: what it installs from here on, its copy can remove.
    put "$script_dir/$(basename "$0")" "$SHARE/install.sh" 755
    for program in agent kawan; do
        put "$binary_dir/$program" "$BIN/$program" 755
        note "$BIN/$program"
    done
    for program in agent kawan; do
        for shell in bash zsh fish; do
            if "$BIN/$program" completion "$shell" >"$stage/completion" 2>/dev/null; then
                put "$stage/completion" "$(completion_path "$program" "$shell")" 644
            else
                warn "$program offers no completion for $shell"
            fi
        done
    done
    note "completions for bash, zsh and fish"
    if [ -e "$ETC/agent.env" ]; then
        note "$ETC/agent.env (kept as it is)"
    else
        put "$env_source" "$ETC/agent.env" 600
        note "$ETC/agent.env"
    fi
    put "$env_source" "$SHARE/agent.env" 644
    if [ -n "$advertise" ]; then
        sed '/^AGENT_ADVERTISE=/d' "$ETC/agent.env" >"$stage/agent.env"
        printf 'AGENT_ADVERTISE=%s\n' "$advertise" >>"$stage/agent.env"
        put "$stage/agent.env" "$ETC/agent.env" 600
    fi
    if [ -n "$with_systemd" ]; then
        put "$unit_source" "$UNIT" 644
        note "$UNIT"
    fi
}

# --- the service -----------------------------------------------------------------------------------------------------

# The agent writes this file last when it enters a cluster.
is_member() { [ -e "$DATA/identity/cluster.json" ]; }

start_service() {
    [ -n "$with_systemd" ] || return 0
    systemctl daemon-reload
    # A removed package leaves its service masked.
    systemctl -q unmask agent.service
    systemctl -q enable agent.service
    if systemctl -q is-active agent.service; then
        say "Restarting the agent (containers run on)"
        verb=restart
    elif is_member; then
        say "Starting the agent: this machine belongs to a cluster already"
        verb=start
    else
        return 0
    fi
    systemctl "$verb" agent.service || comes_up || {
        journalctl -u agent.service -n 20 --no-pager >&2 || true
        die "the agent does not start; its last words are above" "more: journalctl -u agent"
    }
}

# Whether the agent runs after all: systemd goes on trying after a first failure, such as a port not yet free.
comes_up() {
    tries=1
    until systemctl -q is-active agent.service; do
        [ "$tries" -lt 10 ] || return 1
        tries=$((tries + 1))
        sleep 1
    done
}

enter_cluster() {
    if [ -z "$found_cluster" ] && [ -z "$join_token" ]; then return 0; fi
    if is_member; then
        note "This machine belongs to a cluster already; --init and --join change nothing"
        return 0
    fi
    entered=yes
    if [ -n "$found_cluster" ]; then
        say "Founding a cluster"
        set -- init
    else
        say "Joining the cluster"
        set -- join "$join_token"
    fi
    # The service reads its settings from this file; init and join should work with the same.
    set -a
    # shellcheck source=/dev/null
    . "$ETC/agent.env"
    set +a
    if [ -z "$with_systemd" ]; then
        # Without a service the agent stays in the foreground, in place of this script.
        clean_up
        exec "$BIN/agent" "$@"
    fi
    "$BIN/agent" "$@" || die "\"agent $1\" failed; the reason is above" \
        "Kawanan is installed; try again with: agent $1"
}

say_what_next() {
    say "Done"
    if [ -z "$entered" ] && ! is_member; then
        note "First machine:        sudo agent init"
        note "Every other machine:  sudo agent join TOKEN     (init prints the line to paste)"
    fi
    note "Look around:          sudo kawan node ls"
    if command -v ufw >/dev/null && ufw status 2>/dev/null | grep -q '^Status: active'; then
        note "Open the firewall:    sudo ufw allow 7700/udp   (better: only from the other machines)"
    fi
    note "Remove:               sudo sh $SHARE/install.sh --uninstall"
}

# --- removing --------------------------------------------------------------------------------------------------------

uninstall() {
    check_not_packaged
    if [ ! -e "$SHARE/install.sh" ] && [ ! -e "$DATA" ] && [ ! -e "$ETC" ]; then
        say "Kawanan is not installed here"
        return 0
    fi
    [ -z "$purge" ] || leave_cluster
    say "Removing Kawanan"
    stop_service
    stop_proxies
    remove_data
    remove_files
    remove_containers
}

# So that the others move this node's work in good order instead of missing it. May fail: then they find out.
leave_cluster() {
    if [ ! -x "$BIN/agent" ] || ! is_member; then return 0; fi
    say "Leaving the cluster"
    timeout 330 "$BIN/agent" leave || timeout 60 "$BIN/agent" leave --force ||
        warn "this node could not leave the cluster; on another node run: kawan node rm --force $(uname -n)"
}

stop_service() {
    [ -d /run/systemd/system ] || return 0
    if [ ! -e "$UNIT" ]; then return 0; fi
    systemctl stop agent.service
    systemctl -q disable agent.service
}

# What outlives the service on purpose, and an agent that was started by hand. A process counts as ours when it runs
# our file, or one that an upgrade replaced, under our root directory: a container may have a program of that name.
stop_proxies() {
    root=$(stat -L -c %d:%i /)
    for process in /proc/[0-9]*; do
        program=$(readlink "$process/exe" 2>/dev/null) || continue
        case $program in
        "$BIN/agent" | "$BIN/agent (deleted)") ;;
        *) continue ;;
        esac
        [ "$(stat -L -c %d:%i "$process/root/" 2>/dev/null)" = "$root" ] || continue
        kill "${process#/proc/}" 2>/dev/null || true
    done
}

remove_files() {
    rm -f "$BIN/agent" "$BIN/kawan" "$UNIT"
    for program in agent kawan; do
        for shell in bash zsh fish; do rm -f "$(completion_path "$program" "$shell")"; done
    done
    rm -rf "$SHARE" "$RUN"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    note "programs, service and completions are gone"
}

remove_data() {
    # Settings that nobody changed are not worth keeping.
    if cmp -s "$ETC/agent.env" "$SHARE/agent.env"; then rm -f "$ETC/agent.env"; fi
    rmdir "$ETC" 2>/dev/null || true
    if is_member && [ -z "$purge" ] && [ -t 0 ]; then
        printf 'Delete the data of this node too (its identity and its copy of the cluster state)? [y/N] '
        read -r answer || answer=
        case $answer in y | Y | yes) purge_data=yes ;; esac
    fi
    if [ -n "$purge$purge_data" ]; then
        rm -rf "$DATA" "$ETC"
        note "the data of this node is gone"
        return 0
    fi
    rmdir "$DATA" 2>/dev/null || true
    for kept in "$DATA" "$ETC"; do
        [ ! -e "$kept" ] || note "kept: $kept"
    done
    if is_member; then note "installing again makes this machine the same node"; fi
}

remove_containers() {
    command -v docker >/dev/null || return 0
    containers=$(timeout 30 docker ps -aq --filter label=kawanan.task.id 2>/dev/null) || containers=
    [ -n "$containers" ] || return 0
    count=$(printf '%s\n' "$containers" | wc -l)
    if [ -n "$purge" ]; then
        printf '%s\n' "$containers" | xargs docker rm -f >/dev/null
        note "$count containers of Kawanan are gone; volumes and images are Docker's and stay"
    else
        note "$count containers of Kawanan run on; to remove them:"
        note "  docker ps -aq --filter label=kawanan.task.id | xargs docker rm -f"
    fi
}

# ---------------------------------------------------------------------------------------------------------------------

clean_up() { [ -z "$stage" ] || rm -rf "$stage"; }

main() {
    parse_options "$@"
    check_root
    if [ "$action" = uninstall ]; then
        uninstall
        return 0
    fi
    check_machine
    check_not_packaged
    refuse_snap_docker
    find_binaries
    compare_versions
    stage=$(mktemp -d)
    trap clean_up EXIT
    entered=
    install_docker
    install_files
    start_service
    enter_cluster
    say_what_next
}

main "$@"
