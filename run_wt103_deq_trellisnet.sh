#!/usr/bin/env bash
# The published DEQ-TrellisNet on WikiText-103 (bash get_data.sh wt103):
#
#   bash run_wt103_deq_trellisnet.sh train [more flags]
#   bash run_wt103_deq_trellisnet.sh eval --load FILE.pkl [more flags]
#   bash run_wt103_deq_trellisnet.sh train --restart --restart_dir FOLDER [more flags]    goes on with a run
#   bash run_wt103_deq_trellisnet.sh eval --restart_dir FOLDER [more flags]               evaluates it
#   bash run_wt103_deq_trellisnet.sh train --help                                         lists all flags
#
# 174.2 M parameters, 40.0 M in the convolutions (published as 180 M and 45 M). Not published, and this project's own:
# --max_step and the warm-up. Flags given here come after these settings and so take their place. With --restart_dir
# they are left out: a run has its settings. Uses .venv/bin/python where it exists, else $PYTHON or python3, which needs
# PyTorch. Paths in the flags are relative to the caller's folder.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

ask_for_huge_pages # for the gradients of so many words

settings=(
    --data "$root/data/wikitext-103" --dataset wt103
    --adaptive
    --n_layer 40 --eval_n_layer 40
    --d_embed 500 --nhid 1500 --nout 500 --ksize 2
    --wnorm --dropout 0.1 --dropouti 0.1 --dropouth 0.1
    --optim Adam --lr 0.001 --clip 0.07 --warmup_step 4000 --pretrain_steps 30000
    --eval-interval 5000 --max_step 300000
    --seq_len 100 --eval_tgt_len 100
    --solver broyden --stop_mode rel --f_thres 45 --b_thres 45
    --batch_size 49 --multi_gpu
)
settings_of_eval=(--pretrain_steps 0)

train_or_eval train_trellisnet.py "$@"
