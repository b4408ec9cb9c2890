#!/bin/bash
# The whole path on one machine, without a network: a node, an image, a job, a run, its result.
#
#   sudo make demo        or   AGENT=build/agent tests/demo/demo.sh
#
# A real root file system (busybox and the openssl program with its libraries) becomes an OCI
# layout, skopeo pushes it, the job encrypts 64 MiB (AES-256-CTR, then HMAC-SHA256 over IV and
# ciphertext), and the result is checked here by decrypting. At the end nothing may be left: no
# process, mount, cgroup or file.
set -euo pipefail

agent=$(realpath "${AGENT:-build/agent}")
size_mib=${DEMO_MIB:-64}
if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, as 'agent serve' does: sudo make demo" >&2
    exit 1
fi

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
    bold=$'\033[1m' dim=$'\033[2m' off=$'\033[0m'
else
    bold='' dim='' off=''
fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$off"; }
die() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

dir=$(mktemp -d /tmp/agent-demo-XXXXXX)
chmod 711 "$dir"
node=
cgroups=

# Ends the node and takes away what is ours. Then looks whether something stayed.
stop_node() {
    [ -n "$node" ] || return 0
    kill -TERM "$node" 2>/dev/null || true
    for _ in $(seq 200); do
        kill -0 "$node" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$node" 2>/dev/null || true
    wait "$node" 2>/dev/null || true
    node=
    # Groups outlive the launcher, because runs may; ours are empty now.
    for group in $cgroups; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}
clean() {
    status=$?
    stop_node
    if [ "$status" -ne 0 ] && [ -s "$dir/log" ]; then
        echo "demo: the node's last words:" >&2
        tail -n 20 "$dir/log" >&2
    fi
    rm -rf "$dir"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

free_port() {
    local port
    for port in $(shuf -i 20000-32000 -n 50); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free port on loopback"
}

# ---------------------------------------------------------------- an image out of this machine

make_rootfs() {
    local root=$1 lib
    mkdir -p "$root"/{bin,etc,tmp,usr/bin}
    cp -L /bin/busybox "$root/bin/busybox"
    "$root/bin/busybox" --list | while read -r name; do
        [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
    done
    cp -L "$(command -v openssl)" "$root/usr/bin/openssl"
    ldd "$(command -v openssl)" | grep -o '/[^ ]*' | sort -u | while read -r lib; do
        install -D -m 755 "$lib" "$root$lib"
    done
    chmod 1777 "$root/tmp"
    echo 'root:x:0:0::/:/bin/sh
job:x:1000:1000::/tmp:/bin/sh' >"$root/etc/passwd"
    echo 'job:x:1000:' >"$root/etc/group"
    cat >"$root/bin/encrypt" <<'SCRIPT'
#!/bin/sh
# stdin to stdout: IV, ciphertext (AES-256-CTR), tag (HMAC-SHA256 over both). Streams.
set -e
cd /tmp
export OPENSSL_CONF=/dev/null
echo "encrypting $(stat -L -c %s "$PAYLOAD_FILE") bytes on $AGENT_NODE, attempt $AGENT_ATTEMPT" >&2
openssl rand -out iv 16
mkfifo copy
openssl dgst -sha256 -mac HMAC -macopt "hexkey:$MAC_KEY" -binary -out tag copy &
iv=$(od -An -v -tx1 iv | tr -d ' \n')
{ cat iv; openssl enc -aes-256-ctr -K "$ENC_KEY" -iv "$iv"; } | tee copy
wait $!
cat tag
echo "done" >&2
SCRIPT
    chmod 755 "$root/bin/encrypt"
}

# Puts a file into the layout; prints its descriptor.
blob() {
    local digest
    digest=$(sha256sum "$2" | cut -d' ' -f1)
    cp "$2" "$dir/layout/blobs/sha256/$digest"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s}' \
        "$1" "$digest" "$(stat -c %s "$2")"
}

make_layout() {
    local layer config manifest arch
    case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
    esac
    mkdir -p "$dir/layout/blobs/sha256"
    tar -C "$dir/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        -cf "$dir/layer.tar" .
    layer=$(blob layer.v1.tar "$dir/layer.tar")
    cat >"$dir/config.json" <<JSON
{"architecture":"$arch","os":"linux",
 "config":{"User":"job","WorkingDir":"/tmp","Env":["PATH=/bin:/usr/bin"],
           "Entrypoint":["/bin/encrypt"]},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)"]}}
JSON
    config=$(blob config.v1+json "$dir/config.json")
    cat >"$dir/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":$config,"layers":[$layer]}
JSON
    manifest=$(blob manifest.v1+json "$dir/manifest.json")
    printf '{"schemaVersion":2,"manifests":[%s,"annotations":{"%s":"1"}}]}' "${manifest%\}}" \
        org.opencontainers.image.ref.name >"$dir/layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/layout/oci-layout"
    rm -f "$dir/layer.tar"
}

# ---------------------------------------------------------------- the node

