"""Metrics that equal the official evaluators: `vis_ap` (YouTube-VIS, OVIS), `vpq` and `stq` (VIPSeg). No torch here.

Each module is a library function; the commands are `l2g metrics vis-ap`, `l2g metrics vpq` and `l2g metrics stq`.
"""
