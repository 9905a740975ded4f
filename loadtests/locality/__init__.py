"""Services that hold data, and who sends requests where their data are: Homeport, other proxies, and policies compared.

Run as `python -m loadtests.locality`. Waiting is all that services do, so several proxies can be measured at once on
two cores, each with services and load of its own.

    trace        the requests of a scenario, fixed in advance
    physics      an endpoint: slots, a line, a cache; pure
    simulation   a trace run through a policy in virtual time
    policies     what other proxies do, and some that know everything
    homeport     what Homeport does
    decision     what a decision of Homeport costs
    figures      hit ratio, mean, quantiles of a run
    service      the endpoints of a run as a process
    load         a trace sent to a proxy as a process
    peers        every proxy and its configuration
    calibration  the rate that the other proxies bear
    bench        the runs
    results      medians, ratios, targets
    report       tables, JSON, picture
"""
