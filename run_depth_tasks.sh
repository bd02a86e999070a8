#!/usr/bin/env bash
# What depth is worth: p-hop induction and state tracking, from nothing to their table. Trains an equilibrium, its cell
# applied 1, 2, 4 and 8 times, and an explicit stack of as many parameters, each with several seeds, one run at a time.
# What is finished already is not trained again, so that a call which was interrupted goes on where it was.
#
#   bash run_depth_tasks.sh [--seeds N …] [--out FOLDER] [more flags for train_synthetic.py]
#
# --seeds: else 1 2 3, an hour in all on one core. --out: the folder of the figures; else depth_tasks_runs beside this
# script. Further flags go to every run, such as --max_step 5 for a look. Environment: PYTHON, the interpreter (3.10 or
# newer) that makes .venv; else python3.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if help_is_asked "$@"; then
    show_help
    exit 0
fi

seeds=()
out=$root/depth_tasks_runs
further=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --seeds)
        shift
        while [[ $# -gt 0 && $1 != --* ]]; do
            [[ $1 =~ ^[0-9]+$ ]] || stop "--seeds $1: pass whole numbers"
            seeds+=("$1")
            shift
        done
        [[ ${#seeds[@]} -gt 0 ]] || stop "--seeds needs a number or more, such as --seeds 1 2"
        ;;
    --out)
        [[ -n ${2:-} ]] || stop "--out needs a folder"
        out=$2
        shift 2
        ;;
    *)
        further+=("$1")
        shift
        ;;
    esac
done
[[ ${#seeds[@]} -gt 0 ]] || seeds=(1 2 3)

prepare_environment requirements.txt
program=$root/DEQModel/train_synthetic.py
export OMP_NUM_THREADS=1

# A jump from few hops or letters to many unlearns all: each stage is a little harder than the one before.
p_hop=(
    --task p_hop --p 8 --seq_len 64 --batch_size 16 --max_step 300 --test_stages --n_test 48
    --curriculum "p=2,4,6 seq_len=32,48,64 batch_size=32,24,16 max_step=350,200,150"
)
state_tracking=(
    --task state_tracking --seq_len 32 --batch_size 32 --max_step 300 --n_test 64
    --curriculum "seq_len=8,16 batch_size=64,48 max_step=400,300"
)
shared=(
    --test_lengths 32 64 128 256 --d_model 64 --n_head 4 --init_std -1 --not_tied
    --optim Muon --lr 0.01 --adam_ratio 0.3 --scheduler trapezoid --warmup_step 30 --clip 1
)
# From 1 to 23 plain steps without a graph, then 6 with one: the state learns to stay right however long it is iterated.
equilibrium=(
    --model deq_transformer --solver fixed_point --f_thres 12 --rand_f_thres_delta 11
    --grad phantom --phantom_steps 6 --phantom_damping 1 --test_solver broyden --test_thresholds 4 8 16 32 64
)

train() {
    "$python" "$program" "$@" --out "$out" ${further[@]+"${further[@]}"} || stop "not all runs are finished: see above, and call again"
}

for seed in "${seeds[@]}"; do
    train "${p_hop[@]}" "${shared[@]}" --seed "$seed" "${equilibrium[@]}" --d_inner 352
    train "${state_tracking[@]}" "${shared[@]}" --seed "$seed" "${equilibrium[@]}" --d_inner 272
    for depth in 1 2 4 8; do
        train "${p_hop[@]}" "${shared[@]}" --seed "$seed" --model deq_transformer --depth "$depth" --d_inner 352
        train "${state_tracking[@]}" "${shared[@]}" --seed "$seed" --model deq_transformer --depth "$depth" --d_inner 272
    done
    train "${p_hop[@]}" "${shared[@]}" --seed "$seed" --model stack --n_layer 3 --d_inner 44
    train "${state_tracking[@]}" "${shared[@]}" --seed "$seed" --model stack --n_layer 3 --d_inner 16
done
exec "$python" "$program" --table "$out"
