"""Whole data sets: pictures in, shards of attributions out, begun once and gone on with."""

from .items import Item, Items
from .job import Job
from .reader import Result, Results, results
from .run import Begun, begin, explain_dataset, finish, job_of
from .sources import find_items
from .summary import JobSummary
from .worker import JobStopped, ShardReport, ShardWorker

__all__ = [
    "Begun",
    "Item",
    "Items",
    "Job",
    "JobStopped",
    "JobSummary",
    "Result",
    "Results",
    "ShardReport",
    "ShardWorker",
    "begin",
    "explain_dataset",
    "find_items",
    "finish",
    "job_of",
    "results",
]
