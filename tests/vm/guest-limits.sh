#!/bin/sh
# vm: cpu=max memory=768 smp=2 timeout=200
# Limits and measurements as only cgroup v2 gives them: memory.max with oom.group, memory.peak,
# cpu.max, pids.max, io.stat, cgroup.kill.
. /root/lib.sh

# Nothing is built ahead: at the end no process with an id of a sandbox may be left.
start_agent --telemetry.interval=200ms --sandbox.prepared=none ||
    fail "agent serve" "$(cat /tmp/agent.log)"
agent push /root/busybox.tar >/dev/null || fail "push" "exit $?"
image=lab/busybox:1

# `tail` keeps all of a line that never ends.
run=$(submit $image --memory 48MiB -- sh -c 'sleep 60 & tail /dev/zero; echo survived')
ended "$run" 40 || fail "an end of the run over its memory" "$(cat "/tmp/$run")"
equal "over memory: state" failed "$(field state <"/tmp/$run")"
equal "over memory: reason" oom "$(field reason <"/tmp/$run")"
equal "over memory: the whole sandbox goes" "" "$(agent output "$run")"
between "over memory: counted" 1 100 "$(field oom_kills <"/tmp/$run")"

run=$(submit $image --memory 256MiB -- sh -c 'head -c 60000000 /dev/zero | tail | wc -c')
ended "$run" 40
equal "60 MB held: state" succeeded "$(field state <"/tmp/$run")"
between "60 MB held: peak" 60000000 140000000 "$(field memory_peak_bytes <"/tmp/$run")"

run=$(submit $image --cpus 0.5 -- timeout 6 sh -c 'while :; do :; done')
ended "$run" 60
wall=$(field run_seconds <"/tmp/$run")
used=$(field cpu_seconds <"/tmp/$run")
check "half a CPU: cpu_seconds ($used) is at most 0.7 of run_seconds ($wall)" \
    awk "BEGIN { exit !($used > 0 && $used <= 0.7 * $wall) }"
check "half a CPU: throttled" \
    awk "BEGIN { exit !($(field cpu_throttled_seconds <"/tmp/$run") > 0) }"

run=$(submit $image --pids 16 -- sh -c 'for i in $(seq 40); do sleep 20 & done; echo made all')
ended "$run" 40
check "pids: forty do not fit into sixteen" \
    test "$(agent output "$run" | grep -c 'made all')" = 0
check "pids: the log says why" sh -c "agent logs $run | grep -qi 'fork'"

echo 3 >/proc/sys/vm/drop_caches
run=$(submit $image -- sh -c 'cat /bin/busybox | md5sum')
ended "$run" 40
between "reading from disk is counted" 100000 100000000 "$(field io_read_bytes <"/tmp/$run")"

run=$(submit $image --timeout 2s --grace 1s -- \
    sh -c 'trap "" TERM; (trap "" TERM; while :; do sleep 1; done) & while :; do sleep 1; done')
ended "$run" 40
equal "over time: state" timed_out "$(field state <"/tmp/$run")"
equal "over time: exit code" 124 "$(field exit_code <"/tmp/$run")"

run=$(submit $image --grace 1s -- sh -c 'trap "" TERM; echo up; while :; do sleep 1; done')
within 20 sh -c "agent output $run | grep -q up" || fail "output of a running run" "none"
agent cancel "$run" >/dev/null
ended "$run" 40
equal "cancel: state" cancelled "$(field state <"/tmp/$run")"

# Those of a sandbox have ids of its slot, from sandbox.uid_base on.
check "no process is left" sh -c '! awk "/^Uid:/ && \$2 >= 1879048192" /proc/[0-9]*/status | grep .'
check "no mount of a run is left" sh -c '! grep -q overlay /proc/mounts'
check "no zombie is left" sh -c '! grep -q "^State:.Z" /proc/[0-9]*/status'
echo DONE
