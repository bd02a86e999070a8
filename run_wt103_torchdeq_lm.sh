#!/usr/bin/env bash
# TorchDEQ's language model on WikiText-103 (bash get_data.sh wt103), its published state dicts included:
#
#   bash run_wt103_torchdeq_lm.sh train [more flags]
#   bash run_wt103_torchdeq_lm.sh eval --load FILE.pth [more flags]
#   bash run_wt103_torchdeq_lm.sh train --restart --restart_dir FOLDER [more flags]    goes on with a run
#   bash run_wt103_torchdeq_lm.sh eval --restart_dir FOLDER [more flags]               evaluates it
#   bash run_wt103_torchdeq_lm.sh train --help                                         lists all flags
#
# 97.6 M parameters, 71.1 M in injection and cell: pre-LN, three pairs with learned norms. 12 plain steps from zero with
# their exact gradient, and the same 12 in evaluation. Not published, and this project's own: the batch size and the
# learning rate.
#
# Flags given here come after these settings and so take their place. With --restart_dir they are left out: a run has
# its settings. Uses .venv/bin/python where it exists, else $PYTHON or python3, which needs PyTorch. Paths in the flags
# are relative to the caller's folder.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

ask_for_huge_pages # for the gradients of so many words

settings=(
    --data "$root/data/wikitext-103" --dataset wt103
    --adaptive --div_val 4
    --d_embed 700 --d_model 700 --n_head 10 --d_head 70 --d_inner 14800
    --cell_layers 3 --pre_lnorm --norm_affine --heads_norm --wnorm
    --depth 12
    --dropout 0.05 --dropatt 0.0
    --optim Adam --lr 0.00025 --warmup_step 8000
    --eval-interval 5000 --max_step 150000
    --tgt_len 150 --mem_len 150 --eval_tgt_len 150
    --batch_size 56 --multi_gpu
)

settings_of_eval=(--mem_len 480) # as the published model was evaluated

train_or_eval train_transformer.py "$@"
