#!/usr/bin/env bash
# Copy memory, from nothing to its table: sets up .venv, trains every model for every T, two runs at a time with one
# thread each, and prints their losses beside the published ones. What is finished already is not trained again, so
# that a call which was interrupted goes on where it was.
#
#   bash run_copy_memory.sh [--seq_len T …] [--out FOLDER] [more flags for train_synthetic.py]
#
# --seq_len: the times between symbols and marker; else 100 200 400. --out: the folder of the figures; else
# copy_memory_runs beside this script. Further flags go to every run, such as --seed 2, or --max_step 50 for a look.
# Environment: PYTHON, the interpreter (3.10 or newer) that makes .venv; else python3. JOBS, runs at a time; else 2.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

models=(deq_transformer deq_trellisnet tcn lstm gru)

if help_is_asked "$@"; then
    show_help
    exit 0
fi

out=$root/copy_memory_runs
numbers=(100 200 400)
refuse_flags "--task --model --table" "$@"
sort_arguments --seq_len "$@"

prepare_environment requirements.txt
program=$root/DEQModel/train_synthetic.py
export OMP_NUM_THREADS=1

# The longest runs begin first. Errors go through a pipe: no bar is drawn there, and two would be over each other.
for ((i = ${#numbers[@]} - 1; i >= 0; i--)); do
    for model in "${models[@]}"; do
        printf '%s\0' "$model" "${numbers[i]}"
    done
done | xargs -0 -n 2 -P "${JOBS:-2}" bash -c '
    "$0" "$1" --task copy_memory --out "$2" "${@:3:$#-4}" --model "${@: -2:1}" --seq_len "${@: -1}" 2> >(cat >&2)
' "$python" "$program" "$out" ${further[@]+"${further[@]}"} || status=$?
[[ -z ${status:-} ]] || stop "not all runs are finished: see above, and call again"
exec "$python" "$program" --table "$out"
