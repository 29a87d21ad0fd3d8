"""The HTTP server: requests of many clients, answered together by one model.

    service    a request's way from body to answer
    batcher    windows of all requests, computed together; schedule and cost decide which
    worker     the model, in a process of its own
    app        routes; around: keys, headers, log; body: what is read of a request, and how much
    admission  whether a request can be answered in time
    connection bounds of one connection; page and openapi: what people and tools see
    metrics    for Prometheus; logs: JSON Lines
    graph      the model converted for a faster engine while the server starts
    run        listening and stopping

SIGTERM stops accepting, answers what was accepted and exits with 0. While the model loads, or when
it cannot, ``/ping`` is 503 and says why.
"""
