#!/usr/bin/env bash
# Trains on Cloud TPU VMs: one slice, or several joined by the data-centre network.
#
#   experiments/pod/slice.sh create | wait | install | train FLAGS... | log | stop | delete
#   experiments/pod/slice.sh keep FLAGS...    all of it, again whenever the slices are lost
#
# Settings come from the environment; the README beside this file has an example.
set -euo pipefail

: "${NAME:?the name of the queued resource}"
: "${ZONE:?such as us-east5-a}"
: "${BUCKET:?gs://... for code and runs}"
: "${ACCELERATOR:=v5p-32}"         # gcloud compute tpus accelerator-types list
: "${RUNTIME:=v2-alpha-tpuv5}"     # gcloud compute tpus tpu-vm versions list
: "${SLICES:=1}"
: "${CAPACITY:=--spot}"            # or --reserved, or --guaranteed
: "${RESTARTS:=20}"                # of the training command, on slices that are there

queued() {
  gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"
}

everywhere() {  # The same command on every worker of every slice, at once.
  queued ssh --node=all --worker=all --command="$1"
}

create() {
  local nodes=(--node-id="$NAME")
  if ((SLICES > 1)); then
    nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  fi
  queued create --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" \
    "${nodes[@]}" "$CAPACITY"
}

state() {
  queued describe --format='value(state.state)'
}

wait_until_active() {
  local now
  until now=$(state) && [[ $now == ACTIVE ]]; do
    echo "$NAME is ${now:-unknown}"
    if [[ $now == FAILED || $now == SUSPENDED ]]; then
      return 1
    fi
    sleep 60
  done
}

install() {
  local code="$BUCKET/code/$NAME.tar.gz"
  git archive --format=tar.gz HEAD | gcloud storage cp - "$code"
  # The machines' own Python may be too old; uv brings one.
  everywhere "set -e
    rm -rf ~/mhmoe_jax && mkdir ~/mhmoe_jax && cd ~/mhmoe_jax
    gcloud storage cat '$code' | tar xz
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --python 3.12 .venv
    python3 -m uv pip install --quiet --python .venv/bin/python \
      --no-deps --requirement requirements.txt
    python3 -m uv pip install --quiet --python .venv/bin/python \
      --constraint requirements.txt --editable '.[tpu]'"
}

train() {
  local command
  command=$(printf '%q ' experiments/pod/worker.sh "$RESTARTS" \
    .venv/bin/mhmoe train --distributed "$@")
  # Detached, so that it outlives this connection.
  everywhere "cd ~/mhmoe_jax && rm -f ~/train.done
    nohup setsid $command >> ~/train.log 2>&1 < /dev/null &
    echo \$! > ~/train.pid"
}

is_done() {
  queued ssh --node=0 --worker=0 --command='test -e ~/train.done'
}

keep() {
  while true; do
    create
    if wait_until_active; then
      install
      train "$@"
      while [[ $(state) == ACTIVE ]]; do
        if is_done; then
          return
        fi
        sleep 60
      done
    fi
    queued delete --force --quiet
  done
}

case "${1:-}" in
  create) create ;;
  wait) wait_until_active ;;
  install) install ;;
  train) train "${@:2}" ;;
  log) queued ssh --node=0 --worker=0 --command='tail -n 100 -F ~/train.log' ;;
  stop) everywhere "kill -TERM \$(cat ~/train.pid)" ;;
  delete) queued delete --force --quiet ;;
  keep) keep "${@:2}" ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
