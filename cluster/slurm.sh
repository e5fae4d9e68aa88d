#!/bin/bash
# One study on Slurm nodes: a Ray cluster for the time of the job, and the search on it.
#     sbatch cluster/slurm.sh /shared/flowers.yaml /shared/paretune-studies
#     scancel --batch --signal=TERM JOB      # stops it; every number of the first lines can be given to sbatch instead: --nodes=8
# Two minutes before its time is over, the search stops and the job queues again: it goes on where it stopped, as it does when
# Slurm requeues it, or when it is submitted again. The storage is on a file system that all nodes share, so the ledger must be a
# server's (ledger: postgresql://... in the study file): SQLite is refused there.
#SBATCH --job-name=paretune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
study=${1:?usage: sbatch slurm.sh STUDY.yaml STORAGE}
storage=${2:?usage: sbatch slurm.sh STUDY.yaml STORAGE}
source "${PARETUNE_VENV:-$HOME/paretune}/bin/activate"

# A token of this job alone, readable by its owner.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN_PATH=$(umask 077 && mktemp "${TOKEN_FOLDER:-$HOME}/.paretune-token.XXXXXX")
export RAY_AUTH_TOKEN_PATH
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

# Which of a node's addresses reaches another machine: neither its own name nor Ray knows that everywhere.
export OWN='import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.connect((sys.argv[1], 9)); print(s.getsockname()[0])'
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # this script runs on the first
last=$(scontrol show node "${nodes[-1]}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
address=$(python -c "$OWN" "$last")
port=$((20000 + SLURM_JOB_ID % 20000))
others=$((${#nodes[@]} - 1))
on=(srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --overlap)
with=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0 --max-worker-port=0
    --disable-usage-stats --block)

"${on[@]}" --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
    ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false "${with[@]}" &
until (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; do # it listens
    kill -0 $! || { echo "Ray's head did not start on ${nodes[0]}" >&2 && exit 1; }
    sleep 1
done
if ((others)); then
    "${on[@]}" --nodes="$others" --ntasks="$others" --exclude="${nodes[0]}" bash -c \
        'exec ray start --address="$1:$2" --node-ip-address="$(python -c "$OWN" "$1")" "${@:3}"' ray "$address" "$port" "${with[@]}" &
fi

export RAY_ADDRESS="$address:$port"
paretune doctor --storage "$storage" # nodes that come later are looked at when the search starts, or join it
paretune run "$study" --storage "$storage" &
search=$!
stop() { # a signal, and everything is durable; then the second word
    trap '' TERM USR1
    kill -TERM "$search" && wait "$search" || code=$?
    "$@" && exit "${code:-0}"
}
trap 'stop true' TERM
trap 'stop scontrol requeue "$SLURM_JOB_ID"' USR1
wait "$search"
