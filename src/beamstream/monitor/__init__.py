"""The process behind the page: it samples nodes, keeps some hours of history, draws previews.

It is a client like any other and never part of a node: what it does costs the data path nothing
but what it asks for.
"""
