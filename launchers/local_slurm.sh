#!/usr/bin/env bash
# A real SLURM on one machine, for tests and for trying a sweep: one controller, two nodes, one private munge.
#
#   eval "$(launchers/local_slurm.sh up)"     # start (or repair) it, wait until both nodes are ready, set SLURM_CONF
#   launchers/local_slurm.sh status           # sinfo and squeue; exits 1 when it is not up
#   launchers/local_slurm.sh down             # cancel its jobs, stop its daemons, also after a failed up; logs stay in DIR
#
# A second argument is the directory of the configuration, state, logs and sockets: default ${TMPDIR:-/tmp}/dcexp-slurm.
# CPUs and GPUs are only counted, not real: 16 and 2 a node, so that several jobs of a sweep run at once anywhere.
# There is no accounting (no sacct).
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin # where Debian keeps the daemons, and a plain user's PATH does not

readonly usage="usage: local_slurm.sh up|down|status [DIR]"
verb=${1-}
dir=$(realpath -m -- "${2:-${TMPDIR:-/tmp}/dcexp-slurm}")
readonly verb dir daemons="munged slurmctld node1 node2"
export SLURM_CONF=$dir/slurm.conf

say() { printf 'local_slurm: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

install_packages() {
    local missing=() name
    for name in munged slurmctld slurmd sinfo; do command -v "$name" >/dev/null || missing+=("$name"); done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 && -n $(command -v apt-get) ]] ||
        die "not found: ${missing[*]}; as root: apt-get install munge slurmctld slurmd slurm-client"
    say "installing SLURM (${missing[*]} not found)"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    local packages=(--no-install-recommends munge slurmctld slurmd slurm-client)
    # The package lists of a fresh container are empty, those of a machine may be old: update only where it is needed.
    "${apt[@]}" install -y "${packages[@]}" >"$dir/apt.log" 2>&1 ||
        { "${apt[@]}" update && "${apt[@]}" install -y "${packages[@]}"; } >"$dir/apt.log" 2>&1 ||
        die "apt-get install failed, see $dir/apt.log: $(tail -n 1 "$dir/apt.log")"
}

listening() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() { # the first of three free ports; below the ephemeral range, so that no outgoing connection holds one
    local port
    for port in $(shuf -i 20000-30000 -n 50); do
        listening "$port" || listening $((port + 1)) || listening $((port + 2)) || { echo "$port"; return; }
    done
    die "no free port between 20000 and 30000"
}

write_config() {
    local user host port
    user=$(id -un) host=$(uname -n) port=$(free_port)
    host=${host%%.*}
    [[ -f $dir/munge.key ]] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    # cred_expire is also how long a requeued job must wait (default: 120 s).
    # config_overrides and CR_CPU: believe these CPUs and this memory, and never count memory. CR_LLN: use both nodes.
    cat >"$SLURM_CONF" <<CONF
ClusterName=dcexp
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=30
InactiveLimit=0
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU,CR_LLN
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=16 RealMemory=1000000 Gres=gpu:2
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=16 RealMemory=1000000 Gres=gpu:2
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=node[1-2] Name=gpu File=/dev/null,/dev/zero" >"$dir/gres.conf"
    # slurmd loads a cgroup plugin even when nothing uses it, and v2's needs systemd, which a container has not.
    # 22.05, Debian 12's, does not know `disabled`; its v1 plugin does nothing until it is used.
    local cgroup=disabled
    [[ $(slurmd -V) != *" 22."* ]] || cgroup=cgroup/v1
    echo "CgroupPlugin=$cgroup" >"$dir/cgroup.conf"
}

pid_of() { # the pid of one of our daemons; a number left in a pid file by a crash may be another process by now
    local pid words
    pid=$(cat "$dir/$1.pid" 2>/dev/null) && words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
    [[ $words == *"${1/node*/slurmd} "*"$dir/"* ]] && echo "$pid"
}

any_alive() { local name; for name in $daemons; do ! pid_of "$name" >/dev/null || return 0; done; return 1; }

start() { # NAME COMMAND...: unless it is alive; without our lock, our terminal or our output, which callers wait for
    local name=$1
    shift
    ! pid_of "$name" >/dev/null || return 0
    # A daemon's command returns before its pid file is there, without which a `down` that follows would miss it.
    if ! "$@" </dev/null >"$dir/$name.out" 2>&1 9>&- || ! within 10 pid_of "$name" >/dev/null; then
        die "$name did not start, see $dir/$name.*: $(cat "$dir/$name".{log,out} 2>/dev/null | grep -iE 'error|fatal' | tail -n 1)"
    fi
}

start_all() {
    # --force: munged would refuse a directory below one that others cannot enter, such as pytest's, and a stale socket.
    start munged munged --force --origin=127.0.0.1 --socket="$dir/munge.socket" --key-file="$dir/munge.key" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
    start slurmctld slurmctld -f "$SLURM_CONF"
    start node1 slurmd -f "$SLURM_CONF" -N node1
    start node2 slurmd -f "$SLURM_CONF" -N node2
}

ready() { # both nodes answer: a second `up` may find them at work
    [[ $(sinfo -h -N -o %T 2>/dev/null | grep -cxE 'idle|mixed|allocated|completing') == 2 ]]
}

within() { # SECONDS COMMAND...: until the command succeeds
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do ((SECONDS < deadline)) || return 1; sleep 0.2; done
}

up() {
    [[ $dir != *[[:space:]]* && ${#dir} -le 70 ]] || die "a path without spaces, of 70 characters at most (sockets): $dir"
    mkdir -p "$dir"/{state,spool/node1,spool/node2}
    install_packages
    any_alive || write_config # a cluster that lives, even in part, keeps its ports
    start_all
    scontrol update nodename="node[1-2]" state=resume >/dev/null 2>&1 || true # if drained in an earlier life
    within 30 ready || die "the nodes are not ready after 30 s, see $dir/*.log: $(sinfo -N -h -o '%N %T (%E)' 2>&1 | paste -sd ' ')"
    say "up: $(sinfo -h -o '%D nodes %N, %c CPUs and %G each'), logs in $dir"
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
}

# A controller that crashed may have lost a job that runs on; each running step has a socket in its node's spool.
no_jobs() { [[ -z $(squeue -h 2>/dev/null) ]] && ! compgen -G "$dir/spool/node?/node?_*" >/dev/null; }

gone() { [[ -z $(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline") ]]; } # or a zombie: in a container nobody may reap it

stop() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill "$pid"
    within 10 gone "$pid" || kill -9 "$pid"
}

down() {
    any_alive || { say "down: nothing was running in $dir"; return; }
    # Jobs outlive their daemons: cancel them first, and for that all daemons must live, also after a crash.
    if (start_all) && within 30 ready; then
        squeue -h -o %A | sort -u | xargs -r scancel
        within 30 no_jobs || say "warning: a job may be left, see $dir/spool: $(squeue -h -o '%A on %N' | paste -sd ' ')"
    fi
    local name
    for name in node1 node2 slurmctld munged; do stop "$name"; done
    say "down: $dir"
}

lock() { # one `up` or `down` at a time
    mkdir -p "$dir" 2>/dev/null || true
    [[ -d $dir && -O $dir ]] || die "$dir is not a directory of yours; name another"
    exec 9>"$dir/lock"
    flock -w 120 9 || die "another local_slurm.sh holds $dir/lock"
}

case $verb in
    up) lock && up ;;
    down) [[ ! -d $dir ]] || { lock && down; } ;;
    status) ready || die "not up: $dir"; sinfo; squeue ;;
    *) die "$usage" ;;
esac
