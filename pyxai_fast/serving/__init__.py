"""Models behind HTTP that explain themselves: `pyxai-fast serve`.

Layers, none of which knows the one before: `server` (a process), `app` (HTTP), `questions` and
`answers` (what is in bodies), `service` (a model and its methods), `micro_batcher` (queues).
"""
