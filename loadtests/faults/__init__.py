"""What users notice of each fault: see `__main__`.

`catalogue` lists the scenarios, each a function from a `bench.Bench` to an `outcome.Outcome`; they are in `reloads`,
`posts`, `attacks`, `one_of_three`, `overload` and `crowds`. Processes of their own, so that no measurement disturbs
another: `endpoint` (answers, and fails on demand), `mortal` (an endpoint that is killed again and again), `pace` (a
client that sends at its own rate), `slow` (thousands of clients that take their time). `records` is what `pace` saw.
"""
