#!/bin/bash
# The name service trap of static glibc programs: a module named in nsswitch.conf brings a second
# libc into the process. Here every database names a module of ours that leaves a mark when it is
# loaded. First a program without the fix must be caught (else the trap is not set), then the agent
# must not be.
#
#   tests/check/nss.sh build/agent
set -u

agent=$(realpath "$1")
if [ "$(id -u)" -ne 0 ]; then
    echo "skip nss: needs root for a mount namespace of its own"
    exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/trap.c" <<'C'
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void)
{
    const char *path = getenv("NSS_TRAP_MARK");
    if (path != NULL) {
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
}
C
cat >"$dir/control.c" <<'C'
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>
int main(void)
{
    struct addrinfo *list = NULL;
    (void)getpwnam("nobody-of-this-name");
    return getaddrinfo("localhost", "1", NULL, &list) == 0 ? 0 : 1;
}
C
gcc -shared -fPIC -o "$dir/libnss_trap.so.2" "$dir/trap.c" &&
    gcc -static-pie -fPIE -o "$dir/control" "$dir/control.c" 2>/dev/null || exit 1
for db in passwd group shadow hosts networks services protocols; do
    echo "$db: trap files"
done >"$dir/nsswitch.conf"
export LD_LIBRARY_PATH=$dir NSS_TRAP_MARK=$dir/mark NSS_TRAP_CONF=$dir/nsswitch.conf

# Runs a command with the trap set; its output goes to $dir/out.
trapped() {
    rm -f "$dir/mark"
    unshare -m --propagation private \
        sh -c 'mount --bind "$NSS_TRAP_CONF" /etc/nsswitch.conf && exec "$@"' sh "$@" \
        >"$dir/out" 2>&1 </dev/null
}

failed=0
fail() {
    echo "nss: $1"
    cat "$dir/out"
    failed=1
}

trapped "$dir/control"
[ -e "$dir/mark" ] || fail "the trap does not catch a program without the fix"

for command in "status --node localhost:1" "doctor" "version"; do
    # shellcheck disable=SC2086 # words
    trapped "$agent" $command
    rc=$?
    [ "$rc" -lt 126 ] || fail "agent $command ended with $rc"
    [ ! -e "$dir/mark" ] || fail "agent $command loaded a name service module"
done

# With the user's name to look up, and the listening addresses.
trapped timeout -k 2 5 "$agent" serve --node.data_dir="$dir/data" --node.user=nobody \
    --http.listen=localhost:17575 --gossip.listen=localhost:17946
rc=$?
[ "$rc" -lt 128 ] || fail "agent serve ended with $rc"
[ ! -e "$dir/mark" ] || fail "agent serve loaded a name service module"

[ "$failed" -eq 0 ] && echo "ok   nss: the agent loads no name service module"
exit "$failed"
