"""What proves the claims: the benchmark, the figures, the evaluation. Run as `python -m reproduce.<name>`."""
