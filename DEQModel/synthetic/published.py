"""Published figures of the tasks, to compare with: test loss in nats, a mean over all positions."""

# (task, T, model) -> loss; Bai, Kolter and Koltun, arXiv 1909.01377, table 1
PUBLISHED = {
    ("copy_memory", 400, "deq_transformer"): 3.5e-6,
    ("copy_memory", 400, "tcn"): 2.7e-5,
    ("copy_memory", 400, "lstm"): 0.0501,
    ("copy_memory", 400, "gru"): 0.0491,
}
