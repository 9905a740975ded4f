"""`homeport demo`: the whole thing on one machine: sample data services that the proxy starts, heals and retires under
a short load.

The parts: `sample` has the bytes and answers that services send and the load checks, `service` is the sample data
service and `cache` its data, `places` runs it as processes or containers, `processes` keeps children from outliving the
demo, `load` sends requests, `story` says when, `watching` asks the proxy what happens, `stats` counts, `report` is what
people read, and `run` puts them together.
"""


def run_demo(duration_s: float, driver: str, image: str) -> int:
    """Run the demo with at least `duration_s` seconds of load (1 to 3600) and return the exit code; blocks. `driver` is
    `process` or `docker`, which makes containers of `image`.

    0: no request failed, and instances were added, replaced and retired. 1: not so, or something did not start. 2: a
    bad duration. Call it on the main thread: it handles signals.
    """
    # Imported here so that `python -m proxy.demo.service` starts without the demo's own libraries.
    from proxy.demo.run import main

    return main(duration_s, driver, image)
