#!/bin/bash
# One run of malmoi on the nodes of a Slurm job: Ray starts with the job and ends with it.
#
# Cost     what your site charges for the nodes, from start to end of the job. `sacct -j JOBID` tells the time used.
# Needs    malmoi (with the extra `cluster`) in an environment that every node sees, and recipe paths on the shared file
#          system. Change the #SBATCH lines to what you have.
#   up and submit   sbatch --nodes=4 --cpus-per-task=32 clusters/slurm.sh recipe.yaml [KEY=VALUE]...
#   watch           tail -f malmoi-JOBID.out
#   down            scancel JOBID            the same sbatch goes on from the finished parts
#SBATCH --job-name=malmoi
#SBATCH --output=malmoi-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
set -euo pipefail

# Where the environment is; `source` of a venv is as good. COMMAND=train runs a training recipe.
[ -z "${MALMOI_ENV:-}" ] || export PATH="$MALMOI_ENV/bin:$PATH"
COMMAND=${COMMAND:-run}
[ $# -ge 1 ] || { echo "usage: sbatch clusters/slurm.sh RECIPE [KEY=VALUE]..." >&2; exit 2; }

# Nodes may be shared with other people: only who knows this job's token may use its Ray.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
address=
for found in $(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address); do
  case $found in *:*) ;; *) address=$found; break ;; esac # IPv4
done
# Ports and folder of this job alone; a socket's path may not be longer than 107 bytes.
port=$((20000 + SLURM_JOB_ID % 20000))
folder=/tmp/ray-$SLURM_JOB_ID
common="--num-cpus=$SLURM_CPUS_PER_TASK --temp-dir=$folder --min-worker-port=0 --max-worker-port=0
  --dashboard-agent-listen-port=$((port + 1)) --object-store-memory=1000000000 --block"

echo "head $head ($address:$port), $SLURM_JOB_NUM_NODES nodes of $SLURM_CPUS_PER_TASK CPUs"
srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false \
  --ray-client-server-port=$((port + 2)) $common > "ray-head-$SLURM_JOB_ID.log" 2>&1 &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  for second in $(seq 120); do
    (echo > "/dev/tcp/$address/$port") 2> /dev/null && break
    sleep 1
  done
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    ray start --address="$address:$port" $common > "ray-workers-$SLURM_JOB_ID.log" 2>&1 &
fi
# Slurm ends the steps with the job; elsewhere than under Slurm they are ended here.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

export RAY_ADDRESS=$address:$port
python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time, ray
deadline = time.monotonic() + 300
while True:
    try:
        if not ray.is_initialized():
            ray.init(logging_level="ERROR", log_to_driver=False)
        alive = sum(node["Alive"] for node in ray.nodes())
    except ConnectionError:
        alive = 0
    if alive >= int(sys.argv[1]):
        break
    if time.monotonic() > deadline:
        sys.exit(f"only {alive} of {sys.argv[1]} nodes joined in 300 s: see ray-head-*.log and ray-workers-*.log")
    time.sleep(2)
PYTHON

case $COMMAND in
  run) shared=(run.shared_filesystem=true) ;;
  train) shared=(workers.shared_filesystem=true) ;;
  *) shared=() ;;
esac
malmoi "$COMMAND" "$@" "${shared[@]}"
