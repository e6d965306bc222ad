#!/bin/sh
# Tries install.sh in a fresh Debian or Ubuntu (a chroot made with debootstrap, of the release that this machine runs):
# refusals, install, upgrade, downgrade, uninstall, purge, and that nothing is left behind.
#
#   sudo tests/install_test.sh [BINARY_DIR]    also with the real agent and kawan from BINARY_DIR
#
# The chroot is kept in target/install-test for the next run; each run works on a copy of it. SUITE and MIRROR choose
# another release. Everything inside runs in a process namespace of its own and sees no process of the machine.
set -eu

checkout=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
real_binaries=${1:-}
suite=${SUITE:-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)}
mirror=${MIRROR:-$(apt-get indextargets --format "\$(REPO_URI)" "Codename: $suite" | head -n 1)}
cache=$checkout/target/install-test
root=$cache/run
checks=0

fail() {
    printf 'FAILED: %s\n--- output of the last run:\n' "$1" >&2
    cat "$cache/output" >&2
    exit 1
}

# check WHAT COMMAND...: the command must succeed.
check() {
    what=$1
    shift
    "$@" || fail "$what"
    checks=$((checks + 1))
}

inside() { unshare --mount --pid --fork --mount-proc="$root/proc" chroot "$root" "$@" >"$cache/output" 2>&1; }
install_sh() { inside sh /kawanan/install.sh "$@"; }
says() { grep -q -- "$1" "$cache/output"; }
has() { [ -e "$root$1" ]; }
has_not() { [ ! -e "$root$1" ]; }
mode() { [ "$(stat -c %a "$root$1")" = "$2" ]; }
version_is() { [ "$("$root/usr/bin/agent" --version)" = "agent $1" ]; }

# refuses WHAT SENTENCE ARGUMENT...: install.sh must fail, say so and change nothing.
refuses() {
    what=$1 sentence=$2
    shift 2
    listing >"$cache/before"
    if install_sh "$@"; then fail "$what was not refused"; fi
    says "$sentence" || fail "$what was refused without the sentence \"$sentence\""
    listing >"$cache/after"
    cmp -s "$cache/before" "$cache/after" || fail "$what was refused, but files changed"
    checks=$((checks + 1))
}

# All files with size and mode, without the ones that come and go by themselves.
listing() {
    (cd "$root" && find . -path ./proc -prune -o -path ./tmp -prune -o -path ./kawanan -prune -o \
        \( -type f -printf '%p %s %m\n' -o -type l -printf '%p %l\n' -o -type d -printf '%p/\n' \) | sort)
}

# stand_in DIRECTORY VERSION: programs that know their version and completions, and nothing else.
stand_in() {
    mkdir -p "$root/kawanan/$1"
    for program in agent kawan; do
        cat >"$root/kawanan/$1/$program" <<TEXT
#!/bin/sh
case \$1 in
--version) echo "$program $2" ;;
completion) echo "# $program for \$2" ;;
init | join) mkdir -p /var/lib/kawanan/identity && echo "\$1 \${2:-} \$AGENT_ADVERTISE" >/var/lib/kawanan/identity/cluster.json ;;
*) exit 2 ;;
esac
TEXT
        chmod 755 "$root/kawanan/$1/$program"
    done
}

prepare() {
    [ "$(id -u)" -eq 0 ] || { echo "this needs root: it makes a chroot" >&2 && exit 1; }
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2 && exit 1; }
    mkdir -p "$cache"
    if [ ! -e "$cache/$suite/ready" ]; then
        rm -rf "${cache:?}/$suite"
        debootstrap --variant=minbase "$suite" "$cache/$suite" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
            { tail -n 20 "$cache/debootstrap.log" >&2 && exit 1; }
        : >"$cache/$suite/ready"
    fi
    rm -rf "$root"
    cp -a "$cache/$suite" "$root"
    rm "$root/ready"
    mkdir -p "$root/kawanan/agent"
    cp "$checkout/install.sh" "$root/kawanan/"
    cp -r "$checkout/agent/packaging" "$root/kawanan/agent/"
    stand_in older 0.1.0
    stand_in candidate 0.2.0-rc.1
    stand_in newer 0.2.0
    : >"$cache/output"
}

