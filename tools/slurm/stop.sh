#!/usr/bin/env bash
# stop.sh [--keep-munge]: cancel all jobs, end the daemons that start.sh started, and put /etc/hosts and
# /etc/slurm/slurm.conf back. Idempotent. State and logs stay in the folder until the next start.
set -uo pipefail
DIR=${SWAMP_SLURM_DIR:-${TMPDIR:-/tmp}/swamp-slurm}
MARK="# swamp-slurm"
ours() { [ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$DIR/slurm.conf" ]; }
end() { # pid file, command
    [ -s "$1" ] || return 0
    local pid
    pid=$(cat "$1")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]; then
        kill "$pid" 2>/dev/null
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null
    fi
    rm -f "$1"
}
if ours && timeout 10 scontrol ping 2>/dev/null | grep -q ' is UP'; then
    mapfile -t jobs < <(squeue -h -o %i)
    [ ${#jobs[@]} = 0 ] || scancel --signal=KILL --full "${jobs[@]}" 2>/dev/null
    [ ${#jobs[@]} = 0 ] || scancel "${jobs[@]}" 2>/dev/null
    for _ in $(seq 300); do [ -z "$(squeue -h)" ] && break; sleep 0.1; done
fi
for file in "$DIR"/run/slurmd-*.pid; do [ ! -e "$file" ] || end "$file" slurmd; done
end "$DIR/run/slurmctld.pid" slurmctld
[ "${1:-}" = --keep-munge ] || end "$DIR/run/munged.pid" munged
if ours; then
    rm /etc/slurm/slurm.conf
    [ ! -e "$DIR/saved/slurm.conf" ] || mv "$DIR/saved/slurm.conf" /etc/slurm/slurm.conf
fi
if grep -q "$MARK\$" /etc/hosts; then
    kept=$(grep -v "$MARK\$" /etc/hosts)
    printf '%s\n' "$kept" > /etc/hosts
fi
exit 0
