"""Where an exchange stands.

    state         what is going on                          leaves by
    ------------  ----------------------------------------  -------------------------------------------------------
    ROUTING       the head is here, nothing was sent        begin: DISPATCHED, WAITING_BODY, or an answer of our own
    WAITING_BODY  a body is announced, and none has come,   on_request_data, on_deadline: DISPATCHED
                  or not all that says where it should go
    WAITING       in the queue of a cluster without a free  on_admitted: DISPATCHED; on_refused: a 503
                  endpoint, or in the pause before a retry
    DISPATCHED    an endpoint is chosen; connecting, or     on_reply_data: REPLYING, SWITCHED
                  the request is on its way                 fail, on_upstream_lost, a reply that is a failure: WAITING,
                                                            for another endpoint; or a 502
    REPLYING      the reply's head has gone to the client   on_reply_data, on_reply_eof: DONE
    SWITCHED      101 was relayed; a Tunnel has taken over  on_tunnel_end: DONE
    DONE          ended; whatever comes late is ignored

From any state: on_client_gone ends it as CLIENT_GONE, on_deadline with the reason of the deadline. Before REPLYING a
failure becomes a response; from then on it cuts the connection, so that no reply looks complete that is not.
"""

from enum import Enum


class State(Enum):
    """A row of the table."""

    ROUTING = "routing"
    WAITING_BODY = "waiting_body"
    WAITING = "waiting"
    DISPATCHED = "dispatched"
    REPLYING = "replying"
    SWITCHED = "switched"
    DONE = "done"
