"""Homeport: a sidecar reverse proxy and load balancer for data-processing containers.

Map of the package, from the pure core outwards; imports point from the bottom of this list to its top only.

    model errors snapshot   shared words, the error tree, the immutable picture that workers serve from
    clock tasks             the only access to time and to tasks
    policy/                 pure decisions: routes, pickers
    scoreboard              gauges and counters in single-writer rows
    columns answer_words    what answers are counted by, and where
    listener_counts         which of a worker's connections came by which listener
    mailbox listening       messages with descriptors between processes; listening sockets
    permits                 permits, connections and trials of endpoints, exact over all workers by kernel locks
    children systemd        child processes; what a service manager wants to hear
    inquiry                 what control asks workers to explain, and their answers, as messages
    key_function            a site's own functions that find data keys, by name
    snapshot_codec          snapshots as bytes
    handover                what a parent hands to the program that takes its place
    workforce supervisor    the parent's part: worker slots; the loop that starts and replaces
    tls                     certificates and keys to the contexts that connections are made with
    drivers/                instances and what they are made from: containers, local processes
    config/                 the YAML file: models, faults with line and column, the snapshot made from it
    telemetry/              metrics and status over the scoreboard, the access log
    endpoint surroundings   endpoints and leases of a worker; what it knows of the others
    standings trials        which endpoints are usable; single requests to those whose circuit is open
    connections             how many connections there are to an endpoint over all workers
    holding                 how long permits are held, over all workers
    waiting                 the queue of a cluster over all workers
    cluster clusters table  mutable state of a worker: who gets a request; compiled routes
    explanation             a worker's answer to where a request would go, and why
    dataplane/              the request path: protocol callbacks around one state machine per exchange
    controlplane/           names, discovery, certificates, health, circuits, scaling: what becomes of endpoints, and
                            events
    admin/                  the admin API and its client
    composition             the control plane as a whole: from the configuration to snapshots
    parent control worker   a process each: parent, control plane, data plane
    cli                     flags, exit codes, output for people
    demo/                   `homeport demo`: sample services, load, what happens, summary

The data plane reaches none of the control plane's libraries; import-linter checks it.
"""

__version__ = "0.1.0"
