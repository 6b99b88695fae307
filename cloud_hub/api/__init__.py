"""The hub over HTTP, for operators and devices: thin routes around the use cases of the other packages.

One module per noun holds its routes; their requests and answers are the models of `fleet/api/NOUN.py`. Around them:
access   the callers that a route takes, by kind of credential and role
bodies   reading and checking a JSON body    params   names and numbers in paths and queries
errors   each refusal's status and document  openapi  the document of all operations
limits, guard   what is refused before any route: bodies too large, NUL characters
docs     the page of the document
"""
