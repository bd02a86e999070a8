"""Flags of tiny models that solve nothing, and of their training."""

WIDTHS = "--n_head 2 --d_head 4 --d_model 8 --d_inner 16"
XL = f"--arch transformer_xl --n_layer 2 {WIDTHS}"
CELL = f"--depth 3 {WIDTHS}"
COURSE = (
    "--batch_size 4 --tgt_len 8 --eval_tgt_len 8 --mem_len 8 --lr 0.01 --max_step 4 --log-interval 2 --eval-interval 2"
)
