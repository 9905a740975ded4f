"""`homeport demo`: the whole thing on one machine: sample data services as local processes and a short load.

The parts: `sample` has the bytes and answers that services send and the load checks, `service` is the sample
data service, `processes` keeps children from outliving the demo, `load` sends requests, `stats` counts,
`report` is what people read, and `run` puts them together.
"""


def run_demo(duration_s: float = 10.0) -> int:
    """Run the demo with `duration_s` seconds of load (1 to 86400) and return the exit code; blocks.

    0: no request failed and every checksum was right. 1: not so, or something did not start. 2: a bad
    duration. Call it on the main thread: it handles signals.
    """
    # Imported here so that `python -m proxy.demo.service` starts without the demo's own libraries.
    from proxy.demo.run import main

    return main(duration_s)
