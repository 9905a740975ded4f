"""Services that hold data, and who sends requests where their data are: other proxies and policies compared.

trace       the requests of a scenario, fixed in advance
physics     an endpoint: slots, a line, a cache; pure
simulation  a trace run through a policy in virtual time
policies    what other proxies do, and bounds that know everything
figures     hit ratio, mean, quantiles of a run
"""