start_node() {
    local port
    port=$(free_port)
    export AGENT_ADDR=127.0.0.1:$port
    "$agent" serve --node.data_dir="$dir/data" --node.user=nobody --http.listen="$AGENT_ADDR" \
        --gossip.listen="127.0.0.1:$(free_port)" >"$dir/log" 2>&1 </dev/null &
    node=$!
    for _ in $(seq 200); do
        if "$agent" status >/dev/null 2>&1; then
            return
        fi
        kill -0 "$node" 2>/dev/null || die "the node did not start"
        sleep 0.05
    done
    die "the node does not answer"
}

# The groups that the node's processes sit in or made, as directories.
find_cgroups() {
    local pid
    for pid in $(pgrep -P "$node"); do
        cut -d: -f3 "/proc/$pid/cgroup" 2>/dev/null || true
    done | grep -o '^/.*agent-[0-9a-f]*' | sort -u | while read -r path; do
        find /sys/fs/cgroup -maxdepth 6 -type d -path "*${path#/}" 2>/dev/null
    done | sort -u
}

# ---------------------------------------------------------------- the story

step "1. A node"
show "agent serve --node.data_dir=... --http.listen=127.0.0.1:PORT"
start_node
"$agent" nodes

step "2. An image: busybox and openssl of this machine, pushed by skopeo"
make_rootfs "$dir/root"
make_layout
show "skopeo copy oci:layout:1 docker://$AGENT_ADDR/team/encrypt:1"
skopeo copy -q --dest-tls-verify=false "oci:$dir/layout:1" "docker://$AGENT_ADDR/team/encrypt:1"
"$agent" images

step "3. A job"
enc_key=$(openssl rand -hex 32)
mac_key=$(openssl rand -hex 32)
cat >"$dir/encrypt.json" <<JSON
{ "name": "encrypt", "image": "team/encrypt:1", "memory": "128MiB", "timeout": "5m",
  "env": { "ENC_KEY": "$enc_key", "MAC_KEY": "$mac_key" } }
JSON
sed "s/$enc_key/.../; s/$mac_key/.../" "$dir/encrypt.json"
show "agent apply -f encrypt.json"
"$agent" apply -f "$dir/encrypt.json"

step "4. A run: $size_mib MiB in, encrypted out"
head -c "$((size_mib * 1024 * 1024))" /dev/urandom >"$dir/plain"
show "agent submit encrypt --wait < plain > secret"
progress=auto
[ -t 2 ] || progress=never
start=$(date +%s.%N)
"$agent" submit encrypt --wait --progress "$progress" <"$dir/plain" >"$dir/secret"
end=$(date +%s.%N)
awk -v a="$start" -v b="$end" -v m="$size_mib" \
    'BEGIN { printf "%.2f s from submit to result, %.0f MiB/s\n", b - a, m / (b - a) }'

step "5. Is it right?"
total=$(stat -c %s "$dir/secret")
[ "$total" -eq "$((size_mib * 1024 * 1024 + 16 + 32))" ] || die "the result has $total bytes"
want=$(tail -c 32 "$dir/secret" | od -An -v -tx1 | tr -d ' \n')
got=$(head -c -32 "$dir/secret" |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$mac_key" -binary | od -An -v -tx1 | tr -d ' \n')
[ "$want" = "$got" ] || die "the HMAC is wrong"
iv=$(head -c 16 "$dir/secret" | od -An -v -tx1 | tr -d ' \n')
head -c -32 "$dir/secret" | tail -c +17 |
    openssl enc -d -aes-256-ctr -K "$enc_key" -iv "$iv" | cmp - "$dir/plain" ||
    die "decrypting does not give the payload back"
! cmp -s -n 4096 "$dir/secret" "$dir/plain" || die "the result is not encrypted"
echo "HMAC verified, decrypted, equal to the payload"

step "6. What the node knows of it"
run=$("$agent" runs -q -n 1)
show "agent inspect $run"
"$agent" inspect "$run"
show "agent logs $run"
"$agent" logs "$run"
step "7. The node as a whole"
show "agent status"
"$agent" status

step "8. Nothing stays"
cgroups=$(find_cgroups)
[ -n "$cgroups" ] || echo "(no cgroup of the node's slots was seen: nothing to look for there)"
stop_node
left=0
for pid in /proc/[0-9]*; do
    if [ "${pid#/proc/}" != "$$" ] && tr '\0' ' ' <"$pid/cmdline" 2>/dev/null |
        grep -qF "$dir/data"; then
        echo "left: process ${pid#/proc/}" && left=1
    fi
done
if grep -F "$dir" /proc/self/mountinfo; then
    echo "left: a mount" && left=1
fi
for group in $cgroups; do
    [ ! -d "$group" ] || { echo "left: cgroup $group" && left=1; }
done
rm -rf "$dir"
[ ! -e "$dir" ] || { echo "left: $dir" && left=1; }
[ "$left" -eq 0 ] || die "something was left behind"
echo "no process, no mount, no cgroup, no file of the demo is left"
