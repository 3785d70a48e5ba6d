"""What is to be measured where there is a GPU; `benchmarks/gpu_suite.py` is its command."""
