#!/usr/bin/env bash
# What depth is worth: p-hop induction and state tracking, from nothing to their table. Trains an equilibrium, its cell
# applied 1, 2, 4 and 8 times, and an explicit stack of as many parameters, each with several seeds, one run at a time.
# What is finished already is not trained again, so that a call which was interrupted goes on where it was.
#
#   bash run_depth_tasks.sh [--seeds N …] [--out FOLDER] [more flags for train_synthetic.py]
#
# --seeds: else 1 2 3, an hour in all on one core. --out: the folder of the figures; else depth_tasks_runs beside this
# script. Further flags go to every run, such as --curriculum "max_step=5" --max_step 5 for a look. Environment: PYTHON,
# the interpreter (3.10 or newer) that makes .venv; else python3.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if help_is_asked "$@"; then
    show_help
    exit 0
fi

out=$root/depth_tasks_runs
numbers=(1 2 3)
refuse_flags "--task --model --table --depth --test_stages" "$@"
sort_arguments --seeds "$@"

prepare_environment requirements.txt
program=$root/DEQModel/train_synthetic.py
export OMP_NUM_THREADS=1

# A jump from few hops or letters to many unlearns all: each stage is a little harder than the one before.
p_hop=(--task p_hop --test_stages --curriculum "p=2,4,6 seq_len=32,48,64 batch_size=32,24,16 max_step=350,200,150")
state_tracking=(--task state_tracking --curriculum "seq_len=8,16 batch_size=64,48 max_step=400,300")
models=("deq_transformer --test_thresholds 4 8 16 32 64" "stack")
for depth in 1 2 4 8; do models+=("deq_transformer --depth $depth"); done

train() {
    "$python" "$program" "$@" --test_lengths 32 64 128 256 --out "$out" ${further[@]+"${further[@]}"} ||
        stop "not all runs are finished: see above, and call again"
}

for seed in "${numbers[@]}"; do
    for model in "${models[@]}"; do
        # shellcheck disable=SC2086 a model's words are several
        train "${p_hop[@]}" --seed "$seed" --model $model
        # shellcheck disable=SC2086
        train "${state_tracking[@]}" --seed "$seed" --model $model
    done
done
exec "$python" "$program" --table "$out"
