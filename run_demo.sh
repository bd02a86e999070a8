#!/usr/bin/env bash
# From nothing to a trained DEQ-Transformer: sets up .venv, fetches the demo corpus, trains a small model through its
# shallow stage into its equilibrium stage, and evaluates it. A second call sets nothing up again.
#
#   bash run_demo.sh [more flags for train_transformer.py]
#   bash run_demo.sh --data FOLDER --name mine [more flags]                       trains on your own text
#   bash run_demo.sh --restart --restart_dir LM-TFM-deq-text/demo [more flags]    goes on with a run
#   bash run_demo.sh --eval --restart_dir LM-TFM-deq-text/demo [more flags]       evaluates it
#
# Flags given here come after the demo's own and so take their place. With --restart_dir the demo's own are left out:
# a run has its settings. All flags, once .venv is there: .venv/bin/python DEQModel/train_transformer.py --help
# Environment: PYTHON, the interpreter (3.10 or newer) that makes .venv; else python3.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if help_is_asked "$@"; then
    show_help
    exit 0
fi
refuse_files train_transformer.py "$@"
prepare_environment requirements.txt
if ! names_a_run "$@"; then
    if [[ " $* " != *" --data"[\ =]* ]]; then
        for split in train valid test; do
            if [[ ! -s $root/data/demo/$split.txt ]]; then
                PYTHON=$python bash "$root/get_data.sh" demo
                break
            fi
        done
    fi
    set -- --data "$root/data/demo" --dataset text --work_dir "$root/LM-TFM-" --name demo \
        --adaptive --cutoffs 2000 5000 --div_val 2 --wnorm \
        --d_model 128 --n_head 4 --d_head 32 --d_inner 512 --dropout 0.05 \
        --n_layer 3 --eval_n_layer 3 --solver broyden --f_thres 16 --b_thres 16 --jac_loss_weight 0.1 \
        --jac_loss_freq 0.5 --batch_size 8 --tgt_len 64 --mem_len 64 --eval_tgt_len 64 \
        --optim Adam --lr 0.0015 --warmup_step 100 --pretrain_steps 1200 --max_step 2400 \
        --log-interval 100 --eval-interval 600 --sample 80 "$@"
fi
exec "$python" "$root/DEQModel/train_transformer.py" "$@"
