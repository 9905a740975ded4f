"""Load tools: the comparison with other proxies (`python -m loadtests.peers`), the costs of
our own (`python -m loadtests.costs`), a workload for locust."""
