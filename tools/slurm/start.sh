#!/usr/bin/env bash
# start.sh [NODES=2] [CPUS_PER_NODE=1]: a real SLURM of NODES virtual nodes n1..nN on this one host.
# See README.md beside this file. Idempotent; stop.sh undoes everything but the installation.
set -euo pipefail
NODES=${1:-2}
CPUS=${2:-1}
DIR=${SWAMP_SLURM_DIR:-${TMPDIR:-/tmp}/swamp-slurm}
MEMORY=${SWAMP_SLURM_NODE_MB:-8192}
REQUEUE_DELAY=${SWAMP_SLURM_REQUEUE_DELAY:-5}
HOST=$(hostname -s)
MARK="# swamp-slurm"
HERE=$(cd "$(dirname "$0")" && pwd)

fail() { echo "start.sh: $*" >&2; exit 1; }
alive() { [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]; } # pid file, command
[[ $NODES =~ ^[1-9][0-9]*$ && $CPUS =~ ^[1-9][0-9]*$ ]] || fail "usage: start.sh [NODES] [CPUS_PER_NODE], both whole numbers; found: $*"
[ "$(id -u)" = 0 ] || fail "must run as root: it installs packages and starts daemons"

# -- install ---------------------------------------------------------------------------------------
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || fail "slurmctld, slurmd and munged are not all installed, and there is no apt-get to install them"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
if [ -e /etc/slurm/slurm.conf ] && [ "$(readlink -f /etc/slurm/slurm.conf)" != "$(readlink -f "$DIR/slurm.conf")" ] \
    && timeout 10 scontrol ping 2>/dev/null | grep -q ' is UP'; then
    fail "this host belongs to a running cluster (/etc/slurm/slurm.conf is not ours): refusing to replace it"
fi
install -d -m 0755 "$DIR" "$DIR/log" "$DIR/run" "$DIR/saved" /etc/slurm

# -- munge: the daemons trust each other by its key ------------------------------------------------
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none
chown munge:munge /etc/munge/munge.key
chmod 400 /etc/munge/munge.key
install -d -o munge -g munge -m 0755 /run/munge # without systemd nobody makes it
if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
    rm -f /run/munge/munge.socket.2 /run/munge/munged.pid
    setpriv --reuid munge --regid munge --init-groups munged </dev/null >/dev/null 2>&1
    cp /run/munge/munged.pid "$DIR/run/munged.pid" 2>/dev/null || true # stop.sh ends only what was started here
    for _ in $(seq 50); do munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && break; sleep 0.1; done
    munge -n | unmunge >/dev/null || fail "munged does not answer"
    [ -s "$DIR/run/munged.pid" ] || cp /run/munge/munged.pid "$DIR/run/munged.pid"
fi

# -- slurm.conf ------------------------------------------------------------------------------------
ports=17001
[ "$NODES" = 1 ] || ports="[17001-$((17000 + NODES))]"
names=n1
[ "$NODES" = 1 ] || names="n[1-$NODES]"
new=$(mktemp)
cat > "$new" <<CONF
ClusterName=swamp
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Also how long a requeued job waits before it may start again (120 s if not given).
AuthInfo=cred_expire=$REQUEUE_DELAY
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool-%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
# Works without cgroups; sizes of nodes are promised, not enforced.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobAcctGatherFrequency=0
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
InactiveLimit=0
# Seconds between SIGTERM and SIGKILL: a step and a commit have to fit in.
KillWait=15
UnkillableStepTimeout=60
PropagateResourceLimits=NONE
JobRequeue=1
NodeName=$names NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$ports CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEMORY State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
if ! cmp -s "$new" "$DIR/slurm.conf"; then
    [ ! -e "$DIR/slurm.conf" ] || "$HERE/stop.sh" --keep-munge
    rm -rf "$DIR/state" # of another set of nodes
    cp "$new" "$DIR/slurm.conf"
    chmod 644 "$DIR/slurm.conf"
fi
rm -f "$new"
install -d "$DIR/state" "$DIR/saved"
if [ "$(readlink /etc/slurm/slurm.conf || true)" != "$DIR/slurm.conf" ]; then
    if [ -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ]; then
        mv /etc/slurm/slurm.conf "$DIR/saved/slurm.conf" # stop.sh puts it back
    fi
    ln -s "$DIR/slurm.conf" /etc/slurm/slurm.conf # clients and jobs find it unasked
fi
others=$(grep -v "$MARK\$" /etc/hosts || true)
printf '%s\n127.0.0.1%s %s\n' "$others" "$(for i in $(seq "$NODES"); do printf ' n%s' "$i"; done)" "$MARK" > "$DIR/hosts"
cat "$DIR/hosts" > /etc/hosts # in place: it may be a mount

# -- daemons: with no descriptor of the caller's, or a pipe that waits for its end would hang -------
alive "$DIR/run/slurmctld.pid" slurmctld || slurmctld </dev/null >/dev/null 2>&1
for _ in $(seq 100); do scontrol ping 2>/dev/null | grep -q ' is UP' && break; sleep 0.1; done
for i in $(seq "$NODES"); do
    install -d "$DIR/spool-n$i"
    alive "$DIR/run/slurmd-n$i.pid" slurmd || slurmd -N "n$i" </dev/null >/dev/null 2>&1
done
up=0
for _ in $(seq 600); do
    up=$(sinfo -h -N -o '%t' 2>/dev/null | grep -cE '^(idle|mix|alloc|comp)$' || true)
    [ "$up" = "$NODES" ] && break
    sinfo -h -N -o '%N %t' 2>/dev/null | awk '$2 ~ /^(down|drain|drng|fail)/ {print $1}' \
        | while read -r node; do scontrol update nodename="$node" state=resume 2>/dev/null || true; done
    sleep 0.1
done
[ "$up" = "$NODES" ] || fail "only $up of $NODES nodes came up; see $DIR/log"
echo "SLURM with $NODES nodes ($names, $CPUS CPUs each) is up; state in $DIR"
