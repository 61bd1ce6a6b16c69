"""Faults of the native lane: processes with the public client at work while everything breaks.

Writers and readers are processes of their own (`actor`), some behind a `Proxy` that cuts their
connections. They tell what they do on a pipe (`processes`), into the history of the test. `rounds`
kills, freezes and cuts, and has a fresh reader look at the end (`readback`).
"""
