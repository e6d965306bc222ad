# Process 1 of a lab machine: makes its own view of the file system, then waits.
# Arguments: the machine's name, its directory. Ends, and with it all that runs here, when its input is closed.
set -euo pipefail
name=$1 dir=$2

mount --make-rprivate /
mount -t proc proc /proc
# /sys shows the devices of the network namespace it was mounted in; the cgroups below it are kept.
mount --rbind /sys/fs/cgroup "$dir/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$dir/cgroup" /sys/fs/cgroup
umount -l "$dir/cgroup"

mount --bind "$dir/run" /run
mkdir -p /run/lock /etc/docker
mount --bind "$dir/etc-docker" /etc/docker

# Names: the lab's own hosts, and a name server that refuses at once instead of one that is out of reach.
printf '%s\n' "$name" >"$dir/hostname"
mount --bind "$dir/hosts" /etc/hosts
printf 'nameserver 127.0.0.1\n' >"$dir/resolv.conf"
resolv=$(readlink -m /etc/resolv.conf)
mkdir -p "$(dirname "$resolv")"
[ -e "$resolv" ] || : >"$resolv"
mount --bind "$dir/resolv.conf" "$resolv"

hostname "$name"
ip link set lo up

echo booted
exec >/dev/null
# Bash collects orphans that end while it waits here.
read -r _ || true
