"""Training runs that are broken on purpose, for test_faults.py and `benchmarks/fault_trials.py`."""