a_machine_that_is_not_fit_is_refused() {
    refuses "a missing systemd" "systemd does not run here" --binary-dir /kawanan/older
    refuses "a directory without programs" "there is no program" --no-systemd --binary-dir /etc
    refuses "nothing to install" "not a checkout" --no-systemd
    refuses "an unknown option" "unknown option" --frobnicate
    refuses "a missing value" "needs a value" --binary-dir
    refuses "an address that is none" "is not an address" --advertise 'a;b'
    refuses "founding and joining at once" "exclude each other" --init --join x
    refuses "an empty standard input" "no token" --no-systemd --join - </dev/null

    mkdir -p "$root/kawanan/broken" && printf 'not a program' >"$root/kawanan/broken/agent"
    cp "$root/kawanan/broken/agent" "$root/kawanan/broken/kawan" && chmod 755 "$root"/kawanan/broken/*
    refuses "a program for another machine" "does not run on this machine" --no-systemd --binary-dir /kawanan/broken

    mkdir -p "$root/snap/bin" && : >"$root/snap/bin/docker"
    refuses "Docker as a snap" "snap remove --purge docker" --no-systemd --binary-dir /kawanan/older
    rm -r "$root/snap"

    printf 'somebody else' >"$root/usr/bin/agent"
    refuses "a foreign program named agent" "did not install" --no-systemd --no-docker --binary-dir /kawanan/older
    rm "$root/usr/bin/agent"

    mv "$root/etc/os-release" "$root/etc/os-release.away"
    printf 'ID=ubuntu\nVERSION_ID="18.04"\nPRETTY_NAME="Ubuntu 18.04"\n' >"$root/etc/os-release"
    refuses "an old release" "too old" --no-systemd --no-docker --binary-dir /kawanan/older
    rm "$root/etc/os-release" && mv "$root/etc/os-release.away" "$root/etc/os-release"

    if inside setpriv --reuid 65534 --clear-groups sh /kawanan/install.sh; then fail "nobody was not refused"; fi
    check "a user who is not root is told what to do" says "run: sudo"
}

# A rustc and a cargo that only pretend, in the home of user $1. The cargo notes who called it and where it "builds".
pretend_rust() {
    home=$(inside sh -c "getent passwd $1 | cut -d: -f6" && cat "$cache/output")
    mkdir -p "$root$home/.cargo/bin"
    printf '#!/bin/sh\necho "rustc %s (0000000 2026-01-01)"\n' "$2" >"$root$home/.cargo/bin/rustc"
    cat >"$root$home/.cargo/bin/cargo" <<'TEXT'
#!/bin/sh
echo "$(id -un) $HOME $*" >/tmp/cargo-was-here
mkdir -p /kawanan/target/release && cp /kawanan/older/* /kawanan/target/release/
TEXT
    chmod 755 "$root$home/.cargo/bin"/*
}

a_checkout_is_built_by_who_called() {
    mkdir -p "$root/kawanan/agent/src"
    cp "$checkout/Cargo.toml" "$root/kawanan/"
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$checkout/Cargo.toml")
    inside useradd -m builder || fail "cannot make a user"
    chmod 777 "$root/kawanan"
    refuses "a checkout without Rust" "sh.rustup.rs" --no-systemd --no-docker
    pretend_rust root 1.2.3
    refuses "an old Rust" "Rust 1.2.3 is too old; $needed is needed" --no-systemd --no-docker
    pretend_rust root "$needed.0"
    refuses "a missing C compiler" "apt-get install -y gcc" --no-systemd --no-docker
    printf '#!/bin/sh\n' >"$root/usr/bin/cc" && chmod 755 "$root/usr/bin/cc"
    check "build as root" install_sh --no-systemd --no-docker
    check "root built it" grep -q "^root /root build --release --locked" "$root/tmp/cargo-was-here"
    rm -r "$root/tmp/cargo-was-here" "$root/kawanan/target" "$root/root/.cargo"
    pretend_rust builder "$needed.0"
    check "build under sudo" inside env SUDO_USER=builder sh /kawanan/install.sh --no-systemd --no-docker
    check "who called sudo built it" grep -q "^builder /home/builder build" "$root/tmp/cargo-was-here"
    check "what was built is installed" version_is 0.1.0
    check "uninstall" install_sh --uninstall
    rm -r "$root/kawanan/agent/src" "$root/kawanan/Cargo.toml" "$root/kawanan/target"
}

installing_puts_everything_in_place() {
    check "install" install_sh --no-systemd --no-docker --binary-dir /kawanan/older
    for file in /usr/bin/agent /usr/bin/kawan /etc/kawanan/agent.env /usr/share/kawanan/install.sh \
        /usr/share/bash-completion/completions/kawan /usr/share/zsh/vendor-completions/_kawan \
        /usr/share/fish/vendor_completions.d/agent.fish; do
        check "$file is there" has "$file"
    done
    check "no service without systemd" has_not /usr/lib/systemd/system/agent.service
    check "the programs can be executed by all" mode /usr/bin/agent 755
    check "the settings can be read by root only" mode /etc/kawanan/agent.env 600
    check "the output says what to type next" says "agent init"
    check "no half-written file stays" sh -c "! find '$root/usr' '$root/etc' -name '*.new.*' | grep ."
}

running_again_upgrades_and_keeps_settings() {
    echo 'AGENT_LISTEN=0.0.0.0:7701' >>"$root/etc/kawanan/agent.env"
    check "upgrade to a release candidate" install_sh --no-systemd --no-docker --binary-dir /kawanan/candidate
    check "upgrade" install_sh --no-systemd --no-docker --binary-dir /kawanan/newer
    check "the new version is there" version_is 0.2.0
    check "the output names both versions" says "from 0.2.0-rc.1 to 0.2.0"
    check "settings are kept" grep -q 7701 "$root/etc/kawanan/agent.env"
    check "the same version again" install_sh --no-systemd --no-docker --binary-dir /kawanan/newer
    refuses "a downgrade" "--allow-downgrade" --no-systemd --no-docker --binary-dir /kawanan/older
    refuses "a downgrade to a candidate" "--allow-downgrade" --no-systemd --no-docker --binary-dir /kawanan/candidate
    check "a downgrade on request" install_sh --no-systemd --no-docker --allow-downgrade --binary-dir /kawanan/older
    check "the old version is back" version_is 0.1.0
}

uninstalling_keeps_what_is_not_replaceable() {
    check "join" install_sh --no-systemd --no-docker --binary-dir /kawanan/older --join TOKEN \
        --advertise 10.0.0.5
    check "token and address reached the agent" \
        grep -q "join TOKEN 10.0.0.5" "$root/var/lib/kawanan/identity/cluster.json"
    check "the address is kept for the service" grep -qx AGENT_ADVERTISE=10.0.0.5 "$root/etc/kawanan/agent.env"
    check "joining twice changes nothing" install_sh --no-systemd --no-docker --binary-dir /kawanan/older --join OTHER
    check "the first token counts" grep -q "join TOKEN" "$root/var/lib/kawanan/identity/cluster.json"

    # A process that runs the installed program must end with it: sleep takes the agent's place.
    # shellcheck disable=SC2016
    check "uninstall" inside sh -c 'cp /bin/sleep /usr/bin/agent.tmp && mv /usr/bin/agent.tmp /usr/bin/agent &&
        /usr/bin/agent 20 & process=$! && sleep 1 && sh /usr/share/kawanan/install.sh --uninstall </dev/null &&
        ! wait $process'
    check "the programs are gone" has_not /usr/bin/agent
    check "the copy of the script is gone" has_not /usr/share/kawanan
    check "the node's data is kept" has /var/lib/kawanan/identity/cluster.json
    check "changed settings are kept" grep -q 7701 "$root/etc/kawanan/agent.env"
    check "uninstall and purge" install_sh --uninstall --purge
    check "the node's data is gone" has_not /var/lib/kawanan
    check "the settings are gone" has_not /etc/kawanan
    check "uninstalling nothing is fine" install_sh --uninstall
}

nothing_is_left_behind() {
    # Directories for completions are shared with other programs and stay.
    mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
        "$root/usr/share/fish/vendor_completions.d" "$root/usr/lib/systemd/system"
    listing >"$cache/before"
    check "install" install_sh --no-systemd --no-docker --binary-dir "$1"
    check "uninstall" install_sh --uninstall
    listing >"$cache/after"
    check "no file is left" cmp "$cache/before" "$cache/after"
}

prepare
a_machine_that_is_not_fit_is_refused
a_checkout_is_built_by_who_called
installing_puts_everything_in_place
running_again_upgrades_and_keeps_settings
uninstalling_keeps_what_is_not_replaceable
nothing_is_left_behind /kawanan/newer
if [ -n "$real_binaries" ]; then
    mkdir -p "$root/kawanan/real"
    cp "$real_binaries/agent" "$real_binaries/kawan" "$root/kawanan/real/"
    nothing_is_left_behind /kawanan/real
fi
printf 'install.sh on %s: %s checks passed\n' "$suite" "$checks"
