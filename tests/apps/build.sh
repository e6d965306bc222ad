#!/usr/bin/env bash
# Makes the images of tests and demo without a registry: OUT/images.tar, for `docker load`.
#   build.sh OUT
# busybox:latest            a shell and the usual tools (Debian's static busybox)
# web:v1, web:v2            the web service of web.rs; answers with its version
# web:well, web:sick        the same with a health check that passes, and one that never does
# web:broken                ends with code 1 at its start
set -euo pipefail
[ $# = 1 ] || { echo "usage: build.sh OUT" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
work=$(mktemp -d "$1/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
busybox=$(command -v busybox) || { echo "busybox is missing: apt-get install busybox-static" >&2; exit 1; }
if "$busybox" --help >/dev/null && ldd "$busybox" >/dev/null 2>&1; then
    echo "$busybox is not static: apt-get install busybox-static" >&2
    exit 1
fi

mkdir -p "$work"/{archive,busybox/bin,busybox/tmp,busybox/etc,web}
cp "$busybox" "$work/busybox/bin/busybox"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$work/busybox/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$work/busybox/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$work/busybox/etc/group"
chmod 1777 "$work/busybox/tmp"
rustc --edition 2024 -D warnings -C opt-level=s -C panic=abort -C strip=symbols -C target-feature=+crt-static \
    -o "$work/web/web" "$here/web.rs"

# Same content, same layer, same image: times and owners are fixed.
layer() {
    tar -C "$work/$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/archive/$1.tar" .
    sha256sum "$work/archive/$1.tar" | cut -d ' ' -f 1
}

# image NAME:TAG LAYER DIGEST CONFIG: adds one image to the archive's list.
manifest=
image() {
    local arch config
    case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
    config="$(printf '%s' "$1" | tr ':' '-').json"
    cat >"$work/archive/$config" <<JSON
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z","config":$4,
 "rootfs":{"type":"layers","diff_ids":["sha256:$3"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}
JSON
    manifest="$manifest${manifest:+,}{\"Config\":\"$config\",\"RepoTags\":[\"$1\"],\"Layers\":[\"$2.tar\"]}"
}

# web VERSION ENTRYPOINT MORE
web() {
    image "web:$1" web "$web_digest" \
        "{\"Env\":[\"PATH=/\",\"VERSION=$1\"],\"Entrypoint\":$2,\"ExposedPorts\":{\"80/tcp\":{}}${3:-}}"
}

busybox_digest=$(layer busybox)
web_digest=$(layer web)
health=',"Healthcheck":{"Test":["CMD","/web","--check"],"Interval":500000000,"Timeout":2000000000,"Retries":2}'
image busybox:latest busybox "$busybox_digest" '{"Env":["PATH=/bin"],"Cmd":["sh"]}'
web v1 '["/web"]'
web v2 '["/web"]'
web well '["/web"]' "$health"
web sick '["/web","--sick"]' "$health"
web broken '["/web","--fail"]'

printf '[%s]\n' "$manifest" >"$work/archive/manifest.json"
tar -C "$work/archive" -cf "$work/images.tar" .
mv "$work/images.tar" "$1/images.tar"
