"""Homeport and other proxies side by side, with equal duties, on one core each: what does a request cost?

Run as `python -m loadtests.peers`. CPU time per request is the first figure because it holds on a machine
that others use too: requests per second and latencies move with whatever else runs, CPU time much less.

    processes   start pinned, CPU time and memory of a process tree, always clean up
    origin      the nginx that all proxies forward to
    configs     the configuration of every proxy
    proxies     every proxy: is it installed, its version, its command
    compiled    the compiled build of Homeport, made when it is measured
    rows        what is measured; the requests as they stand on the wire
    load paced  closed-loop load by wrk; a paced client for latency at a given rate
    verify      before timing: are the bytes and the forwarding headers right
    memory      idle connections, stalled readers
    bench       the alternating rounds
    results     medians, ratios, targets
    report      tables, JSON, picture
"""
