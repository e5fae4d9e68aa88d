"""What a configuration costs: parameters and operations by counting, latency and memory by measuring."""
