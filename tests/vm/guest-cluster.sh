#!/bin/sh
# vm: cpu=Nehalem,-popcnt/Westmere memory=512 timeout=150
# Two machines that really differ, as one cluster. The first is x86-64-v1 and has no AES, the second
# is v2 and has: what each can do is CPUID's word, an image that needs more than the first has is
# never sent there, and a job that is faster with AES ends up where that is.
. /root/lib.sh

own=10.9.0.$GUEST_PLACE
other=10.9.0.$((3 - GUEST_PLACE))
export AGENT_ADDR="$own:7575"
ip addr add "$own/24" dev eth0
ip link set eth0 up || fail "network" "no eth0"
start_agent --node.name="m$GUEST_PLACE" --auth.insecure=yes --http.listen="$own:7575" \
    --gossip.listen="$own:7946" --gossip.join="$other:7946" --node.slots=2 ||
    fail "agent serve" "$(cat /tmp/agent.log)"

if [ "$GUEST_PLACE" = 2 ]; then
    check "AES here" grep -qw aes /proc/cpuinfo
    nc -l -p 9999 >/dev/null # until the first one has seen all
    echo DONE
    exit
fi

submit_to_aes() {
    agent submit -o json --require cpu-cpuid.AESNI lab/busybox:1 -- true </dev/null
}
check "no AES here" test "$(grep -cw aes /proc/cpuinfo)" = 0
for image in busybox level2 level3; do
    agent push "/root/$image.tar" >/dev/null || fail "push $image" "$?"
done
check "the other one's AES is known" within 60 submit_to_aes

# More than anybody has (once all are known), and more than this one has.
nobody() {
    agent submit lab/level3:1 </dev/null 2>&1 | grep 'needs (x86-64-v3)'
}
check "nobody has x86-64-v3" within 60 nobody
agent images >/tmp/images
check "what an image needs is shown" grep -q 'level2.*x86-64-v2' /tmp/images
for _ in 1 2 3 4 5; do
    run=$(submit lab/level2:1)
    ended "$run" 30
    echo "$(field node <"/tmp/$run") $(field state <"/tmp/$run")"
done | sort | uniq -c | sed 's/^ *//' >/tmp/level2
equal "an image for v2 never comes to v1" "5 m2 succeeded" "$(cat /tmp/level2)"
run=$(submit lab/level2:1)
ended "$run" 30
agent explain "$run" >/tmp/explain 2>&1
check "explain says why" grep -q 'needs x86-64-v2, has x86-64-v1' /tmp/explain

# Ten times slower without AES, and one that is as much slower with it. What the processor has, the
# job sees for itself.
cat >/tmp/jobs.json <<'EOF'
[{"name": "crypt", "image": "lab/busybox:1", "command": ["sh", "-c",
  "if grep -qw aes /proc/cpuinfo; then sleep 0.1; else sleep 1; fi"]},
 {"name": "plain", "image": "lab/busybox:1", "command": ["sh", "-c",
  "if grep -qw aes /proc/cpuinfo; then sleep 1; else sleep 0.1; fi"]}]
EOF
agent apply -f /tmp/jobs.json >/tmp/applied 2>&1 || fail "apply" "$(cat /tmp/applied)"

# The image is at work on both, so that neither is ahead.
for node in m1 m2; do
    run=$(submit --require "node.name=$node" lab/busybox:1 -- true)
    check "a run on $node" ended "$run" 30
done

# last JOB NODE: how many of its last 10 runs of 20 were there.
last() {
    _n=0
    while [ "$_n" -lt 20 ]; do
        run=$(submit "$1")
        ended "$run" 30
        field node <"/tmp/$run"
        echo
        _n=$((_n + 1))
    done | grep . | tail -10 | grep -c "$2"
}
between "the job that AES makes faster ends up with AES" 9 10 "$(last crypt m2)"
between "the other one without" 8 10 "$(last plain m1)"
nc "$other" 9999 </dev/null
echo DONE
