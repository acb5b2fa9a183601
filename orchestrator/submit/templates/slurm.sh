#!/bin/bash
@@DIRECTIVES@@

# A Ray cluster of this job's own. Its processes are this script's: nothing else of yours on these nodes is touched.
set -euo pipefail
umask 077
cd -- @@PROJECT@@
@@PATH_LINE@@
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS

# Ray listens on every interface: only who knows the token may use it. It travels in the environment, never in a
# command line, which every user of the node can read.
RAY_AUTH_TOKEN=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1

# shellcheck disable=SC2054 # commas inside of a word
in_container=(@@CONTAINER@@)
one_node=(srun --export=ALL --overlap --nodes=1 --ntasks=1)
# Short, as paths of sockets are; a name that nobody can take before.
scratch=/tmp/golf-$SLURM_JOB_ID-$(od -An -v -N4 -tx1 /dev/urandom | tr -d ' \n')

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
mapfile -t nodes <<<"$nodes"
head=${nodes[0]}
# Some hosts know themselves under a loopback address, which other nodes cannot reach.
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }') || true
if [[ -z $address ]]; then
    if ((${#nodes[@]} > 1)); then
        echo "error: $head: no address that other nodes could reach; ask for the cluster's name service" >&2
        exit 2
    fi
    address=127.0.0.1
fi

# The script runs on the head: a port that refuses here is free. Jobs that share a node begin their search apart.
port=$((20000 + SLURM_JOB_ID % 1000 * 8))
while (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; do
    port=$((port + 1))
done

steps=()
# shellcheck disable=SC2317 # the trap calls it
finish() {
    trap - EXIT TERM INT
    if ((${#steps[@]})); then
        kill -TERM "${steps[@]}" 2>/dev/null || true
        for ((i = 0; i < 150; i++)); do
            kill -0 "${steps[@]}" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL "${steps[@]}" 2>/dev/null || true
        wait "${steps[@]}" 2>/dev/null || true
    fi
    timeout 60 srun --export=ALL --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 \
        rm -rf -- "$scratch" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

ray_options=(--block --num-cpus=@@CPUS@@ --num-gpus=@@GPUS@@ --temp-dir="$scratch" --disable-usage-stats)
"${one_node[@]}" --nodelist="$head" --cpus-per-task=@@CPUS@@ "${in_container[@]}" \
    ray start --head --node-ip-address="$address" --port="$port" --ray-client-server-port=$((port + 4)) \
    --include-dashboard=false "${ray_options[@]}" &
steps+=($!)

deadline=$((SECONDS + @@START_S@@))
while :; do
    (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null && break
    if ! kill -0 "${steps[0]}" 2>/dev/null; then
        echo "error: Ray's head ended on $head; see above" >&2
        exit 1
    fi
    if ((SECONDS >= deadline)); then
        echo "error: Ray's head did not start on $head within @@START_S@@ s" >&2
        exit 1
    fi
    sleep 0.2
done

others=$((${#nodes[@]} - 1))
if ((others)); then
    # A node that is lost takes its own gang with it, and no other.
    srun --export=ALL --overlap --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" \
        --kill-on-bad-exit=0 --wait=0 --cpus-per-task=@@CPUS@@ "${in_container[@]}" \
        ray start --address="$address:$port" "${ray_options[@]}" &
    steps+=($!)
fi

driver=("${one_node[@]}" --nodelist="$head" --cpus-per-task=1 "${in_container[@]}")
"${driver[@]}" python -m orchestrator.submit.entry "$address:$port" "${#nodes[@]}" @@START_S@@ &
steps+=($!)
wait "${steps[-1]}"
unset 'steps[-1]'

# Sixty seconds before the time is up Slurm sends TERM here: the run is told, and writes down what it has.
"${driver[@]}" @@RUN@@ --address "$address:$port" &
run=$!
steps+=("$run")
told=0
trap 'told=1; kill -TERM "$run" 2>/dev/null || true' TERM INT
status=0
wait "$run" || status=$?
while ((told)); do
    told=0
    # The signal ended the waiting, not the run.
    again=0
    wait "$run" || again=$?
    if ((again != 127)); then status=$again; fi
done
unset 'steps[-1]'
exit "$status"
