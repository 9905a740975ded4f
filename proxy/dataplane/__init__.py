"""The request path: protocol callbacks around one state machine per exchange.

request_head reply_head   heads: validated, scanned for what matters, the rest passed on as bytes     pure
request_faults            why bytes are no acceptable request                                         pure
headers                   what both have in common: picking fields out, trailers                      pure
framing                   bodies by length, chunked, and up to the end of the connection              pure
compose forwarding        heads as they go out; who the client is                                     pure
responses                 what Homeport answers itself                                                pure
upload stall              how fast a client sends and takes; a stalled or half-closed one             pure
wire                      a transport of either side, with what waits to be written to it
downstream                one client connection: finds heads, keeps order, lingers on close
exchange states           one request and its reply: the state machine
facts                     its route, its client's rate, what endpoints are chosen by
reply                     what the client gets, and what becomes of its connection
delivery                  its lease and connection, and what was sent
tries                     the queue, failures, pauses, other endpoints
tunnel relay              both directions after a 101; the events of both sides
upstream pool             one connection to an endpoint; those that are idle, and new ones
outbox                    small writes of one turn, sent together
listener                  accepting, with a cap derived from the descriptor limit
plane                     what the connections of a worker share; the tick that watches deadlines
"""
