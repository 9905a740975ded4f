"""What users notice when containers end, are replaced and multiply, at a real Docker Engine.

The parts: `engine` has the engine, or one of its own, and the image of `service.c`; `fleet` is a daemon with containers
that it starts; `by_hand`, `deploys`, `sizes` and `restarts` are what is done to them; `__main__` prints the table.
"""
