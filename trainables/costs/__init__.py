"""The costs of a configuration: counted parameters and operations, measured latency and memory."""
