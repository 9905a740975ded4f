"""The request path: protocol callbacks around one state machine per exchange.

headers     heads of requests and replies: validated, scanned for what matters, the rest passed on as bytes  pure
framing     bodies by length, chunked, and up to the end of the connection                                   pure
forwarding  X-Forwarded-*, Forwarded, Via, X-Request-Id                                                      pure
responses   what Homeport answers itself                                                                     pure
downstream  one client connection: reads heads, keeps order, lingers on close
exchange    one request and its reply: the state machine
upstream    one connection to an endpoint
pool        an endpoint's idle connections, and new ones
tunnel      both directions after a 101
listener    accepting, with a cap derived from the descriptor limit
plane       what the connections of a worker share; the tick that watches deadlines
"""
