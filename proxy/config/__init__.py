"""The configuration: YAML in, a checked `Config` or every fault with its place out, and the snapshot made of it.

`load` is the way in and `build` the way out. Between them: `document` (YAML with places), `interpolate` (`${…}`),
`schema` and `route_schema` (the models), `kinds` over `values`, `addresses` and `http_values` (scalars), `checks` (what
concerns several keys), `faults` (how it is told).
"""
