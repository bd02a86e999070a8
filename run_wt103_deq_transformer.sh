#!/usr/bin/env bash
# The published DEQ-Transformer on WikiText-103:
#
#   bash run_wt103_deq_transformer.sh train [more flags]
#   bash run_wt103_deq_transformer.sh eval --load FILE.pkl [more flags]
#   bash run_wt103_deq_transformer.sh train --restart --restart_dir FOLDER [more flags]    goes on with a run
#   bash run_wt103_deq_transformer.sh eval --restart_dir FOLDER [more flags]               evaluates it
#   bash run_wt103_deq_transformer.sh train --help                                         lists all flags
#
# 97.7 M parameters, 71.2 M in injection and cell.
# Flags given here come after the published ones and so take their place. With --restart_dir the published ones are
# left out: a run has its settings. Uses .venv/bin/python where it exists, else $PYTHON or python3, which needs
# PyTorch. Paths in the flags are relative to the caller's folder.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

ask_for_huge_pages # for the gradients of so many words

settings=(
    --data "$root/data/wikitext-103" --dataset wt103
    --adaptive --div_val 4
    --n_layer 2 --eval_n_layer 24
    --d_embed 700 --d_model 700 --n_head 10 --d_head 70 --d_inner 48000
    --dropout 0.05 --dropatt 0.0
    --optim Adam --lr 0.00025 --warmup_step 16000 --pretrain_steps 16000
    --eval-interval 5000 --max_step 300000
    --tgt_len 150 --mem_len 150 --eval_tgt_len 150
    --wnorm
    --solver broyden --stop_mode rel --f_thres 25 --b_thres 35
    --batch_size 56 --gpu0_bsz 14 --multi_gpu
)

settings_of_eval=(--f_thres 30 --mem_len 300 --pretrain_steps 0) # as the published model was evaluated

train_or_eval train_transformer.py "$@"
