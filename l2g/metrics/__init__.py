"""Metrics that equal the official evaluators: `vis_ap` (YouTube-VIS, OVIS), `vpq` and `stq` (VIPSeg). No torch here.

Each module is a library function and a command: `python -m l2g.metrics.vis_ap --help`.
"""
