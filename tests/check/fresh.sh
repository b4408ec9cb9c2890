#!/bin/bash
# Does a newcomer's first command work? Makes a minimal Debian 12 in a scratch directory, clones the
# committed tree into it and builds there with nothing installed but what packaging/deps installs.
# With "check" or "demo" as argument it runs that target too.
#
#   sudo tests/check/fresh.sh [build|check|demo]
#
# Needs root, debootstrap and a Debian mirror (the machine's own apt sources are used).
set -eu

what=${1:-build}
top=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
[ "$(id -u)" -eq 0 ] || {
    echo "fresh: needs root" >&2
    exit 1
}
command -v debootstrap >/dev/null || {
    echo "fresh: needs debootstrap (packaging/deps all)" >&2
    exit 1
}
dir=$(mktemp -d)
root=$dir/root
cleanup() {
    umount -R -l "$root" 2>/dev/null || true
    # Never through a mount that is still there.
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' |
    head -n 1)
[ -n "$mirror" ] || { echo "fresh: apt knows no archive of Debian 12"; exit 1; }
start=$SECONDS
debootstrap --variant=minbase bookworm "$root" "$mirror" >"$dir/log" 2>&1 || {
    tail -n 20 "$dir/log"
    exit 1
}
echo "fresh: minimal Debian 12 in $((SECONDS - start)) s"

cp -a /etc/apt/. "$root/etc/apt/"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
git clone -q --no-hardlinks "$top" "$root/src"
# A root that is a mount point, as on every machine: what runs inside may change its propagation.
mount --bind "$root" "$root"
mount --make-private "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/sys"
inside() {
    chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c "cd /src && $1"
}
start=$SECONDS
inside 'packaging/deps build'
echo "fresh: packages for the build in $((SECONDS - start)) s"
start=$SECONDS
inside 'make -j"$(nproc)"' >"$dir/log" 2>&1 || {
    tail -n 30 "$dir/log"
    exit 1
}
inside 'build/agent version'
echo "fresh: built in $((SECONDS - start)) s"
if [ "$what" != build ]; then
    start=$SECONDS
    inside "git config --global --add safe.directory /src; make $what"
    echo "fresh: make $what in $((SECONDS - start)) s"
fi
echo "ok   fresh: $what"
