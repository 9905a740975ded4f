"""A day of load in virtual time: what Homeport's scaler costs, and what requests feel of it.

Run as `python -m loadtests.scaling`. Compared with a fleet that is fixed at the peak, and with one that follows CPU
alone.

    day         when requests come and how long they take
    simulation  a day through a fleet whose size a scaler decides
    scalers     the fixed fleet, CPU alone, Homeport
    results     medians, ratios, targets
    report      tables and JSON
"""
