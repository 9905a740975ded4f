"""Load tools: the comparison with other proxies (`python -m loadtests.peers`), a workload for locust."""
