#!/bin/sh
# vm: cpu=Nehalem
# vm: cpu=Westmere
# vm: cpu=max
# The node says what its processor can do: a Nehalem has no AES instructions, a Westmere has.
. /root/lib.sh

start_agent || fail "agent serve" "$(cat /tmp/agent.log)"
wget -qO /tmp/nodes http://127.0.0.1:7575/v1/nodes
check "the node is listed" grep -q '"capabilities"' /tmp/nodes
# From the array of usable ones, not of the raw ones.
tr -d ' \n' </tmp/nodes | sed 's/.*"capabilities":\[\([^]]*\)\].*/\1/' | tr ',' '\n' >/tmp/usable
check "usable capabilities are named" grep -qx '"cpu-cpuid.SSE42"' /tmp/usable
case $GUEST_CPU in
Nehalem)
    check "no AES on $GUEST_CPU" test "$(grep -c AESNI /tmp/usable)" = 0
    check "the kernel agrees" test "$(grep -cw aes /proc/cpuinfo)" = 0
    ;;
*)
    check "AES on $GUEST_CPU" grep -qx '"cpu-cpuid.AESNI"' /tmp/usable
    check "the kernel agrees" grep -qw aes /proc/cpuinfo
    ;;
esac
echo DONE
