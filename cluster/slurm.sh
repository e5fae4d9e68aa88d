#!/bin/bash
# One study on Slurm nodes: a Ray cluster for the time of the job, and the search on it.
#     sbatch cluster/slurm.sh /shared/flowers.yaml /shared/paretune-studies
# Requeued or submitted again, it goes on where it stopped. The storage is on a file system that all nodes share, so the ledger
# must be a server's (ledger: postgresql://... in the study file): SQLite is refused there.
#SBATCH --job-name=paretune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
set -euo pipefail
study=${1:?usage: sbatch slurm.sh STUDY.yaml STORAGE}
storage=${2:?usage: sbatch slurm.sh STUDY.yaml STORAGE}
source "${PARETUNE_VENV:-$HOME/paretune}/bin/activate"

# A token of this job alone, readable by its owner.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN_PATH=$(umask 077 && mktemp "${TOKEN_FOLDER:-$HOME}/.paretune-token.XXXXXX")
export RAY_AUTH_TOKEN_PATH
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 "${resources[@]}" &
for _ in $(seq 120); do ray status --address "$address:$port" >/dev/null 2>&1 && break || sleep 1; done
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head" \
        ray start --address="$address:$port" "${resources[@]}" &
fi

export RAY_ADDRESS="$address:$port"
paretune doctor --storage "$storage" # nodes that come later are looked at when the search starts, or join it
paretune run "$study" --storage "$storage" &
search=$!
trap 'kill -TERM "$search"' TERM # Slurm's warning: everything is durable at once
wait "$search"
