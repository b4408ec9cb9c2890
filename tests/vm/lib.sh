# What guest scripts share. Source it first: . /root/lib.sh
# shellcheck shell=sh

pass() {
    echo "PASS $1"
}

# fail NAME WHY...
fail() {
    _name=$1
    shift
    echo "FAIL $_name: $*"
}

# check NAME COMMAND...: passes when the command does.
check() {
    _name=$1
    shift
    if _out=$("$@" 2>&1); then
        pass "$_name"
    else
        fail "$_name" "exit $? of '$*': $_out"
    fi
}

# equal NAME WANTED GOT
equal() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "wanted '$2', got '$3'"
    fi
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
    _left=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        _left=$((_left - 1))
        [ "$_left" -gt 0 ] || return 1
        sleep 1
    done
}

# Starts the agent in a cgroup of its own, as systemd would; its pid is in $agent_pid.
start_agent() {
    mkdir -p /sys/fs/cgroup/agent.service
    sh -c 'echo $$ >/sys/fs/cgroup/agent.service/cgroup.procs; exec agent serve "$@"' sh "$@" \
        >/tmp/agent.log 2>&1 &
    agent_pid=$!
    within 20 agent status
}

# field NAME <JSON: the value of a member whose name is unique in the text, without quotes.
field() {
    tr -d '\n' | sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p' | tr -d ' '
}

# submit ARG...: starts a run of the lab's image, prints its id.
submit() {
    agent submit -o json "$@" </dev/null | field id
}

# ended RUN SECONDS: waits for its end, and leaves its record in /tmp/RUN.
ended() {
    _left=$(($2 * 5))
    while [ "$_left" -gt 0 ]; do
        agent inspect "$1" -o json >"/tmp/$1" 2>/dev/null
        case $(field state <"/tmp/$1") in
        succeeded | failed | timed_out | cancelled | lost) return 0 ;;
        esac
        _left=$((_left - 1))
        sleep 0.2
    done
    return 1
}

# between NAME LEAST MOST GOT: whole numbers.
between() {
    if [ "${4%%.*}" -ge "$2" ] 2>/dev/null && [ "${4%%.*}" -le "$3" ]; then
        pass "$1"
    else
        fail "$1" "wanted $2 to $3, got '$4'"
    fi
}

# Processes in the agent's cgroup and below, beside the agent's own group.
strays() {
    find /sys/fs/cgroup -path '*agent*' -name cgroup.procs -exec cat {} + 2>/dev/null | sort -n
}
