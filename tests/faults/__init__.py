"""Training runs that are broken on purpose, and what becomes of them: `benchmarks/fault_trials.py` and test_faults.py."""
