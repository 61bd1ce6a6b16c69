"""Pipelines: a file, the graph that it stands for, and a supervisor that runs it.

``yaml_text`` and ``keys`` read a ``pipeline_file``, ``plan`` puts it together with the code of its
steps, ``graph`` checks and draws it. ``supervisor`` and ``scaling`` are the pure core of
``running``, which starts workers by ``launchers``; ``watching`` asks the node how they go.
``control`` and ``state_folder`` let others of the same user reach one that runs, ``declaring`` lets
all see it.
"""
